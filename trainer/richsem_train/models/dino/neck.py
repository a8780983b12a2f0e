"""From the backbone's maps to the transformer's: one width, more scales, masks and positions."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

_TEMPERATURE = 20.0
"""Ratio of the longest to the shortest wave, nearly."""


class FeatureLevel(NamedTuple):
    """One scale that the transformer sees.

    Attributes:
        map: [B, E, h, w].
        padding_mask: bool [B, h, w], True where padded.
        position: float32 [B, E, h, w].
    """

    map: Tensor
    padding_mask: Tensor
    position: Tensor


class Neck(nn.ModuleList):
    """A 1x1 convolution for each map of the backbone, then strided 3x3 ones for coarser levels; all with GroupNorm.

    It is itself the list of its projections, so that a model that calls it `input_proj` has the keys of published
    checkpoints: `input_proj.LEVEL.0` is the convolution, `input_proj.LEVEL.1` the norm.

    Args:
        in_channels: of the backbone's maps, finest first.
        hidden_dim: width of all levels, E.
        levels: number of levels; at least as many as maps.

    Raises:
        ValueError: fewer levels than maps.

    Source:
        Zhu et al. 2020 (arXiv 2010.04159), appendix A.2: the first extra level is made from the backbone's last map, a
        further one from the level before it.
    """

    def __init__(self, in_channels: Sequence[int], *, hidden_dim: int, levels: int) -> None:
        if levels < len(in_channels):
            raise ValueError(
                f"{levels} levels are fewer than the backbone's {len(in_channels)} maps; ask for more levels"
            )
        extra = levels - len(in_channels)
        coarse_channels = [in_channels[-1]] + [hidden_dim] * (extra - 1) if extra else []
        super().__init__(
            [_projection(nn.Conv2d(channels, hidden_dim, 1)) for channels in in_channels]
            + [_projection(nn.Conv2d(channels, hidden_dim, 3, stride=2, padding=1)) for channels in coarse_channels]
        )
        self.maps = len(in_channels)

    def forward(self, maps: Sequence[Tensor], padding_mask_BHW: Tensor) -> list[FeatureLevel]:
        """The levels, finest first, from the maps of the backbone, finest first, and the mask of padded pixels.

        Raises:
            ValueError: another number of maps than channels were given for.
        """
        if len(maps) != self.maps:
            raise ValueError(f"the backbone gave {len(maps)} maps, the neck was made for {self.maps}")
        projections = list(self)
        projected = [projection(map_BChw) for projection, map_BChw in zip(projections, maps, strict=False)]
        coarse = maps[-1]
        for projection in projections[len(maps) :]:
            coarse = projection(coarse)
            projected.append(coarse)
        mask_B1HW = padding_mask_BHW[:, None].float()
        masks = [
            functional.interpolate(mask_B1HW, size=map_BEhw.shape[-2:], mode="nearest")[:, 0].bool()
            for map_BEhw in projected
        ]
        positions = sine_positions(masks, projected[0].shape[1])
        return [FeatureLevel(*level) for level in zip(projected, masks, positions, strict=True)]


def _projection(convolution: nn.Conv2d) -> nn.Sequential:
    nn.init.xavier_uniform_(convolution.weight)
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    # 32 groups, as published; fewer for widths that 32 does not divide.
    return nn.Sequential(convolution, nn.GroupNorm(math.gcd(32, convolution.out_channels), convolution.out_channels))


def sine_position(padding_mask_BHW: Tensor, channels: int) -> Tensor:
    """`sine_positions` of one map."""
    return sine_positions([padding_mask_BHW], channels)[0]


def sine_positions(padding_masks: Sequence[Tensor], channels: int) -> list[Tensor]:
    """Sines and cosines of row and column, both normalised by the picture's share of the padded map.

    Args:
        padding_masks: of maps, bool [B, h, w], True where padded; padding is at the right and the bottom.
        channels: of the embedding, E; divisible by 4. The first half tells the row, the second the column; sines and
            cosines of one frequency stand side by side, quick ones first.

    Returns:
        Of each map, float32 [B, E, h, w]; views of one tensor of all.

    Raises:
        ValueError: `channels` is not divisible by 4.

    Source:
        Carion et al. 2020 (arXiv 2005.12872), appendix A.4; the temperature of 20 is DAB-DETR's (arXiv 2201.12329).
    """
    if channels % 4:
        raise ValueError(f"{channels} channels can't be shared by sines and cosines of two axes; use a multiple of 4")
    counts_BS2, wholes_BS2 = (
        torch.cat(each, dim=1) for each in zip(*(_counts(~mask_Bhw) for mask_Bhw in padding_masks), strict=True)
    )
    # An entirely padded row or column has a count of zero.
    angles_BS2 = counts_BS2 * (2 * math.pi) / (wholes_BS2 + 1e-6)
    exponents_F = torch.arange(0, channels // 2, 2, device=angles_BS2.device) / (channels // 2)
    angles_BS2F = angles_BS2[..., None] / _TEMPERATURE**exponents_F
    position_BSE = torch.stack((angles_BS2F.sin(), angles_BS2F.cos()), -1).flatten(2)
    parts = position_BSE.split([mask_Bhw[0].numel() for mask_Bhw in padding_masks], dim=1)
    return [
        part_BXE.unflatten(1, mask_Bhw.shape[1:]).permute(0, 3, 1, 2)
        for part_BXE, mask_Bhw in zip(parts, padding_masks, strict=True)
    ]


def _counts(valid_Bhw: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of the picture up to each cell, and in all, [B, h * w, 2] each."""
    counts = [valid_Bhw.cumsum(dim, dtype=torch.float32) for dim in (1, 2)]
    wholes = [each.narrow(dim, -1, 1).expand_as(each) for dim, each in enumerate(counts, start=1)]
    counts_Bhw2, wholes_Bhw2 = (torch.stack(each, dim=-1) for each in (counts, wholes))
    return counts_Bhw2.flatten(1, 2), wholes_Bhw2.flatten(1, 2)
