"""From the backbone's maps to the transformer's: one width, more scales, masks and positions."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from richsem_train.models.position import sine_position


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
        temperature: of the position embedding.

    Raises:
        ValueError: fewer levels than maps.

    Source:
        Zhu et al. 2020 (arXiv 2010.04159), appendix A.2: the first extra level is made from the backbone's last map, a
        further one from the level before it.
    """

    def __init__(self, in_channels: Sequence[int], *, hidden_dim: int, levels: int, temperature: float = 20.0) -> None:
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
        self.temperature = temperature

    def forward(self, maps: Sequence[Tensor], padding_mask_BHW: Tensor) -> list[FeatureLevel]:
        """Project.

        Args:
            maps: of the backbone, finest first, [B, C, h, w] each.
            padding_mask_BHW: True where the picture is padded, pixels.

        Returns:
            The levels, finest first.

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
        return [self._level(map_BEhw, padding_mask_BHW) for map_BEhw in projected]

    def _level(self, map_BEhw: Tensor, padding_mask_BHW: Tensor) -> FeatureLevel:
        mask_B1hw = functional.interpolate(padding_mask_BHW[:, None].float(), size=map_BEhw.shape[-2:], mode="nearest")
        mask_Bhw = mask_B1hw[:, 0].bool()
        return FeatureLevel(
            map_BEhw, mask_Bhw, sine_position(mask_Bhw, map_BEhw.shape[1], temperature=self.temperature)
        )


def _projection(convolution: nn.Conv2d) -> nn.Sequential:
    nn.init.xavier_uniform_(convolution.weight)
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    # 32 groups, as published; fewer for widths that 32 does not divide.
    return nn.Sequential(convolution, nn.GroupNorm(math.gcd(32, convolution.out_channels), convolution.out_channels))
