"""How a detector of one's own is trained: the config's values, and about how many hours this takes."""

from dataclasses import dataclass
from typing import Any, Literal

from richsem_schemas.io.ordered_map import cores

BASE_CONFIG = "small"
"""The config that `config.yaml` builds on."""

BATCH = 4
SIDES_PX = (640, 480, 320)
"""Sides of the square that pictures are fitted into, the best first."""

_JITTER = (0.5, 1.5)

_SECONDS_A_PICTURE: dict[str, float] = {"cpu": 1.85, "cuda": 0.06, "mps": 0.3}
"""Of a training step of `small` at 640 px. Two CPU cores take 6.3 s for four pictures of 480 x 640, by
`benchmarks/small.py`, and batches are padded to the largest that the jitter makes; a GPU and MPS are guessed at, from
above."""

_SECONDS_A_WINDOW: dict[str, float] = {"cpu": 1.0, "cuda": 0.02, "mps": 0.2}
"""Of the teacher RN50 at 640 px, guessed at from its operations."""

WINDOWS = 4
_MEASURED_CORES, _MOST_CORES = 2, 16
"""Beyond sixteen cores more hardly help."""

_STEPS_WANTED, _LEAST_EPOCHS, _MOST_EPOCHS = 3_000, 12, 100

DeviceKind = Literal["cpu", "cuda", "mps"]


@dataclass(frozen=True)
class TrainingPlan:
    """How long, how large, and how many hours.

    Attributes:
        side_px: of the square that pictures are fitted into.
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


def plan_training(train_pictures: int, showings: int, *, device: DeviceKind, hours: float) -> TrainingPlan:
    """Choose size and epochs.

    Args:
        train_pictures: how many there are.
        showings: of an epoch, those of rare classes counted as often as they are shown.
        device: that trains.
        hours: that training may take.
    """
    used_cores = min(cores(), _MOST_CORES)
    speed = used_cores / _MEASURED_CORES if device == "cpu" else 1.0
    steps_per_epoch = -(-showings // BATCH)
    epochs = min(max(-(-_STEPS_WANTED // steps_per_epoch), _LEAST_EPOCHS), _MOST_EPOCHS)
    steps = steps_per_epoch * epochs
    full_hours = steps * BATCH * _SECONDS_A_PICTURE[device] / speed / 3600

    def train_hours(side_px: int) -> float:
        return full_hours * _pixels_of_full(side_px)

    side_px = next((side for side in SIDES_PX if train_hours(side) <= hours), SIDES_PX[-1])
    windows = train_pictures * WINDOWS * _pixels_of_full(side_px)
    return TrainingPlan(
        side_px=side_px,
        epochs=epochs,
        steps=steps,
        train_hours=train_hours(side_px),
        teacher_hours=windows * _SECONDS_A_WINDOW[device] / speed / 3600,
        device={"cpu": f"{used_cores} CPU core{'s' * (used_cores > 1)}", "cuda": "a GPU", "mps": "MPS"}[device],
        rule=f"{_STEPS_WANTED:,} steps of {BATCH} pictures, in {_LEAST_EPOCHS} to {_MOST_EPOCHS} epochs; the largest "
        f"of {', '.join(map(str, SIDES_PX))} px that is trained in {hours:g} hours",
        fits=train_hours(side_px) <= hours,
    )


def _pixels_of_full(side_px: int) -> float:
    return (side_px / SIDES_PX[0]) ** 2


def training_values(plan: TrainingPlan) -> dict[str, Any]:
    """The values of a config that a plan decides, over those of `BASE_CONFIG`."""
    augmentation = {"kind": "scale-jitter", "side": plan.side_px, "factors": list(_JITTER)}
    return {
        "detection": {"augmentation": augmentation},
        "schedule": {"epochs": plan.epochs, "global_batch_size": BATCH},
        "evaluation": {
            "short_side": plan.side_px,
            "longest_side": plan.side_px,
            "every_epochs": max(plan.epochs // 10, 1),
        },
    }
