"""What is asked of the arms, and which arm is held against which to answer it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.evidence.arms import Arm

Pair = tuple[Arm, Arm]
"""An arm and what it is held against."""


@dataclass(frozen=True)
class Question:
    """One question with a section of its own.

    Attributes:
        title: the heading; its anchor follows from it, and links of other pages lead there.
        asked: in a sentence.
        pairs: whom to compare, of all arms; the first is said to be better, worse, or as good as the second.
        reference_is_told: whether an answer names what an arm is held against, since the question doesn't.
        ladder: whether arms are steps of a ladder, so that there may be one from which on all are as good.
    """

    title: str
    asked: str
    pairs: Callable[[Sequence[Arm]], Iterator[Pair]]
    reference_is_told: bool = False
    ladder: bool = False

    def arms(self, arms: Sequence[Arm]) -> list[Arm]:
        """The arms of the section, in the order of their declaration."""
        compared = {arm.name for pair in self.pairs(arms) for arm in pair}
        return [arm for arm in arms if arm.name in compared]


def in_order(arms: Sequence[Arm]) -> list[Arm]:
    """As they are declared, but those of one kind together, by the number of their views."""
    kinds = list(dict.fromkeys((arm.group, kind_of(arm)) for arm in arms))
    return sorted(arms, key=lambda arm: (kinds.index((arm.group, kind_of(arm))), arm.passes or 0))


def kind_of(arm: Arm) -> str:
    """The kind of views of an arm that stores several, such as `fresh` of `fresh-4`."""
    return arm.name.rpartition("-")[0]


def _grouped(arms: Sequence[Arm], group: str) -> list[Arm]:
    return [arm for arm in arms if arm.group == group]


def _online(arms: Sequence[Arm], batches: str) -> list[Arm]:
    return [arm for arm in arms if arm.online == batches]


def _stored(arms: Sequence[Arm], *kinds: str) -> list[Arm]:
    """Arms whose labels are stored for some number of views of these kinds."""
    return [arm for arm in arms if arm.group in ("windows", "extra") and arm.passes and kind_of(arm) in kinds]


def _as_many(arms: Sequence[Arm], kind: str, like: Arm) -> list[Arm]:
    """The arm of a kind with as many views as another."""
    return [arm for arm in _stored(arms, kind) if arm.passes == like.passes]


def _both(arms: Sequence[Arm]) -> list[Arm]:
    """Cached labels on detection pictures and on extra ones."""
    return [arm for arm in arms if arm.name == "cached-both"]


def _branch(arms: Sequence[Arm]) -> Iterator[Pair]:
    """The branch with hard labels over no branch; then the teacher's labels over no branch, and over hard ones."""
    for baseline in _grouped(arms, "baseline"):
        yield from ((branch, baseline) for branch in _grouped(arms, "branch"))
        yield from ((online, baseline) for online in _online(arms, "detection"))
    yield from ((online, branch) for online in _online(arms, "detection") for branch in _grouped(arms, "branch"))


def _windows(arms: Sequence[Arm]) -> Iterator[Pair]:
    yield from ((arm, online) for online in _online(arms, "detection") for arm in _stored(arms, "stored", "fresh"))


def _stored_or_fresh(arms: Sequence[Arm]) -> Iterator[Pair]:
    yield from ((fresh, stored) for fresh in _stored(arms, "fresh") for stored in _as_many(arms, "stored", fresh))


def _crops_and_mosaics(arms: Sequence[Arm]) -> Iterator[Pair]:
    cached = _stored(arms, "mosaics", "crops", "free-mosaics")
    yield from ((arm, online) for online in _online(arms, "extra") for arm in cached)


def _both_online(arms: Sequence[Arm]) -> Iterator[Pair]:
    yield from ((cached, online) for online in _online(arms, "both") for cached in _both(arms))


def _extra_pictures(arms: Sequence[Arm]) -> Iterator[Pair]:
    """Extra pictures over none: beside hard labels on detection pictures, then beside the teacher's."""
    extra = [arm for arm in arms if arm.online == "extra" or (arm.group == "extra" and arm not in _both(arms))]
    yield from ((arm, baseline) for baseline in _grouped(arms, "baseline") for arm in extra)
    yield from ((both, alone) for both in _online(arms, "both") for alone in _online(arms, "detection"))
    yield from ((both, alone) for both in _both(arms) for alone in _as_many(arms, "fresh", both))


def _labels(arms: Sequence[Arm]) -> Iterator[Pair]:
    """Smaller labels over whole embeddings of the same windows."""
    yield from ((arm, whole) for arm in _grouped(arms, "labels") for whole in _as_many(arms, "stored", arm))


def _dropped(arms: Sequence[Arm]) -> Iterator[Pair]:
    """Soft labels over hard ones with as many boxes dropped; none at first."""
    dropped = _grouped(arms, "dropped")
    soft = [arm for arm in dropped if arm.passes]
    for without in _grouped(arms, "baseline"):
        yield from ((arm, without) for some in soft[:1] for arm in _as_many(arms, "fresh", some))
    yield from (
        (arm, hard) for arm in soft for hard in dropped if not hard.passes and hard.drop_ratio == arm.drop_ratio
    )


def _teachers(arms: Sequence[Arm]) -> Iterator[Pair]:
    yield from ((arm, usual) for arm in _grouped(arms, "teachers") for usual in _as_many(arms, "fresh", arm))


LABEL_SIZE = "Label size"

QUESTIONS = (
    Question(
        "The branch alone",
        "How much of the gain is the branch's own, taught by hard labels, and how much the teacher's?",
        _branch,
        reference_is_told=True,
    ),
    Question(
        "Windows",
        "Is a cached label of a detection picture as good as an online one, and from which K on?",
        _windows,
        ladder=True,
    ),
    Question("Stored or fresh", "Do windows drawn anew, with borrowed labels, beat stored ones?", _stored_or_fresh),
    Question(
        "Crops and mosaics",
        "Is a cached label of an extra picture as good as an online one, and from which K and V on?",
        _crops_and_mosaics,
        ladder=True,
    ),
    Question("Both", "Are cached labels on both kinds of pictures as good as online ones?", _both_online),
    Question(
        "Extra pictures", "When do extra pictures pay, in as many steps?", _extra_pictures, reference_is_told=True
    ),
    Question(LABEL_SIZE, "How small may a label be?", _labels),
    Question("Dropped annotations", "Do semantics help where boxes are missing?", _dropped),
    Question("Teachers", "What does a better or a worse teacher change?", _teachers),
)

AGAINST_ONLINE = (_windows, _crops_and_mosaics, _both_online)
"""Pairs of cached and online labels of the same pictures."""
