"""Where the tokens of all levels lie: the same for every batch of a shape, so made once."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from richsem_train.devices import on_device

Shapes = tuple[tuple[int, int], ...]

_SHAPES_KEPT = 64
"""Pictures come in many sizes; a grid of the largest is half a megabyte."""


class TokenGrid(NamedTuple):
    """S tokens of L levels laid end to end, row by row.

    Attributes:
        cells: [S, 2], centres (x, y) in units of their level's cells.
        level: int64 [S].
        sizes: [L, 2], width and height of the levels in cells.
    """

    cells: Tensor
    level: Tensor
    sizes: Tensor

    def centres(self, valid_BL2: Tensor) -> Tensor:
        """Centres (x, y) relative to the part of each level that the picture takes, [B, S, 2].

        Args:
            valid_BL2: width and height of that part in cells.
        """
        return self.cells / valid_BL2.index_select(1, self.level)


@lru_cache(_SHAPES_KEPT)
def token_grid(shapes: Shapes, dtype: torch.dtype, device: torch.device) -> TokenGrid:
    """The grid of levels of such heights and widths."""
    # Whoever asks first may be in the middle of an evaluation.
    with torch.inference_mode(False):
        cells = [_cells(height, width) for height, width in shapes]
        level_S = torch.arange(len(shapes)).repeat_interleave(torch.tensor([len(each) for each in cells]))
        sizes_L2 = torch.tensor([(width, height) for height, width in shapes])
        return TokenGrid(
            *(on_device(each, device) for each in (torch.cat(cells).to(dtype), level_S, sizes_L2.to(dtype)))
        )


def along_sides(padding_masks: Sequence[Tensor], measure: Callable[[Tensor], Tensor]) -> Tensor:
    """What a measure makes of the first row and the first column of each level's mask, [B, L, 2].

    Pictures lie at the top left, so these tell of the padding of width and height.

    Args:
        padding_masks: bool [B, h, w], True where padded.
        measure: of bool [B, w] or [B, h] to [B].
    """
    measured = [measure(side_Bx) for mask_Bhw in padding_masks for side_Bx in (mask_Bhw[:, 0], mask_Bhw[..., 0])]
    return torch.stack(measured, dim=1).unflatten(1, (-1, 2))


def _cells(height: int, width: int) -> Tensor:
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=-1)
