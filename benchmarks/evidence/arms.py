"""The arms of the experiment: what differs between them, and nothing else does."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks.evidence.label_sets import CACHES, TOP_KS

Tier = Literal["b", "c"]
Group = Literal["baseline", "branch", "online", "windows", "extra", "labels", "dropped", "teachers"]

DETECTION = str(CACHES / "evidence-detection")
EXTRA = str(CACHES / "evidence")

RATIOS = (0.25, 0.5, 0.75)

EPOCHS = 4
"""Over the detection pictures. Arms with extra pictures take as many steps, half of them on these."""


@dataclass(frozen=True)
class Arm:
    """A way to learn.

    Attributes:
        name: of its files.
        title: in words.
        tier: b is run with as many seeds as the budget gives, c with one, as a trial.
        group: the question that it belongs to.
        config: over `base.yaml`.
        label_sets: that it learns from.
        online: batches that a live teacher labels; None where there is none.
        passes: views of a picture that its labels are stored for; None without stored views.
        drop_ratio: share of the training boxes that are dropped.
    """

    name: str
    title: str
    tier: Tier
    group: Group
    config: dict[str, Any] = field(default_factory=dict)
    label_sets: tuple[str, ...] = ()
    online: Literal["detection", "extra", "both"] | None = None
    passes: int | None = None
    drop_ratio: float = 0.0


HARD_BRANCH = {"detection": {"labels": "hard"}}
NO_BRANCH = {"model": {"semantic_branch": False}}


def _detection(label_set: str, views: str, **more: Any) -> dict[str, Any]:
    section = {"labels": "cache", "views": views, "cache": DETECTION, "label_set": label_set, **more}
    return {"detection": section}


def _extra(label_set: str, **more: Any) -> dict[str, Any]:
    section = {"cache": EXTRA, "label_set": label_set, "labels": "embedding", "views": "mosaics", "lanes": 16, **more}
    return {"extra": section, "schedule": {"epochs": EPOCHS // 2}}


def _windows() -> Iterator[Arm]:
    for views in ("stored", "fresh"):
        for count in (1, 4, 2, 8):
            yield Arm(
                f"{views}-{count}",
                f"{views} windows, K = {count}",
                "b" if count in (1, 4) else "c",
                "windows",
                _detection(f"windows-{count}", views),
                (f"windows-{count}",),
                passes=count,
            )


def _mosaics() -> Iterator[Arm]:
    for count in (1, 4, 2):
        yield Arm(
            f"mosaics-{count}",
            f"mosaics, V = {count}",
            "c" if count == 2 else "b",
            "extra",
            _extra(f"mosaics-{count}"),
            (f"mosaics-{count}",),
            passes=count,
        )


def _crops() -> Iterator[Arm]:
    for count in (1, 4):
        for views, title in (("crops", "crops"), ("free-mosaics", "free mosaics of crops")):
            yield Arm(
                f"{views}-{count}",
                f"{title}, K = {count}",
                "c",
                "extra",
                _extra(f"crops-{count}", views=views),
                (f"crops-{count}",),
                passes=count,
            )


def _small_labels() -> Iterator[Arm]:
    for count in TOP_KS:
        for tail in ("bucket", "uniform", "renormalise"):
            label_set = f"windows-4-top{count}"
            config = {**_detection(label_set, "stored", label_form="topk"), "loss": {"tail": tail}}
            title = f"top {count} of 145 classes, tail: {tail}"
            yield Arm(f"top{count}-{tail}", title, "c", "labels", config, (label_set,), passes=4)
    config = _detection("windows-4-int8", "stored")
    yield Arm("int8", "embeddings of 8 bits", "c", "labels", config, ("windows-4-int8",), passes=4)


def _dropped() -> Iterator[Arm]:
    for ratio in RATIOS:
        partial = {"train": {"annotations": f"evidence-dropped/{ratio:g}.json", "images": "evidence/detection/train"}}
        fresh = _detection("windows-4", "fresh", **partial)
        without = f"{ratio:.0%} of the boxes dropped, "
        yield Arm(
            f"dropped-{ratio:g}-hard",
            without + "hard labels",
            "c",
            "dropped",
            {**NO_BRANCH, "detection": partial},
            drop_ratio=ratio,
        )
        yield Arm(
            f"dropped-{ratio:g}-soft",
            without + "soft labels",
            "c",
            "dropped",
            fresh,
            ("windows-4",),
            passes=4,
            drop_ratio=ratio,
        )


def _teachers() -> Iterator[Arm]:
    for kind, what in (("better", "sees each region's own pixels"), ("worse", "sees half as many pixels")):
        label_set = f"windows-4-{kind}"
        title = f"{kind} teacher ({what})"
        yield Arm(kind, title, "c", "teachers", _detection(label_set, "fresh"), (label_set,), passes=4)


_ONLINE_EXTRA = _extra("mosaics-4", labels="hard")

ARMS: tuple[Arm, ...] = (
    Arm("baseline", "hard labels, no branch", "b", "baseline", NO_BRANCH),
    Arm("branch", "hard labels in the branch, too", "b", "branch", HARD_BRANCH),
    Arm("online-detection", "online teacher on detection pictures", "b", "online", HARD_BRANCH, online="detection"),
    *_windows(),
    Arm("online-extra", "online teacher on extra pictures", "b", "online", _ONLINE_EXTRA, ("mosaics-4",), "extra"),
    *_mosaics(),
    Arm(
        "online-both",
        "online teacher on both",
        "b",
        "online",
        {**HARD_BRANCH, **_ONLINE_EXTRA},
        ("mosaics-4",),
        "both",
    ),
    Arm(
        "cached-both",
        "fresh windows, K = 4, and mosaics, V = 4",
        "c",
        "extra",
        {**_detection("windows-4", "fresh"), **_extra("mosaics-4")},
        ("windows-4", "mosaics-4"),
        passes=4,
    ),
    Arm(
        "extra-hard",
        "extra mosaics with hard labels, no branch",
        "c",
        "extra",
        {**NO_BRANCH, **_extra("mosaics-4", labels="hard")},
        ("mosaics-4",),
    ),
    *_crops(),
    *_small_labels(),
    *_dropped(),
    *_teachers(),
)
