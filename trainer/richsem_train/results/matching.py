"""Which objects two detectors both found in a picture, and which only one of them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray

from richsem_schemas.errors import RichSemError
from richsem_schemas.pictures.boxes import iou
from richsem_schemas.scoring.detections import PictureDetections
from richsem_train.results.pictures import SAME_BOX_IOU
from richsem_train.results.prediction import ClassTable

SAME_OBJECT_IOU = 0.5
"""From here on boxes of one class are one object, as where a detector is scored at AP50."""

NEARLY = 0.5
"""Share of the threshold from which on the other's detection counts as well: an object that scores 0.31 here and 0.29
there was not missed there."""

_NOBODY = -1


@dataclass(frozen=True, eq=False)
class JoinedClasses:
    """Two vocabularies, joined by the names of their classes.

    Attributes:
        table: A's rows, then what only B has. A frequency is A's, or where A has none B's.
        rows_of_a: int64, the table's row of each row of A's.
        rows_of_b: the same of B's.
        only_a: names that only A knows.
        only_b: those that only B knows.
    """

    table: ClassTable
    rows_of_a: NDArray[np.int64]
    rows_of_b: NDArray[np.int64]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]

    @property
    def are_shared(self) -> NDArray[np.bool_]:
        """Of each row of the table, whether both know it."""
        unshared = {*self.only_a, *self.only_b, ""}
        return np.array([name not in unshared for name in self.table.names])


def join_classes(a: ClassTable, b: ClassTable) -> JoinedClasses:
    """Join two vocabularies by name; rows without one are no classes.

    Raises:
        RichSemError: they have no name in common.
    """
    known_to_a, known_to_b = (dict.fromkeys(filter(None, table.names)) for table in (a, b))
    only_a = tuple(name for name in known_to_a if name not in known_to_b)
    only_b = tuple(name for name in known_to_b if name not in known_to_a)
    if len(only_a) == len(known_to_a):
        raise RichSemError(
            f"the two detectors have no class in common: one knows {some_names(only_a)}, the other "
            f"{some_names(only_b)}; classes are joined by name: compare detectors of the same "
            "categories"
        )
    names = (*a.names, *only_b)
    frequency_of = {
        name: frequency
        for table in (b, a)
        for name, frequency in zip(table.names, table.frequencies, strict=True)
        if frequency
    }
    # The last is the first where a name has two rows.
    row_of = {name: row for row, name in reversed(list(enumerate(names)))}
    rows_of_a, rows_of_b = (np.array([row_of.get(name, 0) for name in table.names], np.int64) for table in (a, b))
    table = ClassTable(names, tuple(frequency_of.get(name, "") for name in names))
    return JoinedClasses(table, rows_of_a, rows_of_b, only_a, only_b)


def some_names(names: Sequence[str]) -> str:
    """The first of them, for messages."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


@dataclass(frozen=True, eq=False)
class Side:
    """The detections of one of two detectors in a picture, and what the other has of them.

    Attributes:
        found: D of them, best first, as rows of the joined vocabulary.
        partners: int64 [D], the index of the other's detection of the same object, -1 where there is none.
        are_shown: bool [D], one of each object that reaches the threshold here or there.
        are_known: bool [D], whether the other knows their class.
    """

    found: PictureDetections
    partners: NDArray[np.int64]
    are_shown: NDArray[np.bool_]
    are_known: NDArray[np.bool_]

    @property
    def are_both(self) -> NDArray[np.bool_]:
        """Bool [D], those that the other found too."""
        return self.partners != _NOBODY

    @property
    def are_only_here(self) -> NDArray[np.bool_]:
        """Bool [D], those that the other didn't find, although it could have."""
        return self.are_shown & self.are_known & ~self.are_both


def match_detections(
    a: PictureDetections, b: PictureDetections, *, are_shared: NDArray[np.bool_], score_threshold: float
) -> tuple[Side, Side]:
    """Pair the detections of two detectors, one to one.

    Two may be a pair where they have one class and an IoU of at least 0.5, and one of them reaches the threshold, the
    other at least half of it. Pairs are made greedily: first where both reach the threshold, then of the best
    score, then of the largest IoU. Swapping the two detectors swaps the outcome.

    Boxes of a side that nearly coincide (an IoU above 0.9) with a better one of their class take no part; and what is
    left without a partner but overlaps another object of its class and side by an IoU of at least 0.5 is that object
    once more, not one that the other missed. Neither is shown.

    Args:
        a: rows of a joined vocabulary as their categories.
        b: the same of the other detector.
        are_shared: of the vocabulary's rows, whether both detectors know them.
        score_threshold: from 0 to 1.
    """
    kept = (_without_copies(a, NEARLY * score_threshold), _without_copies(b, NEARLY * score_threshold))
    partners_a, partners_b = np.full(len(a), _NOBODY), np.full(len(b), _NOBODY)
    for one, other in _pairs(a, b, *kept, score_threshold):
        if partners_a[one] == partners_b[other] == _NOBODY:
            partners_a[one], partners_b[other] = other, one
    sides = []
    for found, partners, indexes in ((a, partners_a, kept[0]), (b, partners_b, kept[1])):
        reaching = indexes[found.scores[indexes] >= score_threshold]
        are_shown = _one_of_each(found, partners != _NOBODY, reaching)
        sides.append(Side(found, partners, are_shown, are_shared[found.category_ids]))
    return sides[0], sides[1]


def _one_of_each(
    found: PictureDetections, are_paired: NDArray[np.bool_], candidates: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """The pairs', and of the other candidates, the best first, those that are none of these objects once more."""
    are_shown = are_paired.copy()
    for index in candidates[~are_paired[candidates]].tolist():
        same_class = are_shown & (found.category_ids == found.category_ids[index])
        overlaps = iou(found.boxes_xyxy_px[same_class], found.boxes_xyxy_px[index])
        are_shown[index] = not (overlaps >= SAME_OBJECT_IOU).any()
    return are_shown


def _without_copies(found: PictureDetections, lowest_score: float) -> NDArray[np.int64]:
    """Indexes, best first, of those from a score on, without copies of a better box of their class."""
    # Scoring, which has no need of it, imports this module too.
    from torchvision.ops import batched_nms  # noqa: PLC0415

    (good,) = np.nonzero(found.scores >= lowest_score)
    # It moves each class's boxes to a place of their own, in single precision by fractions of a pixel.
    boxes, scores = (
        torch.from_numpy(values[good].astype(np.float64)) for values in (found.boxes_xyxy_px, found.scores)
    )
    return good[np.sort(batched_nms(boxes, scores, torch.from_numpy(found.category_ids[good]), SAME_BOX_IOU).numpy())]


def _pairs(
    a: PictureDetections,
    b: PictureDetections,
    kept_a: NDArray[np.int64],
    kept_b: NDArray[np.int64],
    score_threshold: float,
) -> list[tuple[int, int]]:
    """Indexes of all that may be a pair, in the order in which they are made one."""
    overlaps_AB = iou(a.boxes_xyxy_px[kept_a, None], b.boxes_xyxy_px[None, kept_b])
    scores_a, scores_b = a.scores[kept_a, None], b.scores[None, kept_b]
    better_AB, worse_AB = np.maximum(scores_a, scores_b), np.minimum(scores_a, scores_b)
    are_pairs_AB = (
        (a.category_ids[kept_a, None] == b.category_ids[None, kept_b])
        & (overlaps_AB >= SAME_OBJECT_IOU)
        & (better_AB >= score_threshold)
    )
    rows, columns = np.nonzero(are_pairs_AB)
    keys = (-overlaps_AB[rows, columns], -better_AB[rows, columns], worse_AB[rows, columns] < score_threshold)
    order = np.lexsort(keys)
    return list(zip(kept_a[rows[order]].tolist(), kept_b[columns[order]].tolist(), strict=True))


@dataclass(frozen=True)
class Tally:
    """Numbers of objects that were shown to be found.

    Attributes:
        both: by both detectors.
        only_a: by A alone.
        only_b: by B alone.
        unknown_to_a: by B, of classes that A doesn't know.
        unknown_to_b: by A, of classes that B doesn't know.
    """

    both: int = 0
    only_a: int = 0
    only_b: int = 0
    unknown_to_a: int = 0
    unknown_to_b: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


def tally(a: Side, b: Side, rows: NDArray[np.bool_]) -> Tally:
    """Count the objects of two sides of `match_detections` whose classes are these rows of the vocabulary."""
    in_a, in_b = (rows[side.found.category_ids] for side in (a, b))
    counted = (
        in_a & a.are_both,
        in_a & a.are_only_here,
        in_b & b.are_only_here,
        in_b & b.are_shown & ~b.are_known,
        in_a & a.are_shown & ~a.are_known,
    )
    return Tally(*(int(each.sum()) for each in counted))
