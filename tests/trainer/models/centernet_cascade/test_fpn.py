import pytest
import torch
from torch import Tensor
from torch.nn import functional

from richsem_train.models.centernet_cascade.fpn import FeaturePyramid

CHANNELS = (6, 10, 14)


def maps(height: int = 64, width: int = 96) -> list[Tensor]:
    rng = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, channels, height // stride, width // stride, generator=rng)
        for channels, stride in zip(CHANNELS, (8, 16, 32), strict=True)
    ]


def test_its_size_is_the_published_one():
    pyramid = FeaturePyramid((512, 1024, 2048), width=256)
    laterals = (512 + 1024 + 2048) * 256 + 3 * 256
    three_by_three = 5 * (9 * 256 * 256 + 256)
    assert sum(parameter.numel() for parameter in pyramid.parameters()) == laterals + three_by_three == 3_868_672


def test_levels_have_one_width_and_strides_of_8_to_128():
    levels = FeaturePyramid(CHANNELS, width=12)(maps(256, 384))
    assert [tuple(level.shape) for level in levels] == [
        (2, 12, 256 // stride, 384 // stride) for stride in (8, 16, 32, 64, 128)
    ]


def test_it_sums_from_coarse_to_fine_and_makes_the_coarsest_levels_of_p5():
    torch.manual_seed(0)
    pyramid = FeaturePyramid(CHANNELS, width=12)
    weights = {name: weight + 0.1 * torch.randn_like(weight) for name, weight in pyramid.state_dict().items()}
    pyramid.load_state_dict(weights)

    def convolved(name: str, map_BChw: Tensor, **options: int) -> Tensor:
        return functional.conv2d(map_BChw, weights[f"{name}.weight"], weights[f"{name}.bias"], **options)

    c3, c4, c5 = maps()
    inner5 = convolved("inner_blocks.2.0", c5)
    inner4 = convolved("inner_blocks.1.0", c4) + inner5.repeat_interleave(2, 2).repeat_interleave(2, 3)
    inner3 = convolved("inner_blocks.0.0", c3) + inner4.repeat_interleave(2, 2).repeat_interleave(2, 3)
    expected = [
        convolved(f"layer_blocks.{level}.0", inner, padding=1) for level, inner in enumerate((inner3, inner4, inner5))
    ]
    expected.append(convolved("extra_blocks.p6", expected[-1], stride=2, padding=1))
    expected.append(convolved("extra_blocks.p7", expected[-1].relu(), stride=2, padding=1))
    for level, wanted in zip(pyramid(maps()), expected, strict=True):
        torch.testing.assert_close(level, wanted)


def test_another_number_of_maps_is_refused():
    with pytest.raises(ValueError, match="the backbone gives 2; ask it for the strides 8, 16 and 32"):
        FeaturePyramid(CHANNELS[1:], width=12)
