"""The trunk of CLIP's ResNets, over pictures of one size or of several."""

import torch
from torch import Tensor, nn

TRUNK_STRIDE = 32


def trunk(visual: nn.Module, images_B3HW: Tensor) -> Tensor:
    """A CLIP ResNet up to its attention pool: [B, C, H/32, W/32]."""
    hidden = visual.stem(images_B3HW)  # type: ignore[operator]
    for stage in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        hidden = stage(hidden)  # type: ignore[operator]
    return hidden


def trunk_of_corners(visual: nn.Module, images_B3HW: Tensor, hw_B2: Tensor) -> Tensor:
    """The same for pictures of several sizes, each in the upper left corner of its place.

    Where a 3x3 convolution would look past the border of a picture it finds zeros, as it does for the picture alone;
    nothing else of the trunk looks there. So each picture has the map that it has alone, but for rounding, in the
    corner that `map_hw` says; what is outside is anything.

    Args:
        visual: as `trunk` takes it.
        images_B3HW: H and W are multiples of 32.
        hw_B2: int, each picture's size; on the same device.
    """
    hw_B2, is_outside = _on_map(hw_B2, images_B3HW)
    hidden = visual.conv1(images_B3HW.masked_fill(is_outside, 0))  # type: ignore[operator]
    hw_B2, is_outside = _on_map((hw_B2 + 1) // 2, hidden)
    hidden = visual.act1(visual.bn1(hidden)).masked_fill(is_outside, 0)  # type: ignore[operator]
    hidden = visual.act2(visual.bn2(visual.conv2(hidden))).masked_fill(is_outside, 0)  # type: ignore[operator]
    hidden = visual.avgpool(visual.act3(visual.bn3(visual.conv3(hidden))))  # type: ignore[operator]
    hw_B2, is_outside = _on_map(hw_B2 // 2, hidden)
    for stage in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        for block in stage:  # type: ignore[union-attr]
            hidden = _block(block, hidden, is_outside)
            if block.stride > 1:
                hw_B2, is_outside = _on_map(hw_B2 // block.stride, hidden)
    return hidden


def _block(block: nn.Module, hidden: Tensor, is_outside: Tensor) -> Tensor:
    """The forward of open_clip's `Bottleneck`, with zeros outside where its 3x3 convolution looks."""
    out = block.act1(block.bn1(block.conv1(hidden))).masked_fill(is_outside, 0)  # type: ignore[operator]
    out = block.avgpool(block.act2(block.bn2(block.conv2(out))))  # type: ignore[operator]
    out = block.bn3(block.conv3(out))  # type: ignore[operator]
    out += hidden if block.downsample is None else block.downsample(hidden)  # type: ignore[operator]
    return block.act3(out)  # type: ignore[operator]


def _on_map(hw_B2: Tensor, map_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """The sizes, and where on the map [B, 1, H, W] no picture is."""
    height, width = map_BCHW.shape[2:]
    rows = torch.arange(height, device=hw_B2.device) >= hw_B2[:, :1]
    columns = torch.arange(width, device=hw_B2.device) >= hw_B2[:, 1:]
    return hw_B2, (rows[:, :, None] | columns[:, None, :])[:, None]


def map_hw(hw: tuple[int, int]) -> tuple[int, int]:
    """Size of the trunk's map of a picture: the first convolution rounds up, the poolings after it down."""
    return (hw[0] + 1) // 2 // (TRUNK_STRIDE // 2), (hw[1] + 1) // 2 // (TRUNK_STRIDE // 2)
