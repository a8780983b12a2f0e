"""What is asked of the arms, and which arm is held against which to answer it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.evidence.results import Arm

Pair = tuple[Arm, Arm]
"""An arm and what it is held against."""


@dataclass(frozen=True)
class Question:
    """One question with a section of its own.

    Attributes:
        title: the heading; its anchor follows from it, and links of other pages lead there.
        asked: in a sentence.
        groups: whose arms the section's table has, beside those they are held against.
        pairs: whom to compare, of all arms; the first is said to be better, worse, or as good as the second.
        ladder: whether arms are steps of a ladder, so that there may be one from which on all are as good.
    """

    title: str
    asked: str
    groups: tuple[str, ...]
    pairs: Callable[[Sequence[Arm]], Iterator[Pair]]
    ladder: bool = False

    def arms(self, arms: Sequence[Arm]) -> list[Arm]:
        """The arms of the section, in the order of their declaration."""
        compared = {arm.name for pair in self.pairs(arms) for arm in pair}
        return [arm for arm in arms if arm.group in self.groups or arm.name in compared]


def is_fresh(arm: Arm) -> bool:
    """Whether views are drawn anew in each showing, and borrow the labels of stored ones."""
    return not {"fresh", "free"}.isdisjoint(arm.name.split("-"))


def _grouped(arms: Sequence[Arm], *groups: str) -> list[Arm]:
    return [arm for arm in arms if arm.group in groups]


def _online(arms: Sequence[Arm], kind: str) -> list[Arm]:
    return [arm for arm in _grouped(arms, "online") if arm.online == kind]


def _branch(arms: Sequence[Arm]) -> Iterator[Pair]:
    """The branch with hard labels over no branch; then the teacher's labels over hard ones, and over no branch."""
    for baseline in _grouped(arms, "baseline"):
        yield from ((branch, baseline) for branch in _grouped(arms, "branch"))
        yield from ((online, baseline) for online in _online(arms, "detection"))
    yield from ((online, branch) for online in _online(arms, "detection") for branch in _grouped(arms, "branch"))


def _windows(arms: Sequence[Arm]) -> Iterator[Pair]:
    yield from ((arm, online) for online in _online(arms, "detection") for arm in _grouped(arms, "windows"))


def _stored_or_fresh(arms: Sequence[Arm]) -> Iterator[Pair]:
    for fresh in filter(is_fresh, _grouped(arms, "windows")):
        yield from (
            (fresh, stored) for stored in _grouped(arms, "windows") if not is_fresh(stored) and stored.k == fresh.k
        )


def _crops_and_mosaics(arms: Sequence[Arm]) -> Iterator[Pair]:
    yield from ((arm, online) for online in _online(arms, "extra") for arm in _grouped(arms, "crops", "mosaics"))


def _extra_pictures(arms: Sequence[Arm]) -> Iterator[Pair]:
    """Extra pictures over none: with hard labels on detection, then with the teacher's."""
    for baseline in _grouped(arms, "baseline"):
        yield from ((arm, baseline) for arm in (*_online(arms, "extra"), *_grouped(arms, "crops", "mosaics")))
    yield from ((both, alone) for both in _online(arms, "both") for alone in _online(arms, "detection"))


def _labels(arms: Sequence[Arm]) -> Iterator[Pair]:
    yield from _against_embeddings(arms, "labels")


def _teachers(arms: Sequence[Arm]) -> Iterator[Pair]:
    yield from _against_embeddings(arms, "teachers")


def _against_embeddings(arms: Sequence[Arm], group: str) -> Iterator[Pair]:
    """The arms of a group over the same views with the embeddings of the teacher that all others have."""
    for arm in _grouped(arms, group):
        for whole in _grouped(arms, "windows", "crops", "mosaics"):
            if (whole.k, whole.v, is_fresh(whole)) == (arm.k, arm.v, is_fresh(arm)):
                yield arm, whole


def _dropped(arms: Sequence[Arm]) -> Iterator[Pair]:
    """With semantics over without, at each ratio."""
    by_name = {arm.name: arm for arm in _grouped(arms, "dropped")}
    for name, arm in by_name.items():
        if name.endswith("-soft") and (without := by_name.get(name.removesuffix("soft") + "hard")):
            yield arm, without


LABEL_SIZE = "Label size"

QUESTIONS = (
    Question(
        "The branch alone",
        "How much of the gain is the branch's own, taught by hard labels, and how much the teacher's?",
        ("baseline", "branch"),
        _branch,
    ),
    Question(
        "Windows",
        "Is a cached label of a detection picture as good as an online one, and from which K on?",
        ("windows",),
        _windows,
        ladder=True,
    ),
    Question("Stored or fresh", "Do windows drawn anew, with borrowed labels, beat stored ones?", (), _stored_or_fresh),
    Question(
        "Crops and mosaics",
        "Is a cached label of an extra picture as good as an online one, and from which K and V on?",
        ("crops", "mosaics"),
        _crops_and_mosaics,
        ladder=True,
    ),
    Question("Extra pictures", "When do extra pictures pay?", ("online",), _extra_pictures),
    Question(LABEL_SIZE, "How small may a label be?", ("labels",), _labels),
    Question("Dropped annotations", "Do semantics help where boxes are missing?", ("dropped",), _dropped),
    Question("Teachers", "What does a better or a worse teacher change?", ("teachers",), _teachers),
)
