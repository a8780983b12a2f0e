"""How a detector of one's own is trained: the config's values, and the hours that this takes by measured figures."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

BASE_CONFIG = "dino_r50_coco"
"""The config that `config.yaml` builds on."""

_OVER_BASE: dict[str, Any] = {
    "model": {
        "backbone": {"name": "resnet18"},
        "queries": 300,
        "encoder_layers": 3,
        "decoder_layers": 3,
        "ffn_dim": 1024,
    },
    "schedule": {"lr": 2e-4, "backbone_lr": 2e-5, "warmup_steps": 100},
}
"""What makes it a small one."""

BATCH = 4
SIDES_PX = (640, 480, 320)
"""Short sides of pictures, the best first."""

_LONGEST_OVER_SHORT = 4 / 3
_CPU_SECONDS_A_STEP = 3.7
"""Of a ResNet-18 at 640 px on two cores, 4 pictures a step."""

_CUDA_SECONDS_A_STEP = 0.25
"""Of the same on a GPU of a workstation; an estimate, since it was not measured."""

_MPS_SECONDS_A_STEP = 1.2
_CPU_SECONDS_A_WINDOW = 1.3
"""Of the teacher RN50 on two cores, of pictures of 480 to 800 px."""

_GPU_SECONDS_A_WINDOW = 0.02
WINDOWS = 4
_MOST_CORES = 16
"""More hardly help a batch as small."""

_STEPS_WANTED, _LEAST_EPOCHS, _MOST_EPOCHS = 3_000, 12, 100

DeviceKind = Literal["cpu", "cuda", "mps"]


@dataclass(frozen=True)
class TrainingPlan:
    """How long, how large, and how many hours.

    Attributes:
        side_px: short side of pictures.
        epochs: of training.
        steps: of all epochs.
        train_hours: estimated.
        teacher_hours: of the soft labels, estimated.
        device: what the hours are meant for, such as "2 CPU cores".
        rule: how size and epochs were chosen.
        fits: whether training keeps within the hours that were allowed.
    """

    side_px: int
    epochs: int
    steps: int
    train_hours: float
    teacher_hours: float
    device: str
    rule: str
    fits: bool


def plan_training(train_pictures: int, *, device: DeviceKind, hours: float) -> TrainingPlan:
    """Choose size and epochs.

    Args:
        train_pictures: of an epoch.
        device: that trains.
        hours: that training may take.
    """
    cores = min(len(os.sched_getaffinity(0)), _MOST_CORES) if device == "cpu" else 0
    steps_per_epoch = -(-train_pictures // BATCH)
    epochs = min(max(-(-_STEPS_WANTED // steps_per_epoch), _LEAST_EPOCHS), _MOST_EPOCHS)
    side_px = next(
        (side for side in SIDES_PX if _train_hours(side, steps_per_epoch * epochs, device, cores) <= hours),
        SIDES_PX[-1],
    )
    train_hours = _train_hours(side_px, steps_per_epoch * epochs, device, cores)
    return TrainingPlan(
        side_px,
        epochs,
        steps_per_epoch * epochs,
        train_hours,
        train_pictures * WINDOWS * _seconds_a_window(device, cores) / 3600,
        f"{cores} CPU core{'s' * (cores > 1)}" if device == "cpu" else {"cuda": "a GPU", "mps": "MPS"}[device],
        f"{_STEPS_WANTED:,} steps of {BATCH} pictures, in {_LEAST_EPOCHS} to {_MOST_EPOCHS} epochs; the largest of "
        f"{', '.join(map(str, SIDES_PX))} px that is trained in {hours:g} hours",
        train_hours <= hours,
    )


def _train_hours(side_px: int, steps: int, device: DeviceKind, cores: int) -> float:
    full = {
        "cpu": _CPU_SECONDS_A_STEP * 2 / max(cores, 1),
        "cuda": _CUDA_SECONDS_A_STEP,
        "mps": _MPS_SECONDS_A_STEP,
    }[device]
    return steps * full * (side_px / SIDES_PX[0]) ** 2 / 3600


def _seconds_a_window(device: DeviceKind, cores: int) -> float:
    return _CPU_SECONDS_A_WINDOW * 2 / max(cores, 1) if device == "cpu" else _GPU_SECONDS_A_WINDOW


def training_values(plan: TrainingPlan) -> dict[str, Any]:
    """The values of a config that a plan decides, over those of `BASE_CONFIG`."""
    longest = round(plan.side_px * _LONGEST_OVER_SHORT)
    sides = [round(plan.side_px * part / 32) * 32 for part in (0.75, 0.875, 1.0)]
    return merged(
        _OVER_BASE,
        {
            "detection": {
                "augmentation": {"short_sides": sides, "longest_side": longest, "first_short_sides": []},
            },
            "schedule": {
                "epochs": plan.epochs,
                "global_batch_size": BATCH,
                "lr_drops": [max(round(plan.epochs * 0.8), 1)],
            },
            "evaluation": {
                "short_side": plan.side_px,
                "longest_side": longest,
                "every_epochs": max(plan.epochs // 10, 1),
            },
        },
    )


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Values over others, section by section."""
    result = dict(below)
    for key, value in above.items():
        under = result.get(key)
        result[key] = merged(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return result
