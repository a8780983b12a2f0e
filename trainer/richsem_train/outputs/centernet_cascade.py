"""Between the two-stage detector and its losses: the pyramid's cells, and what its head says of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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
