"""The losses of one stage: its queries, layer by layer, against the objects that they answer for."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from richsem_train.losses.dino.matcher import Match
from richsem_train.losses.federated import FederatedClasses
from richsem_train.numerics import cxcywh_to_xyxy, giou
from richsem_train.targets import Target

ALPHA, GAMMA = 0.25, 2.0
"""Of the focal losses."""

_NO_OBJECT = -1


@dataclass(frozen=True, eq=False)
class Truth:
    """The objects of a batch side by side.

    Attributes:
        labels: int64 [G].
        boxes: float32 [G, 4] cxcywh, normalised.
        taught_labels: int64 [G], 0 in pictures without a class loss.
        is_taught: bool [B], whether a picture has a class loss.
        counts: objects of each picture.
    """

    labels: Tensor
    boxes: Tensor
    taught_labels: Tensor
    is_taught: Tensor
    counts: tuple[int, ...]

    @classmethod
    def of(cls, targets: Sequence[Target]) -> "Truth":
        """The objects of B targets."""
        labels_G = torch.cat([target.labels for target in targets])
        taught = [
            target.labels if target.supervision == "labelled" else torch.zeros_like(target.labels) for target in targets
        ]
        is_taught_B = torch.tensor([target.supervision == "labelled" for target in targets])
        return cls(
            labels_G,
            torch.cat([target.boxes_cxcywh_norm for target in targets]).float(),
            torch.cat(taught),
            is_taught_B.to(labels_G.device, non_blocking=True),
            tuple(len(target.labels) for target in targets),
        )

    @property
    def device(self) -> torch.device:
        """Of all tensors."""
        return self.labels.device


@dataclass(frozen=True, eq=False)
class Pairs:
    """Queries and the objects they answer for: P pairs in each of S layers, or the same P in all of them (S = 1).

    Attributes:
        image: int64 [P], places in the batch.
        query: int64 [S, P].
        truth: int64 [S, P], rows of all pictures' objects.
    """

    image: Tensor
    query: Tensor
    truth: Tensor

    @classmethod
    def of(
        cls,
        matches: Sequence[Sequence[Match]],
        counts: Sequence[int],
        device: torch.device,
        *,
        images: Sequence[int] | None = None,
    ) -> "Pairs":
        """Put the pairs of pictures side by side.

        Args:
            matches: by layer and picture.
            counts: objects of each picture.
            device: of the result; one transfer.
            images: the pictures' places in the batch; by default they are the batch.
        """
        places = images or range(len(counts))
        firsts = [sum(counts[:b]) for b in range(len(counts))]
        rows = [torch.cat([torch.full_like(queries, b) for b, (queries, _) in zip(places, matches[0], strict=True)])]
        rows += [torch.cat([queries for queries, _ in layer]) for layer in matches]
        rows += [
            torch.cat([objects + first for (_, objects), first in zip(layer, firsts, strict=True)]) for layer in matches
        ]
        packed = torch.stack(rows).to(device, non_blocking=True)
        return cls(packed[0], *packed[1:].chunk(2))

    def predicted(self, values_SBQX: Tensor) -> Tensor:
        """The queries' own: [S, B, Q, X] to [S, P, X]."""
        return values_SBQX[_each_layer(values_SBQX), self.image, self.query]

    def classes(self, labels_G: Tensor, like_SBQX: Tensor) -> Tensor:
        """The class that each query is to say, int64 [S, B, Q]; -1 for none."""
        classes_SBQ = torch.full(like_SBQX.shape[:3], _NO_OBJECT, dtype=labels_G.dtype, device=labels_G.device)
        classes_SBQ[_each_layer(like_SBQX), self.image, self.query] = labels_G[self.truth]
        return classes_SBQ


def _each_layer(values_SBQX: Tensor) -> Tensor:
    return torch.arange(len(values_SBQX), device=values_SBQX.device)[:, None]


@dataclass(frozen=True, eq=False)
class TaughtClasses:
    """The classes that take part in each of S class losses; all of them without a federated draw.

    Attributes:
        drawn: by loss and draw.
        pictures: a draw.
    """

    drawn: FederatedClasses | None
    pictures: int

    def __getitem__(self, layers: slice) -> "TaughtClasses":
        if self.drawn is None:
            return self
        return TaughtClasses(FederatedClasses(self.drawn.ids[layers], self.drawn.taught[layers]), self.pictures)

    def select(self, logits_SBQC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [S, B, Q, K], and which classes these are and whether they count, both [S, B, 1, K] or alike."""
        if self.drawn is None:
            ids = torch.arange(logits_SBQC.shape[-1], device=logits_SBQC.device).expand(1, 1, 1, -1)
            return logits_SBQC, ids, torch.ones_like(ids, dtype=torch.bool)
        ids, taught = (
            each.repeat_interleave(self.pictures, dim=1)[:, :, None] for each in (self.drawn.ids, self.drawn.taught)
        )
        return logits_SBQC.gather(-1, ids.expand(*logits_SBQC.shape[:3], -1)), ids, taught


@dataclass(frozen=True, eq=False)
class Stage:
    """The queries of S layers that learn the truth: the decoder's, the encoder's proposals, or denoising ones.

    Attributes:
        logits: [S, B, Q, C].
        boxes: [S, B, Q, 4] cxcywh, normalised.
        pairs: the objects that they answer for.
        weight: float32 [B, Q], how much each of them counts.
        classes: those that take part in its S class losses.
    """

    logits: Tensor
    boxes: Tensor
    pairs: Pairs
    weight: Tensor
    classes: TaughtClasses

    def losses(self, truth: Truth) -> dict[str, Tensor]:
        """Sums over queries, weighted, of each layer: `loss_class`, `loss_bbox` and `loss_giou`, [S] each."""
        predicted_SP4 = self.pairs.predicted(self.boxes).float()
        true_SP4 = truth.boxes[self.pairs.truth]
        overlap_SP = giou(cxcywh_to_xyxy(predicted_SP4), cxcywh_to_xyxy(true_SP4))
        weight_SP = self.weight[self.pairs.image, self.pairs.query]
        return {
            "loss_class": self._class_losses(truth),
            "loss_bbox": ((predicted_SP4 - true_SP4).abs().sum(-1) * weight_SP).sum(1),
            "loss_giou": ((1 - overlap_SP) * weight_SP).sum(1),
        }

    def _class_losses(self, truth: Truth) -> Tensor:
        classes_SBQ = self.pairs.classes(truth.labels, self.logits)
        logits_SBQK, ids, counts = self.classes.select(self.logits)
        wanted_SBQK = (classes_SBQ[..., None] == ids).float()
        focal_SBQK = sigmoid_focal_loss(logits_SBQK.float(), wanted_SBQK, alpha=ALPHA, gamma=GAMMA)
        return ((focal_SBQK * counts).sum(-1) * (self.weight * truth.is_taught[:, None])).sum((1, 2))
