"""The boxes of a shard's wholes and of their noised copies, as arrays of about equally many."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.cache.alike_views import AlikeViews
from richsem_schemas.cache.index import Rows

BOXES_AT_ONCE = 1024
"""Bounds the memory of one thread: a few arrays of so many rows of float64 probabilities."""


@dataclass(frozen=True, eq=False)
class BoxBatch:
    """R regions of one shard that show annotated boxes.

    Attributes:
        samples: int64 [R], the picture of each: its position in the shard.
        regions: [R] of `RecordLayout.region_dtype`.
    """

    samples: NDArray[np.int64]
    regions: NDArray[np.void]

    def __len__(self) -> int:
        return len(self.regions)

    def __getitem__(self, chosen: NDArray[np.integer] | slice) -> "BoxBatch":
        """Some of them."""
        return BoxBatch(self.samples[chosen], self.regions[chosen])

    @property
    def boxes(self) -> NDArray[np.int64]:
        """[R] one number for each annotated box of the shard: the same for a box and its noised copies."""
        return (self.samples << 32) + self.regions["annotation"].astype(np.int64)

    @property
    def categories(self) -> NDArray[np.int64]:
        """[R] the class of each, a row of the cache's vocabulary."""
        return np.asarray(self.regions["category_id"].astype(np.int64))

    def parts(self) -> Iterator["BoxBatch"]:
        """The same regions, at most `BOXES_AT_ONCE` at a time."""
        for start in range(0, len(self), BOXES_AT_ONCE):
            yield self[start : start + BOXES_AT_ONCE]

    @classmethod
    def joined(cls, batches: list["BoxBatch"]) -> "BoxBatch":
        """One or more of them, one after the other."""
        if len(batches) == 1:
            return batches[0]
        samples, regions = ([getattr(batch, name) for batch in batches] for name in ("samples", "regions"))
        return cls(np.concatenate(samples), np.concatenate(regions))


def box_batches(views: Iterable[tuple[Rows, AlikeViews]]) -> Iterator[BoxBatch]:
    """Gather the regions of views, with their rows of the index, in batches of about `BOXES_AT_ONCE`.

    Views are of many shapes, so a shape alone may have few of them; the last batch may be small, none is empty.
    """
    waiting: list[BoxBatch] = []
    for rows, alike in views:
        samples_V = rows["sample"].astype(np.int64)
        for start, part in _parts(alike):
            shown = samples_V[start : start + len(part)]
            batch = BoxBatch(np.repeat(shown, alike.regions), part["regions"].reshape(-1))
            waiting += [batch] if len(batch) else []
            if sum(map(len, waiting)) >= BOXES_AT_ONCE:
                yield BoxBatch.joined(waiting)
                waiting = []
    if waiting:
        yield BoxBatch.joined(waiting)


def _parts(alike: AlikeViews) -> Iterator[tuple[int, NDArray[np.void]]]:
    """Records of about `BOXES_AT_ONCE` regions, and the number of the first."""
    views = max(BOXES_AT_ONCE // max(alike.regions, 1), 1)
    for start in range(0, len(alike.records), views):
        yield start, alike.records[start : start + views]
