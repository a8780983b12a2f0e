"""Top-k accuracy: how often a box's class is among its most probable ones."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from richsem_prep.analyses.judged_classes import GROUPS, JudgedClasses


@dataclass(frozen=True)
class GroupSize:
    """What a figure of a group is over.

    Attributes:
        categories: those with boxes.
    """

    boxes: int
    categories: int


@dataclass(frozen=True)
class Accuracy:
    """How often a box's class is among its `top_k` most probable ones, by group; None where a group has no box.

    Attributes:
        over_categories: mean of the accuracies of all categories with boxes, so that each counts alike.
        over_boxes: share of boxes.
    """

    top_k: int
    over_categories: dict[str, float | None]
    over_boxes: dict[str, float | None]


@dataclass(frozen=True, eq=False)
class Hits:
    """Counts by class: boxes, int64 [C], and those whose class is among the `top_k` most probable, int64 [K, C]."""

    top_k: tuple[int, ...]
    boxes: NDArray[np.int64]
    hits: NDArray[np.int64]

    def __add__(self, other: "Hits") -> "Hits":
        return Hits(self.top_k, self.boxes + other.boxes, self.hits + other.hits)

    @classmethod
    def none(cls, top_k: tuple[int, ...], classes: int) -> "Hits":
        """Of no box."""
        return cls(top_k, np.zeros(classes, np.int64), np.zeros((len(top_k), classes), np.int64))

    @classmethod
    def of(
        cls,
        ids_RK: NDArray[np.integer],
        categories_R: NDArray[np.integer],
        classes: JudgedClasses,
        top_k: tuple[int, ...],
    ) -> "Hits":
        """Count R boxes.

        Args:
            ids_RK: rows of the text bank, most probable first, at least the largest of `top_k` of them.
            categories_R: the class of each box, a row of the vocabulary; those that can't be judged are left out.
            classes: of the vocabulary.
            top_k: numbers of most probable classes.
        """
        judged_R = classes.are_judged[categories_R]
        categories_R = categories_R[judged_R]
        is_own_RK = ids_RK[judged_R] == classes.text_rows[categories_R][:, None]
        count = len(classes.names)
        hits = [np.bincount(categories_R[is_own_RK[:, :k].any(axis=1)], minlength=count) for k in top_k]
        return cls(top_k, np.bincount(categories_R, minlength=count), np.stack(hits))

    def sizes(self, classes: JudgedClasses) -> dict[str, GroupSize]:
        """Boxes of each group, and its categories with boxes."""
        sizes = {}
        for group in GROUPS:
            boxes = self.boxes[classes.in_group(group)]
            sizes[group] = GroupSize(int(boxes.sum()), int((boxes > 0).sum()))
        return sizes

    def accuracies(self, classes: JudgedClasses) -> tuple[Accuracy, ...]:
        """One for each of `top_k`."""
        chosen = {group: classes.in_group(group) & (self.boxes > 0) for group in GROUPS}
        return tuple(
            Accuracy(
                k,
                {group: _mean(hits[some] / self.boxes[some]) for group, some in chosen.items()},
                {group: _share(hits[some].sum(), self.boxes[some].sum()) for group, some in chosen.items()},
            )
            for k, hits in zip(self.top_k, self.hits, strict=True)
        )


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None
