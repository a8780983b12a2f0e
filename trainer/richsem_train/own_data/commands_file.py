"""The commands that lead from a folder of one's own to a trained detector."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from richsem_train.config import AnyAugmentation, ScaleJitterConfig
from richsem_train.own_data.training_plan import WINDOWS

INLINE_PICTURES = 2_000
"""With fewer a cache is made in one process, which is there sooner than Ray."""


@dataclass(frozen=True)
class Step:
    """A command, and what it is for."""

    about: str
    program: str
    arguments: tuple[str, ...]

    def line(self, *, takes_more: bool = False) -> str:
        """As a shell takes it."""
        words = [self.program, *map(shlex.quote, self.arguments)]
        return " ".join([*words, '"$@"'] if takes_more else words)


TRAIN_ABOUT = "train"


def steps_of(
    folder: Path,
    images: Path,
    *,
    teacher: str | None,
    config: Path,
    augmentation: AnyAugmentation,
    train_pictures: int,
    hours: tuple[float, float] | None,
) -> list[Step]:
    """The commands in their order.

    Args:
        folder: of the data, absolute.
        images: that the names of pictures start from, absolute.
        teacher: None trains with hard labels alone.
        config: of the training.
        augmentation: of the training, which windows of the pictures are drawn by, too, if they can be.
        train_pictures: how many there are.
        hours: of the soft labels and of the training; None where nothing is known of them.
    """
    steps = []
    if teacher is not None:
        jitter: tuple[str, ...] = ()
        if isinstance(augmentation, ScaleJitterConfig):
            jitter = ("--scale-jitter", f"{augmentation.side},{','.join(f'{each:g}' for each in augmentation.factors)}")
        small = ("--executor", "inline") if train_pictures < INLINE_PICTURES else ()
        steps.append(
            Step(
                f"soft labels of the training pictures, by the teacher {teacher}{_told(hours, 0)}",
                "richsem-prep",
                (
                    *("shard", "--dataset", "coco", "--root", str(folder / "annotations")),
                    *("--annotations", "train.json", "--images", str(images)),
                    *("--teacher", teacher, "--windows", str(WINDOWS), *jitter, *small, "--out", str(folder / "cache")),
                ),
            )
        )
    run = folder / "run"
    steps.append(
        Step(
            f"{TRAIN_ABOUT}{_told(hours, 1)}",
            "richsem-train",
            ("--config", str(config), "--out", str(run)),
        )
    )
    return [*steps, Step("a page on what it learnt", "richsem-train", ("report", str(run)))]


def _told(hours: tuple[float, float] | None, which: int) -> str:
    return "" if hours is None else f": {told_hours(hours[which])}"


def script(steps: Sequence[Step]) -> str:
    """The commands as a script; what it is given goes to the training, such as `--set schedule.epochs=4`."""
    lines = [
        "#!/bin/sh",
        "# From these pictures to a trained detector; made by `richsem-train new`.",
        "# Options are passed on to the training, such as: --set schedule.epochs=4, or --resume.",
        "set -eu",
    ]
    for number, step in enumerate(steps, 1):
        lines += [
            "",
            f"# {number}. {step.about}",
            step.line(takes_more=step.about.startswith(TRAIN_ABOUT)),
        ]
    return "\n".join(lines) + "\n"


def told_hours(hours: float) -> str:
    """A time of which little is known, in minutes or hours."""
    if hours < 1 / 60:
        return "less than a minute"
    if hours < 1:
        minutes = round(hours * 60)
        return f"about {minutes} minute{'s' * (minutes != 1)}"
    return f"about {hours:.1f} hours" if hours < 10 else f"about {hours:,.0f} hours"
