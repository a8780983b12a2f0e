"""The best detections of each category while pictures are detected, for protocols without a limit a picture."""

from collections.abc import Collection, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.scoring.detections import PictureDetections
from richsem_schemas.scoring.evaluation import best_of_each_category

_MOST_NEW = 4_000_000
"""Detections that are taken before those that can't count any more are dropped, 28 bytes each."""


def best_of_categories(
    found: Iterable[tuple[int, PictureDetections]], image_ids: Collection[int], limit: int
) -> Iterator[tuple[int, PictureDetections]]:
    """Pictures with those of their detections that are among the best `limit` of their category in all of them.

    A detector names each of its boxes by every class, a million pairs a picture: what is held are at most `limit`
    detections a category, and some million new ones.

    Args:
        found: image ids, each once and in any order, and what was found there.
        image_ids: of the same pictures, in the order to yield them.
        limit: of a category; of equal scores those of pictures of lower id are better, and within one the earlier ones.
    """
    held = _Held(limit)
    for image_id, detections in found:
        held.add(image_id, detections)
    held.prune()
    for image_id in image_ids:
        yield image_id, held.pictures.pop(image_id)


class _Held:
    def __init__(self, limit: int) -> None:
        self.pictures: dict[int, PictureDetections] = {}
        self._limit = limit
        self._least: NDArray[np.float32] = np.zeros(0, np.float32)
        """By category id, the score of the worst detection where there are `limit`, else minus infinity."""
        self._new = 0

    def add(self, image_id: int, detections: PictureDetections) -> None:
        categories = detections.category_ids
        most = int(categories.max(initial=-1)) + 1
        if most > len(self._least):
            self._least = np.append(self._least, np.full(most - len(self._least), -np.inf, np.float32))
        # What is no number stays, for the score to refuse.
        kept = detections[~(detections.scores < self._least[categories])]
        self.pictures[image_id] = kept
        self._new += len(kept)
        if self._new > _MOST_NEW:
            self.prune()

    def prune(self) -> None:
        """Drop what is not among the best of its category."""
        counts = [len(each) for each in self.pictures.values()]
        image_ids = np.repeat(np.array(list(self.pictures), np.int64), counts)
        categories, scores = self._columns()
        ranked = np.where(np.isfinite(scores), scores, np.inf)
        kept = best_of_each_category(image_ids, categories, ranked, self._limit)
        ends = np.cumsum(counts)
        for image_id, end, count in zip(list(self.pictures), ends.tolist(), counts, strict=True):
            self.pictures[image_id] = self.pictures[image_id][kept[end - count : end]]
        numbers = np.bincount(categories[kept], minlength=len(self._least))
        worst = np.full(len(self._least), np.inf, np.float32)
        np.minimum.at(worst, categories[kept], ranked[kept])
        self._least = np.where(numbers >= self._limit, worst, np.float32(-np.inf))
        self._new = 0

    def _columns(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        found = list(self.pictures.values())
        return (
            np.concatenate([np.zeros(0, np.int64), *(each.category_ids for each in found)]),
            np.concatenate([np.zeros(0, np.float32), *(each.scores for each in found)]),
        )
