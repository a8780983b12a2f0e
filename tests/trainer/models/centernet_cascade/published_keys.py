"""A state dict under the names that Detic's modules give, and a detector that takes it."""

from pathlib import Path

import torch
from torch import Tensor, nn

from richsem_train.models.backbone import Backbone, make_backbone
from richsem_train.models.centernet_cascade.two_stage import CenternetCascade
from richsem_train.models.frozen_norm import FrozenBatchNorm2d

WIDTH, HIDDEN, TEXT, CLASSES, TEACHER = 32, 24, 12, 6, 10
"""Classes with the row of "none", as Detic's with the column of the background."""

CHANNELS = {"stem": (8, 16, 24), "resnet50": (512, 1024, 2048)}
"""Of backbones: ResNet-50, and the first layers of something smaller."""

BLOCKS = {"layer1": (3, 64, 64), "layer2": (4, 256, 128), "layer3": (6, 512, 256), "layer4": (3, 1024, 512)}
"""Of ResNet-50: blocks, channels that come in, and inner channels."""


def detector(*, semantic_branch: bool = False, text: int = TEXT, backbone: str = "stem") -> CenternetCascade:
    torch.manual_seed(0)
    return CenternetCascade(
        make_backbone("resnet50", weights=None) if backbone == "resnet50" else stem(),
        num_classes=CLASSES,
        text_features_CD=text_features(text),
        cosine_scale=50.0,
        hidden_dim=WIDTH,
        roi_dim=HIDDEN,
        semantic_dim=TEACHER if semantic_branch else None,
        size_divisor=32,
    )


def stem() -> Backbone:
    body = nn.ModuleDict({"conv1": nn.Conv2d(3, 8, 7, bias=False), "bn1": FrozenBatchNorm2d(8)})
    return Backbone(body, strides=(8, 16, 32), channels=CHANNELS["stem"])


def text_features(width: int = TEXT) -> Tensor:
    return torch.randn(CLASSES, width, generator=torch.Generator().manual_seed(1))


def names_and_shapes(backbone: str = "stem") -> dict[str, tuple[int, ...]]:
    """Of what the detector takes, in the file's names."""
    shapes = _body("backbone.bottom_up.base", backbone)
    for level, channels in zip((3, 4, 5), CHANNELS[backbone], strict=True):
        shapes |= _layer(f"backbone.fpn_lateral{level}", (WIDTH, channels, 1, 1))
        shapes |= _layer(f"backbone.fpn_output{level}", (WIDTH, WIDTH, 3, 3))
    for level in (6, 7):
        shapes |= _layer(f"backbone.top_block.p{level}", (WIDTH, WIDTH, 3, 3))
    head = "proposal_generator.centernet_head"
    for place in (0, 3, 6, 9):
        shapes |= _layer(f"{head}.bbox_tower.{place}", (WIDTH, WIDTH, 3, 3))
        shapes |= _layer(f"{head}.bbox_tower.{place + 1}", (WIDTH,))
    shapes |= _layer(f"{head}.bbox_pred", (4, WIDTH, 3, 3)) | _layer(f"{head}.agn_hm", (1, WIDTH, 3, 3))
    shapes |= {f"{head}.scales.{level}.scale": (1,) for level in range(5)}
    for number in range(3):
        predictor = f"roi_heads.box_predictor.{number}"
        shapes |= _layer(f"roi_heads.box_head.{number}.fc1", (HIDDEN, WIDTH * 49))
        shapes |= _layer(f"roi_heads.box_head.{number}.fc2", (HIDDEN, HIDDEN))
        shapes |= _layer(f"{predictor}.cls_score.linear", (TEXT, HIDDEN))
        shapes |= _layer(f"{predictor}.bbox_pred.0", (HIDDEN, HIDDEN)) | _layer(f"{predictor}.bbox_pred.2", (4, HIDDEN))
    return shapes


def left_out() -> dict[str, Tensor]:
    """What a file has besides."""
    # Unit columns, class by class, then that of the background.
    zs_weight = torch.nn.functional.normalize(text_features()[1:], dim=1).T
    others = {
        "backbone.bottom_up.base.fc.weight": torch.ones(3, 2048),
        "backbone.bottom_up.base.fc.bias": torch.ones(3),
    }
    for number in range(3):
        predictor = f"roi_heads.box_predictor.{number}"
        others[f"{predictor}.cls_score.zs_weight"] = torch.cat([zs_weight, torch.zeros(TEXT, 1)], 1)
        others[f"{predictor}.freq_weight"] = torch.ones(CLASSES - 1)
    others["roi_heads.mask_head.mask_fcn1.weight"] = torch.ones(2, 2)
    others["roi_heads.mask_head.predictor.bias"] = torch.ones(1)
    return others


def detic_state(backbone: str = "stem") -> dict[str, Tensor]:
    """Each of the detector's weights holds a number of its own."""
    shapes = names_and_shapes(backbone)
    # Views of one number, which make small files.
    state = {name: torch.tensor(float(number)).expand(shape) for number, (name, shape) in enumerate(shapes.items())}
    return state | left_out()


def saved(path: Path, state: dict[str, Tensor]) -> Path:
    torch.save({"model": state, "iteration": 89_999}, path)
    return path


def _layer(name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}


def _body(prefix: str, backbone: str) -> dict[str, tuple[int, ...]]:
    if backbone == "stem":
        return {f"{prefix}.conv1.weight": (8, 3, 7, 7)} | _norm(f"{prefix}.bn1", 8)
    shapes: dict[str, tuple[int, ...]] = {f"{prefix}.conv1.weight": (64, 3, 7, 7)} | _norm(f"{prefix}.bn1", 64)
    for layer, (blocks, channels, inner) in BLOCKS.items():
        for block in range(blocks):
            name, entering = f"{prefix}.{layer}.{block}", channels if block == 0 else 4 * inner
            sides = {1: (inner, entering, 1, 1), 2: (inner, inner, 3, 3), 3: (4 * inner, inner, 1, 1)}
            for number, shape in sides.items():
                shapes |= {f"{name}.conv{number}.weight": shape} | _norm(f"{name}.bn{number}", shape[0])
            if block == 0:
                shapes[f"{name}.downsample.0.weight"] = (4 * inner, channels, 1, 1)
                shapes |= _norm(f"{name}.downsample.1", 4 * inner)
    return shapes
