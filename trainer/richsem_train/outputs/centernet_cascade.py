"""Between the two-stage detector and its losses: cells of the pyramid, regions, and what is said of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

PYRAMID_STRIDES = (8, 16, 32, 64, 128)
"""Of the levels P3 to P7, pixels."""


@dataclass(frozen=True, eq=False)
class Grid:
    """The cells of a pyramid's maps, level by level and row by row: N of them.

    Attributes:
        shapes: rows and columns of each level.
        centres_px: float32 [N, 2], xy: index * stride + stride // 2.
        strides_px: float32 [N], of each cell's level.
    """

    shapes: tuple[tuple[int, int], ...]
    centres_px: Tensor
    strides_px: Tensor

    @classmethod
    def of(cls, shapes: Sequence[tuple[int, int]], device: torch.device) -> "Grid":
        """The cells of levels with so many rows and columns."""
        centres, strides = [], []
        for (rows, columns), stride in zip(shapes, PYRAMID_STRIDES, strict=True):
            y, x = (torch.arange(count, device=device) * stride + stride // 2 for count in (rows, columns))
            centres.append(torch.cartesian_prod(y, x).flip(-1).float())
            strides.append(torch.full((rows * columns,), float(stride), device=device))
        return cls(tuple(shapes), torch.cat(centres), torch.cat(strides))

    @classmethod
    def over(cls, height: int, width: int, device: torch.device) -> "Grid":
        """The cells of the maps of a picture of that size; every level has one at least."""
        return cls.of([(-(-height // stride), -(-width // stride)) for stride in PYRAMID_STRIDES], device)

    @property
    def sizes(self) -> list[int]:
        """Cells of each level."""
        return [rows * columns for rows, columns in self.shapes]

    @property
    def firsts(self) -> list[int]:
        """The first cell of each level."""
        return [sum(self.sizes[:level]) for level in range(len(self.shapes))]

    def cells_of_pictures(self, image_hw_B2: Tensor) -> Tensor:
        """Which cells have a pixel of their picture, bool [B, N]; the others are padding alone.

        Args:
            image_hw_B2: height and width without padding, pixels.
        """
        first_px_N2 = self.centres_px - (self.strides_px // 2)[:, None]
        return (first_px_N2 < image_hw_B2.flip(-1)[:, None]).all(-1)


@dataclass(frozen=True, eq=False)
class CellPredictions:
    """What the proposal head says of each cell of B pictures.

    Attributes:
        heatmap_logits: float32 [B, N], that an object's centre lies there.
        ltrb: float32 [B, N, 4], from the cell's centre to the object's left, top, right and bottom, in strides; >= 0.
        grid: the N cells.
    """

    heatmap_logits: Tensor
    ltrb: Tensor
    grid: Grid


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
