"""Where on the picture: sines of the position, for maps with padding."""

import math

import torch
from torch import Tensor


def sine_position(padding_mask_BHW: Tensor, channels: int, *, temperature: float = 20.0) -> Tensor:
    """Sines and cosines of row and column, both normalised by the picture's share of the padded map.

    Args:
        padding_mask_BHW: True where padded; padding is at the right and the bottom.
        channels: of the embedding, E; divisible by 4. The first half tells the row, the second the column; sines and
            cosines of one frequency stand side by side, quick ones first.
        temperature: ratio of the longest to the shortest wave, nearly.

    Returns:
        float32 [B, E, H, W].

    Raises:
        ValueError: `channels` is not divisible by 4.

    Source:
        Carion et al. 2020 (arXiv 2005.12872), appendix A.4; the temperature of 20 is DAB-DETR's (arXiv 2201.12329).
    """
    if channels % 4:
        raise ValueError(f"{channels} channels can't be shared by sines and cosines of two axes; use a multiple of 4")
    valid_BHW = ~padding_mask_BHW
    rows_BHW = _normalised(valid_BHW.cumsum(1, dtype=torch.float32), dim=1)
    columns_BHW = _normalised(valid_BHW.cumsum(2, dtype=torch.float32), dim=2)
    halves = [_waves(angles_BHW, channels // 2, temperature) for angles_BHW in (rows_BHW, columns_BHW)]
    return torch.cat(halves, -1).permute(0, 3, 1, 2)


def _normalised(counts_BHW: Tensor, *, dim: int) -> Tensor:
    whole_BHW = counts_BHW.narrow(dim, counts_BHW.shape[dim] - 1, 1)
    # An entirely padded row or column has a count of zero.
    return counts_BHW * (2 * math.pi) / (whole_BHW + 1e-6)


def _waves(angles_BHW: Tensor, channels: int, temperature: float) -> Tensor:
    exponents_F = torch.arange(0, channels, 2, device=angles_BHW.device) / channels
    angles_BHWF = angles_BHW[..., None] / temperature**exponents_F
    return torch.stack((angles_BHWF.sin(), angles_BHWF.cos()), -1).flatten(-2)
