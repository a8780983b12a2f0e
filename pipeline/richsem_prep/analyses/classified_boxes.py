"""The boxes of a label set's wholes, each with its most probable classes."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from richsem_prep.analyses.analysed_set import AnalysedSet, OnProgress
from richsem_prep.analyses.box_batches import BoxBatch, box_batches
from richsem_schemas.cache.alike_views import AlikeViews
from richsem_schemas.cache.index import Rows
from richsem_schemas.cache.shard import LabelShard
from richsem_schemas.errors import CorruptCacheError


@dataclass(frozen=True, eq=False)
class ClassifiedBoxes:
    """R annotated boxes of N pictures, each with its K most probable classes.

    Attributes:
        pictures: int64 [N], those with a whole: planned positions, counted over all shards.
        picture: int64 [R], the position of each box's picture.
        annotation: int32 [R], which of its picture's annotated boxes it is.
        categories: int32 [R], rows of the vocabulary.
        class_ids: int32 [R, K], rows of the text bank, most probable first.
        log_probs: float32 [R, K].
    """

    pictures: NDArray[np.int64]
    picture: NDArray[np.int64]
    annotation: NDArray[np.int32]
    categories: NDArray[np.int32]
    class_ids: NDArray[np.int32]
    log_probs: NDArray[np.float32]

    @classmethod
    def joined(cls, parts: list["ClassifiedBoxes"]) -> "ClassifiedBoxes":
        """One or more, one after the other."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))


def classify_boxes(
    analysed: AnalysedSet, *, threads: int | None = None, on_progress: OnProgress | None = None
) -> ClassifiedBoxes:
    """The most probable classes of all boxes of a set's wholes.

    Raises:
        CorruptCacheError: a shard is damaged.
    """
    return ClassifiedBoxes.joined(list(analysed.each_shard(partial(_of_shard, analysed), threads, on_progress)))


def _of_shard(analysed: AnalysedSet, shard: LabelShard) -> ClassifiedBoxes:
    plan = analysed.cache.manifest.plan
    first = shard.number * plan.samples_per_shard
    count = max(analysed.top_k)
    samples: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]

    def wholes() -> Iterator[tuple[Rows, AlikeViews]]:
        for _, rows, alike in shard.views_of_kinds(analysed.spec, ("whole",)):
            if rows["sample"].max(initial=0) >= plan.shard_samples(shard.number):
                raise CorruptCacheError(f"{shard.index}: has samples that the plan doesn't; {shard.remedy}")
            samples.append(rows["sample"].astype(np.int64))
            yield rows, alike

    parts = [_no_boxes(count)]
    for batch in box_batches(wholes()):
        parts.append(_classified(batch, *analysed.read(batch, shard).most_probable(count), first))
    joined = ClassifiedBoxes.joined(parts)
    return ClassifiedBoxes(
        first + np.sort(np.concatenate(samples)), joined.picture, joined.annotation, joined.categories,
        joined.class_ids, joined.log_probs,
    )  # fmt: skip


def _no_boxes(count: int) -> ClassifiedBoxes:
    nothing = np.zeros(0, np.int64)
    numbers = nothing.astype(np.int32)
    return ClassifiedBoxes(
        nothing, nothing, numbers, numbers, np.zeros((0, count), np.int32), np.zeros((0, count), np.float32)
    )


def _classified(
    batch: BoxBatch, class_ids_RK: NDArray[np.int64], log_probs_RK: NDArray[np.float64], first: int
) -> ClassifiedBoxes:
    regions = batch.regions
    return ClassifiedBoxes(
        np.zeros(0, np.int64),
        first + batch.samples,
        regions["annotation"].astype(np.int32),
        regions["category_id"].astype(np.int32),
        class_ids_RK.astype(np.int32),
        log_probs_RK.astype(np.float32),
    )
