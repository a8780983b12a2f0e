"""How strongly a teacher contradicts a label: confident learning's thresholds a class, and a margin of logarithms."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_BOXES_OF_ALL = 1
"""Boxes of the mean class that each class's threshold counts beside its own."""


@dataclass(frozen=True, eq=False)
class Contradiction:
    """What a teacher has against the labels of R boxes.

    Attributes:
        suggested: int64 [R], the class that it would give in the place of the label.
        scores: float64 [R], nats; above 0 where it prefers that class, by each class's own measure.
        log_probs: float64 [R], of the suggested class.
        is_confident: bool [R], whether confident learning counts the box as one of another class.
    """

    suggested: NDArray[np.int64]
    scores: NDArray[np.float64]
    log_probs: NDArray[np.float64]
    is_confident: NDArray[np.bool_]

    def __getitem__(self, chosen: NDArray[np.integer] | NDArray[np.bool_]) -> "Contradiction":
        """Those of some boxes."""
        return Contradiction(
            self.suggested[chosen], self.scores[chosen], self.log_probs[chosen], self.is_confident[chosen]
        )


def class_thresholds(
    own_probs_R: NDArray[np.float64], labels_R: NDArray[np.int64], classes: int
) -> NDArray[np.float64]:
    """How probable a teacher finds each class on the boxes that are labelled so, at the mean: [C], infinite of none.

    Each class counts one box more, of the mean of all classes: a class of one box would have no other to be judged by.

    Args:
        own_probs_R: of each box, the probability of its label.
        labels_R: columns, 0 <= label < C.
        classes: C.

    Source:
        Northcutt et al. 2021 (arXiv 1911.00068), equation 2. Differs: the box more.
    """
    counts = np.bincount(labels_R, minlength=classes)
    sums = np.bincount(labels_R, own_probs_R, minlength=classes)
    has_boxes = counts > 0
    mean = float((sums[has_boxes] / counts[has_boxes]).mean())
    thresholds: NDArray[np.float64] = np.full(classes, np.inf)
    thresholds[has_boxes] = (sums[has_boxes] + _BOXES_OF_ALL * mean) / (counts[has_boxes] + _BOXES_OF_ALL)
    return thresholds


def contradiction(
    log_probs_RC: NDArray[np.float64], labels_R: NDArray[np.int64], thresholds_C: NDArray[np.float64]
) -> Contradiction:
    """Judge the labels of R boxes, two classes or more having boxes.

    A box's score is the margin, in logarithms, between another class and its label, each probability taken by the
    threshold of its class: log(p_j / t_j) - log(p_y / t_y), at the class j where it is largest. So a class that the
    teacher finds less probable on all of its boxes is no suspect for that. Without thresholds it is the difference of
    two logits, and no temperature changes the order.

    Args:
        log_probs_RC: of all classes.
        labels_R: columns.
        thresholds_C: from `class_thresholds`; classes of infinite ones are never suggested.

    Source:
        Northcutt et al. 2021 (arXiv 1911.00068): thresholds, and the boxes that count as of another class. Differs:
        the order; theirs, by the probability of the label or its margin to another, is led by what a teacher confuses.
    """
    rows = np.arange(len(labels_R))
    with np.errstate(divide="ignore"):
        by_threshold_RC = log_probs_RC - np.log(thresholds_C)
    own_R = by_threshold_RC[rows, labels_R]
    # Of the classes that reach their thresholds the most probable one counts, not the one that is farthest above.
    reached_RC = np.where(by_threshold_RC >= 0, log_probs_RC, -np.inf)
    counted_R = reached_RC.argmax(axis=1)
    is_confident = np.isfinite(reached_RC[rows, counted_R]) & (counted_R != labels_R)
    by_threshold_RC[rows, labels_R] = -np.inf
    suggested = by_threshold_RC.argmax(axis=1)
    scores = by_threshold_RC[rows, suggested] - own_R
    return Contradiction(suggested, scores, log_probs_RC[rows, suggested], is_confident)
