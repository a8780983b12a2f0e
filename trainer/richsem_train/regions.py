"""Between the cascade and its losses: regions of pictures, and what a stage says of them."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, eq=False)
class Objects:
    """The truth about B pictures, padded to the most objects of one, and at least to one.

    Attributes:
        boxes_xyxy_px: float32 [B, M, 4], pixels of the batch; 0 at padding.
        labels: int64 [B, M], rows of the vocabulary; 0 without a label and at padding.
        is_real: bool [B, M], False at padding.
    """

    boxes_xyxy_px: Tensor
    labels: Tensor
    is_real: Tensor


@dataclass(frozen=True, eq=False)
class Regions:
    """R regions in each of B pictures, and the objects that they answer for.

    Attributes:
        boxes_xyxy_px: float32 [B, R, 4], pixels of the batch.
        is_real: bool [B, R], False where a region stands for nothing.
        object: int64 [B, R], number of an object in the picture; means nothing where `is_positive` is False.
        is_positive: bool [B, R], whether the region answers for it; only of real ones.
    """

    boxes_xyxy_px: Tensor
    is_real: Tensor
    object: Tensor
    is_positive: Tensor

    def padded(self, count: int) -> "Regions":
        """The same with regions that stand for nothing, so many in all."""
        lacking = count - self.is_real.shape[1]
        return Regions(
            functional.pad(self.boxes_xyxy_px, (0, 0, 0, lacking)),
            functional.pad(self.is_real, (0, lacking)),
            functional.pad(self.object, (0, lacking)),
            functional.pad(self.is_positive, (0, lacking)),
        )

    def where(self, is_ours_B: Tensor, others: "Regions") -> "Regions":
        """These in some pictures, and others of the same number in the rest."""
        return Regions(
            self.boxes_xyxy_px.where(is_ours_B[:, None, None], others.boxes_xyxy_px),
            self.is_real.where(is_ours_B[:, None], others.is_real),
            self.object.where(is_ours_B[:, None], others.object),
            self.is_positive.where(is_ours_B[:, None], others.is_positive),
        )

    def of_objects(self, values_BM: Tensor) -> Tensor:
        """Values of the objects, [B, M] or [B, M, 4], for the regions that answer for them."""
        if values_BM.dim() == 2:
            return values_BM.gather(1, self.object)
        return values_BM.gather(1, self.object[..., None].expand(-1, -1, values_BM.shape[-1]))


@dataclass(frozen=True, eq=False)
class StageOutputs:
    """What one stage says of its regions.

    Attributes:
        hidden: [B, R, E], what all heads of the stage read.
        logits: float32 [B, R, C].
        deltas: float32 [B, R, 4], from the regions to the objects, as `box_coding` has them.
    """

    hidden: Tensor
    logits: Tensor
    deltas: Tensor
