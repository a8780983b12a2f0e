"""From the backbone's maps to a pyramid of one width, P3 to P7."""

from collections.abc import Sequence

from torch import Tensor
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelP6P7


class FeaturePyramid(FeaturePyramidNetwork):
    """1x1 laterals of C3 to C5, summed from coarse to fine, 3x3 outputs; P6 and P7 by strided convolutions of P5.

    Args:
        in_channels: of the backbone's maps of strides 8, 16 and 32.
        width: channels of all levels, E.

    Raises:
        ValueError: not three maps.

    Source:
        Lin et al. 2017 (arXiv 1612.03144), as CenterNet2 (arXiv 2103.07461) has it: biases, no norms, nearest
        neighbours upwards, P6 from P5 and P7 from ReLU(P6). torchvision's is the same: it makes P6 from P5 wherever P5
        is as wide as P6.
    """

    def __init__(self, in_channels: Sequence[int], *, width: int) -> None:
        if len(in_channels) != 3:
            raise ValueError(
                f"P3 to P5 are made of three maps, the backbone gives {len(in_channels)}; ask it for the strides "
                "8, 16 and 32"
            )
        super().__init__(list(in_channels), width, extra_blocks=LastLevelP6P7(width, width))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """[B, E, h, w] each, strides 8 to 128, from the backbone's maps, finest first."""
        return list(super().forward({str(level): map_BChw for level, map_BChw in enumerate(maps)}).values())
