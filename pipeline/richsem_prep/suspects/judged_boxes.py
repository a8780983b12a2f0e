"""Each annotated box of a label set once, as the view shows it that shows it largest."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from richsem_prep.analyses.analysed_set import AnalysedSet, OnProgress
from richsem_prep.analyses.box_batches import box_batches
from richsem_prep.suspects.class_columns import ClassColumns
from richsem_schemas.cache.shard import LabelShard
from richsem_schemas.cache.view import ViewKind

_Columns = TypeVar("_Columns", bound=tuple[NDArray, ...])

Judge = Callable[[NDArray[np.float64], NDArray[np.int64]], _Columns]
"""Makes arrays of R rows each, of log-probabilities [R, C] and labels int64 [R], columns of them."""


@dataclass(frozen=True, eq=False)
class BoxKeys:
    """R boxes.

    Attributes:
        picture: int64 [R], planned position, counted over all shards.
        annotation: int64 [R], which of its picture's annotated boxes each is.
        labels: int64 [R], columns.
    """

    picture: NDArray[np.int64]
    annotation: NDArray[np.int64]
    labels: NDArray[np.int64]


def view_kind(analysed: AnalysedSet) -> ViewKind:
    """Wholes, or, in a set without any, windows."""
    return "whole" if analysed.spec.views.whole else "window"


def judge_boxes(
    analysed: AnalysedSet,
    columns: ClassColumns,
    judge: Judge[_Columns],
    *,
    threads: int | None,
    on_progress: OnProgress | None,
) -> tuple[BoxKeys, tuple[NDArray, ...], int]:
    """What `judge` makes of all boxes that have a class that the text knows.

    Returns:
        The boxes, in the order of shards, pictures and annotations; the arrays of `judge`; the boxes left out.

    Raises:
        CorruptCacheError: a shard is damaged.
    """
    parts = list(analysed.each_shard(partial(_of_shard, analysed, columns, judge), threads, on_progress))
    keys = [np.concatenate([getattr(part.keys, name) for part in parts]) for name in BoxKeys.__dataclass_fields__]
    judged = tuple(np.concatenate(each) for each in zip(*(part.judged for part in parts), strict=True))
    return BoxKeys(*keys), judged, sum(part.left_out for part in parts)


@dataclass(frozen=True, eq=False)
class _Part:
    keys: BoxKeys
    judged: tuple[NDArray, ...]
    left_out: int


def _of_shard(analysed: AnalysedSet, columns: ClassColumns, judge: Judge[_Columns], shard: LabelShard) -> _Part:
    numbers, areas, labels, judged = [], [], [], []
    for box, area, columns_R, found in _judged_batches(analysed, columns, judge, shard):
        numbers.append(box)
        areas.append(area)
        labels.append(columns_R)
        judged.append(found)
    if not numbers:
        nothing = np.zeros(0, np.int64)
        empty = judge(np.zeros((0, len(columns.rows))), nothing)
        return _Part(BoxKeys(nothing, nothing, nothing), empty, 0)
    box_R, area_R, label_R = np.concatenate(numbers), np.concatenate(areas), np.concatenate(labels)
    # By box, the view of the largest area first; of equal ones the first pass.
    order = np.lexsort((-area_R, box_R))
    chosen = order[np.diff(box_R[order], prepend=-1) != 0]
    is_known = label_R[chosen] >= 0
    left_out = int((~is_known).sum())
    chosen = chosen[is_known]
    first = shard.number * analysed.cache.manifest.plan.samples_per_shard
    keys = BoxKeys(first + (box_R[chosen] >> 32), box_R[chosen] & (2**32 - 1), label_R[chosen])
    return _Part(keys, tuple(np.concatenate(each)[chosen] for each in zip(*judged, strict=True)), left_out)


_Batch = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64], tuple[NDArray, ...]]


def _judged_batches(
    analysed: AnalysedSet, columns: ClassColumns, judge: Judge[_Columns], shard: LabelShard
) -> Iterator[_Batch]:
    """Of regions: the number of the box, the area shown, the column of the label (-1 without), what is made of them.

    A region without a label is judged as if it had the first one, and left out later.
    """
    views = shard.views_of_kinds(analysed.spec, (view_kind(analysed),))
    for batch in box_batches((rows, alike) for _, rows, alike in views):
        left, top, right, bottom = batch.regions["box_xyxy_px"].astype(np.float64).T
        log_probs_RC = columns.log_probs(analysed.read(batch, shard))
        labels_R = columns.column_of[batch.categories]
        yield batch.boxes, (right - left) * (bottom - top), labels_R, judge(log_probs_RC, np.maximum(labels_R, 0))
