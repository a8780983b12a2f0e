"""All that is said of detections beside their AP: by class, by kind of error, by score."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.scoring.box_errors import BoxErrors, Outcome, above, find_box_errors
from richsem_schemas.scoring.class_scores import ClassScores, best_thresholds, class_scores
from richsem_schemas.scoring.detections import Detections
from richsem_schemas.scoring.evaluation import GroundTruth, evaluated, metrics_of, numbered

CALIBRATION_BINS = 10


@dataclass(frozen=True, eq=False)
class Calibration:
    """How often detections of a score are right, at IoU 0.5.

    Attributes:
        error: expected calibration error, the mean distance of score and share of right ones, weighted by counts.
        scores: float64 [B], mean score of each bin that has detections.
        accuracies: float64 [B], share of right ones among them.
        counts: int64 [B].
        class_errors: expected calibration error of each class that has detections, by name; of classes of one name
            one.
    """

    error: float
    scores: NDArray[np.float64]
    accuracies: NDArray[np.float64]
    counts: NDArray[np.int64]
    class_errors: dict[str, float]


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What is said of the detections of a split with K classes.

    Attributes:
        metrics: of `evaluation.score`.
        classes: of each class.
        thresholds: float64 [K], the score from which on a class is detected best (`best_thresholds`).
        tide: by how much AP50 would rise without the errors of a kind, by TIDE's names (Cls, Loc, Both, Dupe, Bkg,
            Miss); 0 to 1.
        calibration: of all detections.
        confusion: int64 [K + 1, K + 1], objects (rows) by what the detections above the thresholds take them for
            (columns), whatever the class; the last row has detections of no object, the last column objects that
            nothing lies on.
        errors: of the detections above the thresholds.
    """

    metrics: dict[str, float]
    classes: ClassScores
    thresholds: NDArray[np.float64]
    tide: dict[str, float]
    calibration: Calibration
    confusion: NDArray[np.int64]
    errors: BoxErrors


def diagnose(truth: GroundTruth, detections: Detections, *, max_detections: int = 300) -> Diagnosis:
    """Say all of detections that is said of them; arguments and errors are those of `evaluation.score`.

    Source:
        Metrics, TIDE's errors, confusion and calibration are `hotcoco`'s, the former two equal to `lvis`, `pycocotools`
        and `tidecv`. Differs: TIDE's means are over the classes that have boxes.
    """
    kept = numbered(truth, detections, max_detections=max_detections)
    evaluator = evaluated(truth, kept, max_detections=max_detections)
    classes = class_scores(evaluator)
    thresholds = best_thresholds(classes)
    tide, calibration = evaluator.tide_errors(), evaluator.calibration(n_bins=CALIBRATION_BINS)
    metrics = metrics_of(truth, evaluator)
    # It holds all detections once more.
    del evaluator
    shown = above(kept, thresholds)
    errors = find_box_errors(truth, shown, evaluated(truth, shown, max_detections=max_detections))
    return Diagnosis(
        metrics=metrics,
        classes=classes,
        thresholds=thresholds,
        tide={name: tide["delta_ap"][name] for name in ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")},
        calibration=_calibration(calibration),
        confusion=_confusion(truth, shown[errors.outcomes != Outcome.IGNORED]),
        errors=errors,
    )


def _calibration(told: dict[str, Any]) -> Calibration:
    bins = [each for each in told["bins"] if each["count"]]
    return Calibration(
        error=told["ece"],
        scores=np.array([each["avg_confidence"] for each in bins]),
        accuracies=np.array([each["avg_accuracy"] for each in bins]),
        counts=np.array([each["count"] for each in bins], np.int64),
        class_errors=dict(told["per_category"]),
    )


def _confusion(truth: GroundTruth, counted: Detections) -> NDArray[np.int64]:
    """Of the detections that the protocol counts: in a picture LVIS knows of some classes only."""
    evaluator = evaluated(truth, counted)
    matrix: NDArray[np.int64] = evaluator.confusion_matrix(max_det=max(len(counted), 1))["matrix"].astype(np.int64)
    return matrix
