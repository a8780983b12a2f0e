"""The label sets that arms learn from, and the commands that make them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Pictures = Literal["evidence", "evidence-detection"]

DATA = Path("data")
CACHES = Path("caches")

TEACHER_SIZE = 384
"""Longer side of a view as the teacher sees it: twice its own, since many objects are smaller than those that it was
taught on. Its most probable class is the hard label of 73% of a window's boxes then, and of 46% at 192."""


@dataclass(frozen=True)
class LabelSet:
    """A label set of one of the two caches.

    Attributes:
        name: of the label set.
        pictures: the dataset, which is the cache's name as well.
        options: of `richsem-prep shard` or `rescore`, beside those that all have.
        rescored_from: the set whose embeddings it is made from, without a teacher; None shows its views to one.
    """

    name: str
    pictures: Pictures
    options: dict[str, Any] = field(default_factory=dict)
    rescored_from: str | None = None

    @property
    def out(self) -> Path:
        """The cache that it lies in."""
        return CACHES / self.pictures


def _windows(name: str, count: int, **options: Any) -> LabelSet:
    return LabelSet(name, "evidence-detection", {"windows": count, **options})


def _extra(name: str, *, crops: int, mosaics: int) -> LabelSet:
    return LabelSet(name, "evidence", {"crops": crops, "mosaics": mosaics})


TOP_KS = (8, 32, 128)

LABEL_SETS: dict[str, LabelSet] = {
    each.name: each
    for each in (
        *(_windows(f"windows-{count}", count) for count in (1, 2, 4, 8)),
        *(
            LabelSet(f"windows-4-top{count}", "evidence-detection", {"top_k": count}, rescored_from="windows-4")
            for count in TOP_KS
        ),
        _windows("windows-4-int8", 4, embeddings="int8"),
        # The region's own pixels tell the demo's teacher more than its map does, and fewer pixels tell it less.
        _windows("windows-4-better", 4, region_encoder="crop"),
        _windows("windows-4-worse", 4, teacher_size=192),
        *(_extra(f"mosaics-{count}", crops=0, mosaics=count) for count in (1, 2, 4)),
        *(_extra(f"crops-{count}", crops=count, mosaics=0) for count in (1, 4)),
    )
}
"""By name."""


def command_of(made: LabelSet) -> list[str]:
    """Arguments of the `richsem-prep` that makes it, or goes on with it; one worker, so that its time is its own."""
    if made.rescored_from is not None:
        return ["rescore", str(made.out), "--label-set", made.name, "--from", made.rescored_from, *_given(made.options)]
    where = {"dataset": made.pictures, "root": DATA / "evidence", "out": made.out, "label_set": made.name}
    shared = {"executor": "inline", "samples_per_shard": 256, "teacher_size": TEACHER_SIZE}
    return ["shard", *_given({**where, **shared, **made.options})]


def _given(options: dict[str, Any]) -> list[str]:
    return [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
