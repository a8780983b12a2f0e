"""CLIP's modified ResNet as a backbone, so that a student may start from its teacher's trunk."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

EXPANSION = 4
"""A bottleneck puts out this many times the channels of its 3x3 convolution."""


class ClipResNet(nn.Module):
    """CLIP's image trunk without its attention pool; its keys are open_clip's below `visual.`.

    It differs from torchvision's in three places: the stem has three 3x3 convolutions and an average pool, every
    strided convolution is an average pool and a convolution of stride 1, and so is every strided shortcut.

    Args:
        layers: bottlenecks in each of the four stages, (3, 4, 6, 3) for RN50.
        width: channels after the stem, even; 64 for RN50.
        stages: how many of the four stages are built.
        out_stages: which of them give a map, counted from 1.

    Source:
        Radford et al. 2021 (arXiv 2103.00020), section 2.4.
    """

    def __init__(
        self,
        layers: Sequence[int],
        width: int,
        *,
        stages: int = 4,
        out_stages: Sequence[int] = (2, 3, 4),
    ) -> None:
        super().__init__()
        self.out_stages = tuple(out_stages)
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        channels = width
        self.stages = stages
        for stage in range(stages):
            middle = width * 2**stage
            self.add_module(f"layer{stage + 1}", _stage(channels, middle, layers[stage], min(stage + 1, 2)))
            channels = middle * EXPANSION

    def forward(self, images_B3HW: Tensor) -> list[Tensor]:
        """The maps of the chosen stages, finest first; height and width must be divisible by the coarsest stride."""
        features = functional.relu(self.bn1(self.conv1(images_B3HW)))
        features = functional.relu(self.bn2(self.conv2(features)))
        features = functional.relu(self.bn3(self.conv3(features)))
        features = functional.avg_pool2d(features, 2)
        maps = []
        for stage in range(1, self.stages + 1):
            features = self.get_submodule(f"layer{stage}")(features)
            if stage in self.out_stages:
                maps.append(features)
        return maps


class _Bottleneck(nn.Module):
    def __init__(self, channels: int, middle: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        out = middle * EXPANSION
        self.conv1 = nn.Conv2d(channels, middle, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.downsample: nn.Sequential | None = None
        if stride > 1 or channels != out:
            shortcut = OrderedDict([("0", nn.Conv2d(channels, out, 1, bias=False)), ("1", nn.BatchNorm2d(out))])
            self.downsample = nn.Sequential(shortcut)

    def forward(self, features: Tensor) -> Tensor:
        inner = functional.relu(self.bn1(self.conv1(features)))
        inner = functional.relu(self.bn2(self.conv2(inner)))
        inner = self.bn3(self.conv3(self._shrunk(inner)))
        shortcut = features if self.downsample is None else self.downsample(self._shrunk(features))
        return functional.relu(inner + shortcut)

    def _shrunk(self, features: Tensor) -> Tensor:
        return functional.avg_pool2d(features, self.stride) if self.stride > 1 else features


def _stage(channels: int, middle: int, blocks: int, stride: int) -> nn.Sequential:
    first = _Bottleneck(channels, middle, stride)
    return nn.Sequential(first, *(_Bottleneck(middle * EXPANSION, middle, 1) for _ in range(blocks - 1)))
