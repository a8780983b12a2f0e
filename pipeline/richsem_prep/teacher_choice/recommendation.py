"""Which of several teachers to take: the one that knows the classes best, or the fastest of those as good."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from richsem_prep.teacher_choice.judged_teacher import JudgedTeacher

_ERRORS = 2.0
"""Standard errors within which two teachers are told to be as good as each other."""


@dataclass(frozen=True)
class Recommendation:
    """The teacher to take.

    Attributes:
        teacher: its name.
        reason: in words.
    """

    teacher: str
    reason: str


@dataclass(frozen=True)
class Difference:
    """How much more often the best teacher is right than another, mean over classes, and its standard error."""

    mean: float
    error: float

    @property
    def is_chance(self) -> bool:
        """Whether it may well be none."""
        return self.mean <= _ERRORS * self.error

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} ± {100 * _ERRORS * self.error:.1f} points"


def recommend(
    judged: Sequence[JudgedTeacher], rows_R: NDArray[np.int64], are_right: Mapping[str, NDArray[np.bool_]]
) -> Recommendation:
    """Recommend one of one or more teachers that saw the same R boxes.

    Args:
        judged: the teachers.
        rows_R: the boxes' classes.
        are_right: by teacher, bool [R], whether its most probable class is the box's.
    """
    best = max(judged, key=lambda each: each.top_1.over_classes)
    known = f"top 1 {best.top_1.over_classes:.1%} as the mean over classes"
    others = [each for each in judged if each is not best]
    if not others:
        return Recommendation(best.name, f"{known}; there is no other to compare it with")
    differences = {each.name: difference(are_right[best.name], are_right[each.name], rows_R) for each in others}
    alike = [best, *(each for each in others if differences[each.name].is_chance)]
    fastest = max(alike, key=lambda each: each.regions_per_second)
    if fastest is not best:
        times = fastest.regions_per_second / best.regions_per_second
        return Recommendation(
            fastest.name,
            f"it sees {times:.1f} times as many regions a second as {best.name}, which these boxes don't show to be "
            f"better: {differences[fastest.name]} in top 1, mean over classes",
        )
    told = "; ".join(
        f"{each.name} has {differences[each.name]} less" + (", perhaps by chance, and is slower" * (each in alike))
        for each in others
    )
    return Recommendation(best.name, f"{known}, the highest: {told}")


def difference(best_R: NDArray[np.bool_], other_R: NDArray[np.bool_], rows_R: NDArray[np.int64]) -> Difference:
    """The paired difference of two teachers' top 1, mean over classes.

    Boxes of a class are a sample of it, so the variance is that within classes, taken together; where each class has
    one box alone it is that of all boxes.
    """
    deltas_R = best_R.astype(np.float64) - other_R
    _, classes_R, sizes_C = np.unique(rows_R, return_inverse=True, return_counts=True)
    means_C = np.bincount(classes_R, deltas_R) / sizes_C
    freedom = len(deltas_R) - len(sizes_C)
    residuals = deltas_R - (means_C[classes_R] if freedom else deltas_R.mean())
    variance = float((residuals**2).sum() / max(freedom or len(deltas_R) - 1, 1))
    return Difference(float(means_C.mean()), float(np.sqrt(variance * (1 / sizes_C).sum()) / len(sizes_C)))
