"""Where the tokens of all levels lie: the same for every batch of a shape, so made once."""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

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


@lru_cache(_SHAPES_KEPT)
def token_grid(shapes: Shapes, dtype: torch.dtype, device: torch.device) -> TokenGrid:
    """The grid of levels of such heights and widths."""
    # Whoever asks first may be in the middle of an evaluation.
    with torch.inference_mode(False):
        cells = [_cells(height, width) for height, width in shapes]
        level_S = torch.arange(len(shapes)).repeat_interleave(torch.tensor([len(each) for each in cells]))
        sizes_L2 = torch.tensor([(width, height) for height, width in shapes])
        return TokenGrid(*(_on(device, each) for each in (torch.cat(cells).to(dtype), level_S, sizes_L2.to(dtype))))


def _cells(height: int, width: int) -> Tensor:
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=-1)


def _on(device: torch.device, values: Tensor) -> Tensor:
    """Pinned first on the way to a GPU, since a copy from pageable memory waits for it."""
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)
