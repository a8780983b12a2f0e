"""Detectors from files: what the config of a checkpoint describes is compared with its weights before it is built.

A checkpoint is anybody's. A config can describe in a line what would take all memory, or hours to build.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from richsem_schemas.errors import RichSemError
from richsem_schemas.io.words import one_line
from richsem_train.config import BackboneConfig, TrainConfig
from richsem_train.models.backbone import CLIP_NAME
from richsem_train.models.detector import DetectionModel
from richsem_train.run.build import describe, described_detector
from richsem_train.run.checkpoint import Checkpoint, ModelInfo
from richsem_train.run.detectors import kind_of
from richsem_train.run.open_data import open_vocabulary

_SHOWN = 3


def rebuilt_detector(saved: Checkpoint, source: object, device: torch.device) -> DetectionModel:
    """Build the detector of a checkpoint and load its inference weights.

    Raises:
        RichSemError: its weights are not those of the detector that its config describes.
    """
    weights = saved.inference_weights
    misfits = _counted_misfits(saved.info, weights) or _misfits_of_shape(saved.info, weights)
    if misfits:
        raise RichSemError(
            f"{source}: its weights don't fit its own config: {'; '.join(misfits[:_SHOWN])}"
            f"{'; ...' if len(misfits) > _SHOWN else ''}. Was the model changed by --set? If not, the file was; take "
            "another copy of it"
        )
    detector = described_detector(saved.info, device=device).eval()
    wanted = detector.state_dict().keys()
    detector.load_state_dict({name: tensor for name, tensor in weights.items() if name in wanted})
    return detector


def published_detector(
    checkpoint: Path, config: TrainConfig, source: str, device: torch.device
) -> tuple[DetectionModel, ModelInfo]:
    """Build the detector of a config and load weights of another program.

    Raises:
        RichSemError: the weights are of other classifiers, or annotations or text of the config are missing.
    """
    vocabulary = open_vocabulary(config)
    info = describe(config, vocabulary)
    model = described_detector(info, text=vocabulary.text, device=device)
    report = kind_of(config.model).load_published(model, checkpoint)
    if lacking := [name for name in report.missing if not name.startswith(kind_of(config.model).trained_only)]:
        raise RichSemError(
            f"{checkpoint} lacks {', '.join(lacking)}: it has other classifiers than the config {source}; choose the "
            "config that it was trained with"
        )
    return model.eval(), info


def _counted_misfits(info: ModelInfo, weights: Mapping[str, Tensor]) -> list[str]:
    """Where the config asks for other numbers of modules, or other sizes, than the weights have."""
    model = info.config.model
    misfits = kind_of(model).counted_misfits(model, weights)
    if model.backbone.name == CLIP_NAME:
        misfits += _misfits_of_clip(model.backbone, weights)
    return misfits


def _misfits_of_clip(backbone: BackboneConfig, weights: Mapping[str, Tensor]) -> list[str]:
    misfits = []
    # Stages behind the last map that is used are not built.
    used = [count for stage, count in enumerate(backbone.clip_layers[:4]) if 4 * 2**stage <= max(backbone.out_strides)]
    for stage, count in enumerate(used):
        blocks = re.compile(rf"backbone\.(?:0\.)?body\.layer{stage + 1}\.(\d+)\.")
        there = len({match[1] for name in weights if (match := blocks.match(name))})
        if count != there:
            misfits.append(f"model.backbone.clip_layers[{stage}] is {count:,}, the weights have {there:,}")
    return misfits


def _misfits_of_shape(info: ModelInfo, weights: Mapping[str, Tensor]) -> list[str]:
    """Where single weights differ from what the detector would have, which is built without memory for it."""
    model = kind_of(info.config.model).built_without_memory(info.config.model)
    info = replace(info, config=info.config.model_copy(update={"model": model}))
    try:
        with torch.device("meta"):
            described = described_detector(info, device=torch.device("meta")).state_dict()
    except (RichSemError, ValueError, RuntimeError, OverflowError, MemoryError) as error:
        return [f"it can't be built ({one_line(error)})"]
    missing = [f"there is no {name}" for name in described if name not in weights]
    shared = {name: (tensor, weights[name]) for name, tensor in described.items() if name in weights}
    shapes = [
        f"{name} should be {tuple(wanted.shape)}, it is {tuple(found.shape)}"
        for name, (wanted, found) in shared.items()
        if wanted.shape != found.shape
    ]
    kinds = [
        f"{name} should be of {wanted.dtype}, it is of {found.dtype}"
        for name, (wanted, found) in shared.items()
        if wanted.is_floating_point() != found.is_floating_point()
    ]
    return missing + shapes + kinds
