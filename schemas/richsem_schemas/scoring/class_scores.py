"""Average precision and precision over recall of each class, and the score at which a class does best."""

from dataclasses import dataclass

import hotcoco
import numpy as np
from numpy.typing import NDArray

from richsem_schemas.scoring.metrics import NOT_DEFINED

_ALL_AREAS, _LARGEST_LIMIT = 0, -1
"""Places of what AP is taken over, in the evaluator's arrays."""

_IOU_50 = 0
"""Place of the lowest IoU threshold."""


@dataclass(frozen=True, eq=False)
class ClassScores:
    """The results of K classes, in the order of `GroundTruth.category_ids`; NaN where a class has no box to find.

    Attributes:
        aps: float64 [K], over IoU 0.50:0.05:0.95, from 0 to 1.
        aps50: float64 [K], at IoU 0.5.
        recalls: float64 [R], ascending.
        precisions50: float64 [K, R], the highest precision at each recall or beyond it, at IoU 0.5; 0 beyond what is
            reached.
        scores50: float64 [K, R], of the detection by which each recall is reached; 0 beyond.
    """

    aps: NDArray[np.float64]
    aps50: NDArray[np.float64]
    recalls: NDArray[np.float64]
    precisions50: NDArray[np.float64]
    scores50: NDArray[np.float64]


def class_aps(evaluator: hotcoco.COCOeval) -> NDArray[np.float64]:
    """Average precision of each class, float64 [K]; NaN where it has no box to find.

    Their mean over the classes that have one is AP.
    """
    return _means(_precision(evaluator))


def class_scores(evaluator: hotcoco.COCOeval) -> ClassScores:
    """The results of each class, of an evaluator that did its work (`evaluation.evaluated`)."""
    precision_TRK = _precision(evaluator)
    assert evaluator.eval is not None
    precisions_KR = precision_TRK[_IOU_50].T
    scores_KR = evaluator.eval["scores"][_IOU_50, :, :, _ALL_AREAS, _LARGEST_LIMIT].T
    is_defined = (precisions_KR > NOT_DEFINED).any(axis=1, keepdims=True)
    return ClassScores(
        aps=_means(precision_TRK),
        aps50=_means(precision_TRK[:1]),
        recalls=np.array(evaluator.params.rec_thrs),
        precisions50=np.where(is_defined, precisions_KR, np.nan),
        scores50=np.where(is_defined, scores_KR, np.nan),
    )


def best_thresholds(scores: ClassScores) -> NDArray[np.float64]:
    """The score from which on each class is detected best: where precision and recall have their highest F1.

    Classes of which nothing is found, or that have no box to find, take the median of the others; 0.5 where there is
    none.

    Returns:
        float64 [K].
    """
    precisions = np.nan_to_num(scores.precisions50)
    with np.errstate(invalid="ignore", divide="ignore"):
        f1_KR = np.nan_to_num(2 * precisions * scores.recalls / (precisions + scores.recalls))
    best = f1_KR.argmax(axis=1)
    is_found = f1_KR.max(axis=1, initial=0) > 0
    thresholds = np.take_along_axis(scores.scores50, best[:, None], axis=1)[:, 0]
    return np.where(is_found, thresholds, np.median(thresholds[is_found]) if is_found.any() else 0.5)


def _precision(evaluator: hotcoco.COCOeval) -> NDArray[np.float64]:
    """Precision over all areas under the largest limit, by IoU thresholds T, recalls R and classes K."""
    assert evaluator.eval is not None, "it did its work"
    precision: NDArray[np.float64] = evaluator.eval["precision"][:, :, :, _ALL_AREAS, _LARGEST_LIMIT]
    return precision


def _means(precision_TRK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the values that are defined, which are all or none of a class."""
    is_defined = (precision_TRK > NOT_DEFINED).all(axis=(0, 1))
    return np.where(is_defined, precision_TRK.mean(axis=(0, 1)), np.nan)
