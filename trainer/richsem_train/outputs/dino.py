"""Between the detector and its losses: its outputs for a batch, and the denoising queries that it was shown."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, eq=False)
class DinoOutputs:
    """The outputs for a batch; layers are the decoder's, the last one is final.

    Attributes:
        pred_logits: float32 [L, B, Q, C].
        pred_boxes: float32 [L, B, Q, 4], cxcywh in [0, 1], relative to the picture without padding.
        hidden: [B, Q, E], normed queries of the final layer.
        encoder_logits: float32 [B, Q, C] of the chosen proposals.
        encoder_boxes: float32 [B, Q, 4] of the chosen proposals.
        dn_logits: float32 [L, B, N, C]; this and what follows is of the denoising queries, None without any.
        dn_boxes: float32 [L, B, N, 4].
        dn_hidden: [B, N, E].
    """

    pred_logits: Tensor
    pred_boxes: Tensor
    hidden: Tensor
    encoder_logits: Tensor
    encoder_boxes: Tensor
    dn_logits: Tensor | None = None
    dn_boxes: Tensor | None = None
    dn_hidden: Tensor | None = None


@dataclass(frozen=True, eq=False)
class DenoisingQueries:
    """Queries made of the truth, in groups that don't see each other; N of them a picture.

    A group holds M positive queries, then M negative ones, with M the most objects of any picture of the draw; where a
    picture has fewer, the rest is padding. Draws differ in M and in their number of groups. N is what the largest one
    needs; the last queries of smaller ones are of no group.

    Attributes:
        labels: int64 [B, N], rows of the vocabulary after noise; 0 at padding.
        boxes: [B, N, 4] cxcywh in [0, 1] after noise, relative to the picture without padding; 0.5 at padding.
        padding: bool [B, N], True where a query stands for nothing.
        group: int64 [B, N], counted in each picture; -1 where a query is of none.
        groups: of each picture, their number; 0 where its draw has no object.
        positives: for each picture, indices of the positive queries and of their objects, both int64 [groups * G], on
            the CPU.
    """

    labels: Tensor
    boxes: Tensor
    padding: Tensor
    group: Tensor
    groups: tuple[int, ...]
    positives: tuple[tuple[Tensor, Tensor], ...]

    @property
    def count(self) -> int:
        """Queries a picture, N."""
        return self.labels.shape[1]

    def attention_mask(self, queries: int) -> Tensor:
        """Who must not see whom, with the denoising queries first and so many matching queries behind them.

        Returns:
            bool [B, N + queries, N + queries], True where a row must not see a column: matching queries see no
            denoising ones, since those know the truth; groups don't see each other, nor what is of no group.
        """
        mask_BQQ = functional.pad(self.group[:, :, None] != self.group[:, None], (0, queries, 0, queries))
        mask_BQQ[:, self.count :, : self.count] = True
        return mask_BQQ
