"""Backbones: a picture becomes maps at a few strides."""

import difflib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from richsem_schemas.errors import RichSemError
from richsem_train.models.backbone_weights import load_weights
from richsem_train.models.clip_resnet import EXPANSION, ClipResNet
from richsem_train.models.frozen_norm import frozen_batch_norms

TORCHVISION_NAMES = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "wide_resnet50_2",
    "wide_resnet101_2",
)
CLIP_NAME = "clip-resnet"
TIMM_PREFIX = "timm:"

RESNET_STRIDES = (4, 8, 16, 32)
"""Of the stages 1 to 4 of every ResNet here."""

# Without these a Swin takes pictures of one size only, and doesn't shift the windows of its coarsest maps.
_ANY_SIZE_SWIN = {"strict_img_size": False, "always_partition": True}


class Backbone(nn.Module):
    """Maps of a picture at a few strides, finest first.

    Its network is `body`, so that as a detector's `backbone.0` its keys are those of published checkpoints.

    Args:
        body: gives a list of maps.
        strides: of the maps, pixels.
        channels: of the maps.
        pads: the body cuts off what exceeds a multiple of the coarsest stride, so pictures are padded to one.
        channels_last: the body's maps are [B, h, w, C].
        norms: a LayerNorm over each map's channels, for bodies whose maps come straight from a residual sum.

    Attributes:
        size_divisor: heights and widths that are multiples of it are not padded here. Whoever knows which pixels are
            padding pads to it first: the maps of what is padded here cover more than the picture.
    """

    def __init__(
        self,
        body: nn.Module,
        *,
        strides: Sequence[int],
        channels: Sequence[int],
        pads: bool = False,
        channels_last: bool = False,
        norms: bool = False,
    ) -> None:
        super().__init__()
        self.body = body
        self.strides = tuple(strides)
        self.channels = tuple(channels)
        self.size_divisor = max(self.strides) if pads else 1
        self.channels_last = channels_last
        self.norms = nn.ModuleList([nn.LayerNorm(count) for count in channels] if norms else [])

    def forward(self, images_B3HW: Tensor) -> list[Tensor]:
        """One map a stride.

        Returns:
            [B, C, h, w] each, with h = ceil(H / stride) (of the padded height where the body pads), and w so too.
        """
        images_B3HW = padded_to(images_B3HW, self.size_divisor, value=0)
        maps = self.body(images_B3HW)
        if self.channels_last:
            maps = [map_BhwC.permute(0, 3, 1, 2) for map_BhwC in maps]
        if self.norms:
            maps = [_normed(norm, map_BChw) for norm, map_BChw in zip(self.norms, maps, strict=True)]
        return list(maps)


def make_backbone(
    name: str,
    *,
    weights: str | None,
    frozen_stages: int = 0,
    frozen_norm: bool = True,
    out_strides: Sequence[int] = (8, 16, 32),
    drop_path: float | None = None,
    clip_layers: Sequence[int] = (3, 4, 6, 3),
    clip_width: int = 64,
) -> Backbone:
    """Build a backbone by name; arguments as section `model.backbone` of a config has them.

    `imagenet1k` weights are what torchvision (version 1, as the paper) or timm (as the tag in the name says) publish.
    In frozen stages batch norms keep their statistics and scales in any case; other norms learn. Stages beyond the last
    stride are not built.

    Raises:
        RichSemError: an unknown name, strides or stages that the network doesn't have, weights out of reach or not
            fitting.
    """
    strides = tuple(sorted(out_strides))
    if drop_path is not None and not name.startswith(TIMM_PREFIX):
        raise _without_drop_path(name)
    if name in TORCHVISION_NAMES:
        built = _torchvision(name, weights, strides)
    elif name == CLIP_NAME:
        built = _clip(weights, strides, clip_layers, clip_width)
    elif name.startswith(TIMM_PREFIX):
        built = _timm(name.removeprefix(TIMM_PREFIX), weights, strides, drop_path)
    else:
        raise RichSemError(
            f"backbone {name!r} does not exist; choose one of {', '.join((*TORCHVISION_NAMES, CLIP_NAME))}, "
            f"or {TIMM_PREFIX}NAME for a network of timm{_nearest(name, TORCHVISION_NAMES)}"
        )
    if weights is not None and weights != "imagenet1k":
        load_weights(built.backbone.body, Path(weights))
    _freeze(built, name, frozen_stages, frozen_norm=frozen_norm)
    return built.backbone


class _Built(NamedTuple):
    """A backbone; the names of its parts' modules, leading first: stem, stage 1 and so on; who freezes batch norms."""

    backbone: Backbone
    parts: list[list[str]]
    freeze_norms: Callable[[nn.Module], nn.Module]


class _TorchvisionResNet(nn.Module):
    """The stages of torchvision's ResNet up to the last one needed."""

    def __init__(self, network: nn.Module, out_stages: Sequence[int]) -> None:
        super().__init__()
        self.out_stages = tuple(out_stages)
        for name in ("conv1", "bn1", "relu", "maxpool", *(f"layer{stage}" for stage in range(1, max(out_stages) + 1))):
            self.add_module(name, network.get_submodule(name))

    def forward(self, images_B3HW: Tensor) -> list[Tensor]:
        features, maps = images_B3HW, []
        for name, part in self.named_children():
            features = part(features)
            if name.startswith("layer") and int(name.removeprefix("layer")) in self.out_stages:
                maps.append(features)
        return maps


def _torchvision(name: str, weights: str | None, strides: tuple[int, ...]) -> _Built:
    import torchvision  # noqa: PLC0415

    out_stages = _resnet_stages(name, strides)
    network = torchvision.models.get_model(name, weights=None)
    if weights == "imagenet1k":
        network.load_state_dict(_published_by_torchvision(name))
    channels = [network.fc.in_features // 2 ** (4 - stage) for stage in out_stages]
    body = _TorchvisionResNet(network, out_stages)
    return _Built(Backbone(body, strides=strides, channels=channels), _resnet_parts(body), frozen_batch_norms)


def _published_by_torchvision(name: str) -> dict[str, Tensor]:
    import torchvision  # noqa: PLC0415

    published = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    try:
        state: dict[str, Tensor] = published.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise _out_of_reach(name, f"{published.url} ({error})") from error
    return state


def _clip(weights: str | None, strides: tuple[int, ...], layers: Sequence[int], width: int) -> _Built:
    if weights == "imagenet1k":
        raise RichSemError(f"{CLIP_NAME} has no ImageNet-1k weights; give a file of open_clip, or null")
    if len(layers) != len(RESNET_STRIDES) or min(layers) < 1 or width < 2 or width % 2:
        raise RichSemError(
            f"{CLIP_NAME} of stages {tuple(layers)} and width {width} can't be built; it has four stages of at least "
            "one bottleneck and an even width, as open_clip's vision_cfg states"
        )
    out_stages = _resnet_stages(CLIP_NAME, strides)
    body = ClipResNet(layers, width, stages=max(out_stages), out_stages=out_stages)
    channels = [width * 2 ** (stage - 1) * EXPANSION for stage in out_stages]
    backbone = Backbone(body, strides=strides, channels=channels, pads=True)
    return _Built(backbone, _resnet_parts(body), frozen_batch_norms)


def _resnet_stages(name: str, strides: tuple[int, ...]) -> list[int]:
    _check_strides(name, strides, RESNET_STRIDES)
    return [RESNET_STRIDES.index(stride) + 1 for stride in strides]


def _resnet_parts(body: nn.Module) -> list[list[str]]:
    return _parts(body, re.compile(r"layer\d+"))


def _timm(name: str, weights: str | None, strides: tuple[int, ...], drop_path: float | None) -> _Built:
    # It takes seconds to import, and most runs do without.
    import timm  # noqa: PLC0415
    from timm.layers.norm_act import freeze_batch_norm_2d  # noqa: PLC0415

    known = timm.list_models() + timm.list_pretrained()
    if name not in known and name.split(".", maxsplit=1)[0] not in known:
        raise RichSemError(f"backbone '{TIMM_PREFIX}{name}': timm has no such network{_nearest(name, known)}")
    options = _timm_options(name, drop_path)
    available = _timm_strides(name, options)
    _check_strides(TIMM_PREFIX + name, strides, available)
    options["out_indices"] = [available.index(stride) for stride in strides]
    body = _timm_network(name, options, pretrained=weights == "imagenet1k")
    backbone = Backbone(
        body,
        strides=strides,
        channels=body.feature_info.channels(),
        pads=True,
        channels_last=str(getattr(body.output_fmt, "value", "NCHW")) == "NHWC",
        norms=not any(isinstance(module, nn.BatchNorm2d) for module in body.modules()),
    )
    return _Built(
        backbone,
        _parts(body, re.compile(r"(layers?|stages?)_?\d+")),
        # timm's for norms that do more.
        lambda module: freeze_batch_norm_2d(frozen_batch_norms(module)),
    )


def _timm_options(name: str, drop_path: float | None) -> dict[str, Any]:
    options: dict[str, Any] = {"features_only": True}
    if name.startswith("swin"):
        options |= _ANY_SIZE_SWIN
    if drop_path is not None:
        options["drop_path_rate"] = drop_path
    return options


def _timm_strides(name: str, options: dict[str, Any]) -> list[int]:
    """Of all maps that the network can give, without making its weights."""
    import timm  # noqa: PLC0415

    try:
        with torch.device("meta"):
            network: Any = timm.create_model(name, **options)
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
        raise _without_drop_path(TIMM_PREFIX + name) from error
    strides: list[int] = network.feature_info.reduction()
    return strides


def _timm_network(name: str, options: dict[str, Any], *, pretrained: bool) -> Any:
    import timm  # noqa: PLC0415

    if not pretrained:
        return timm.create_model(name, **options)
    try:
        return timm.create_model(name, pretrained=True, **options)
    except Exception as error:  # what a download may raise is up to the hub's client
        raise _out_of_reach(TIMM_PREFIX + name, str(error)) from error


def _without_drop_path(name: str) -> RichSemError:
    return RichSemError(
        f"backbone {name!r} has no drop path; set model.backbone.drop_path to null, or take one of timm's networks "
        "that has it"
    )


def _parts(body: nn.Module, stage_name: re.Pattern[str]) -> list[list[str]]:
    """The names of the stem's modules, then those of each stage."""
    parts: list[list[str]] = [[]]
    for name, _ in body.named_children():
        if stage_name.fullmatch(name):
            parts.append([])
        parts[-1].append(name)
    return parts


def _freeze(built: _Built, name: str, frozen_stages: int, *, frozen_norm: bool) -> None:
    if not 0 <= frozen_stages <= len(built.parts):
        raise RichSemError(
            f"backbone {name!r}: {frozen_stages} parts can't be frozen, it has {len(built.parts)}, the stem counted; "
            f"choose 0 to {len(built.parts)}"
        )
    body = built.backbone.body
    for index, part in enumerate(built.parts):
        for child_name in part:
            child = body.get_submodule(child_name)
            if frozen_norm or index < frozen_stages:
                child = built.freeze_norms(child)
                body.add_module(child_name, child)
            if index < frozen_stages:
                child.requires_grad_(False)


def _check_strides(name: str, strides: tuple[int, ...], available: Sequence[int]) -> None:
    if not strides or len(set(strides)) < len(strides) or not set(strides) <= set(available):
        raise RichSemError(
            f"backbone {name!r} can't give maps of strides {strides}; "
            f"choose some of {tuple(dict.fromkeys(available))}, each once"
        )


def padded_to(pixels: Tensor, divisor: int, *, value: float) -> Tensor:
    """Height and width (the last two axes) padded at the end to multiples of `divisor`."""
    height, width = pixels.shape[-2:]
    return functional.pad(pixels, (0, -width % divisor, 0, -height % divisor), value=value)


def _normed(norm: nn.Module, map_BChw: Tensor) -> Tensor:
    map_BhwC: Tensor = norm(map_BChw.permute(0, 2, 3, 1))
    return map_BhwC.permute(0, 3, 1, 2)


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _out_of_reach(name: str, reason: str) -> RichSemError:
    return RichSemError(
        f"the published weights of backbone {name!r} can't be fetched: {reason}; "
        "fetch them elsewhere and give the file as the backbone's weights"
    )
