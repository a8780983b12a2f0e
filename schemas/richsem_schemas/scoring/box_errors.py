"""Why each wrong detection is wrong, and why each object that wasn't found wasn't: the error types of TIDE, box by box.

`hotcoco` says what they cost in AP, over all; here is which boxes they are.
"""

from dataclasses import dataclass
from enum import IntEnum

import hotcoco
import numpy as np
from numpy.typing import NDArray

from richsem_schemas.pictures.boxes import iou, xywh_to_xyxy
from richsem_schemas.scoring.detections import Detections
from richsem_schemas.scoring.evaluation import GroundTruth

FOUND_IOU, BACKGROUND_IOU = 0.5, 0.1
"""From the first on a box is on an object; up to the second it is on none. TIDE's."""

_PAIRS_AT_ONCE = 4_000_000
_NOBODY = -1


class Outcome(IntEnum):
    """What became of a detection, or of an object."""

    IGNORED = 0
    """It doesn't count, neither for nor against."""

    FOUND = 1
    """A detection of its class lies on it, or it lies on an object of its class."""

    WRONG_CLASS = 2
    POOR_BOX = 3
    BOTH = 4
    """Of detections: wrong class and poor box."""

    DUPLICATE = 5
    """Of detections: a better one has found that object."""

    BACKGROUND = 6
    """Of detections: there is no object."""

    MISSED = 7
    """Of objects: nothing lies on it."""


WRONG = (Outcome.WRONG_CLASS, Outcome.POOR_BOX, Outcome.BOTH, Outcome.DUPLICATE, Outcome.BACKGROUND)
"""Outcomes of detections that are wrong."""

NOT_FOUND = (Outcome.WRONG_CLASS, Outcome.POOR_BOX, Outcome.MISSED)
"""Outcomes of objects that were not found."""


@dataclass(frozen=True, eq=False)
class BoxErrors:
    """Outcomes of D detections and of the A boxes of the annotations.

    Attributes:
        detections: those that are looked at, with our numbers of pictures and categories (`evaluation.numbered`).
        outcomes: int64 [D], of `Outcome`.
        boxes: int64 [D], the box that a detection found or missed by class or place; -1 where there is none.
        box_outcomes: int64 [A].
        box_detections: int64 [A], the best detection that found or missed a box by class or place; -1 where there is
            none.
    """

    detections: Detections
    outcomes: NDArray[np.int64]
    boxes: NDArray[np.int64]
    box_outcomes: NDArray[np.int64]
    box_detections: NDArray[np.int64]


def find_box_errors(truth: GroundTruth, detections: Detections, evaluator: hotcoco.COCOeval) -> BoxErrors:
    """Tell the outcome of each detection and each box at IoU 0.5.

    Args:
        truth: what is compared with.
        detections: of `evaluation.numbered`, those above the scores from which on they are shown.
        evaluator: `evaluation.evaluated` with the same, which paired detections and boxes by its protocol.

    Source:
        Bolya et al. 2020, TIDE (arXiv 2008.08115), in the order of tests of `tidecv` 1.0.1: a detection that isn't
        paired has a poor box where it overlaps one of its class by 0.1 to 0.5, else the wrong class where it overlaps
        another by 0.5, else it is a duplicate where one of its class is paired with another detection, else background
        up to an overlap of 0.1, else both. An object that no detection of the first two kinds would find is missed.
    """
    detection_rows, box_rows, pairs = _paired(truth, detections, evaluator)
    wrong = np.flatnonzero(detection_rows == Outcome.BACKGROUND)
    outcomes, boxes = detection_rows, np.full(len(detections), _NOBODY)
    box_detections = np.full(len(box_rows), _NOBODY)
    boxes[pairs[0]], box_detections[pairs[1]] = pairs[1], pairs[0]
    outcomes[wrong], boxes[wrong] = _wrong_outcomes(truth, detections[wrong], box_rows)
    pointing = wrong[np.isin(outcomes[wrong], (Outcome.WRONG_CLASS, Outcome.POOR_BOX))]
    # The best is written last.
    pointing = pointing[np.argsort(detections.scores[pointing], kind="stable")]
    pointing = pointing[box_rows[boxes[pointing]] == Outcome.MISSED]
    box_detections[boxes[pointing]] = pointing
    usable = np.flatnonzero((box_rows == Outcome.MISSED) & (box_detections != _NOBODY))
    box_rows[usable] = outcomes[box_detections[usable]]
    return BoxErrors(detections, outcomes, boxes, box_rows, box_detections)


def _paired(
    truth: GroundTruth, detections: Detections, evaluator: hotcoco.COCOeval
) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Outcomes as far as the evaluator tells them, and its pairs: detections as found or background, boxes as missed.

    Returns:
        int64 [D], int64 [A], and the indexes of the pairs in both.
    """
    # No score reaches 2, so that it looks for no errors of the annotations.
    told = evaluator.image_diagnostics(iou_thr=FOUND_IOU, score_thr=2.0)
    box_of_id = np.flatnonzero(truth.are_counting)
    outcomes = np.full(len(detections), int(Outcome.IGNORED))
    ids = np.fromiter(told["dt_status"], np.int64, len(told["dt_status"])) - 1
    outcomes[ids] = Outcome.BACKGROUND
    box_outcomes = np.full(len(truth.are_counting), int(Outcome.IGNORED))
    ids = np.fromiter(told["gt_status"], np.int64, len(told["gt_status"])) - 1
    box_outcomes[box_of_id[ids]] = Outcome.MISSED
    count = len(told["dt_match"])
    found = np.fromiter(told["dt_match"].keys(), np.int64, count) - 1
    of = box_of_id[np.fromiter(told["dt_match"].values(), np.int64, count) - 1]
    # What lies on an ignored box is paired, too, and doesn't count.
    is_counted = (outcomes[found] != Outcome.IGNORED) & (box_outcomes[of] != Outcome.IGNORED)
    found, of = found[is_counted], of[is_counted]
    outcomes[found], box_outcomes[of] = Outcome.FOUND, Outcome.FOUND
    return outcomes, box_outcomes, (found, of)


def _wrong_outcomes(
    truth: GroundTruth, wrong: Detections, box_outcomes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Outcome and box of each wrong detection, int64 [W] each."""
    counted = np.flatnonzero(box_outcomes != Outcome.IGNORED)
    order = counted[np.argsort(truth.box_images[counted], kind="stable")]
    images = truth.box_images[order]
    starts = np.searchsorted(images, wrong.image_ids, side="left")
    counts = np.searchsorted(images, wrong.image_ids, side="right") - starts
    outcomes, boxes = np.full(len(wrong), int(Outcome.BACKGROUND)), np.full(len(wrong), _NOBODY)
    for part in _parts(counts):
        rows = np.repeat(part, counts[part])
        offsets = np.concatenate([[0], counts[part].cumsum()])
        columns = order[np.repeat(starts[part] - offsets[:-1], counts[part]) + np.arange(offsets[-1])]
        outcomes[part], boxes[part] = _of_pairs(truth, wrong, box_outcomes, (rows, columns), part, offsets[:-1])
    return outcomes, boxes


def _parts(counts: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Indexes of what has pairs, in parts of not too many of them."""
    having = np.flatnonzero(counts)
    ends = np.flatnonzero(np.diff(counts[having].cumsum() // _PAIRS_AT_ONCE)) + 1
    return [part for part in np.split(having, ends) if len(part)]


def _of_pairs(
    truth: GroundTruth,
    wrong: Detections,
    box_outcomes: NDArray[np.int64],
    pairs: tuple[NDArray[np.int64], NDArray[np.int64]],
    part: NDArray[np.int64],
    starts: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Outcomes of the detections `part`, whose pairs with the boxes of their picture begin at `starts`."""
    rows, columns = pairs
    overlaps = iou(
        xywh_to_xyxy(wrong.boxes_xywh_px[rows].astype(np.float64)),
        xywh_to_xyxy(truth.annotations.boxes.boxes_xywh[columns].astype(np.float64)),
    )
    is_same = wrong.category_ids[rows] == truth.box_categories[columns]
    is_used = box_outcomes[columns] == Outcome.FOUND
    same, same_box = _largest(overlaps * is_same, columns, starts)
    other, other_box = _largest(overlaps * ~is_same, columns, starts)
    taken, taken_box = _largest(overlaps * (is_same & is_used), columns, starts)
    largest = np.maximum.reduceat(overlaps, starts)
    tests = (
        ((same >= BACKGROUND_IOU) & (same <= FOUND_IOU), Outcome.POOR_BOX, same_box),
        (other >= FOUND_IOU, Outcome.WRONG_CLASS, other_box),
        (taken >= FOUND_IOU, Outcome.DUPLICATE, taken_box),
        (largest <= BACKGROUND_IOU, Outcome.BACKGROUND, np.full(len(part), _NOBODY)),
    )
    outcomes = np.select([test for test, _, _ in tests], [int(outcome) for _, outcome, _ in tests], int(Outcome.BOTH))
    boxes = np.select([test for test, _, _ in tests], [box for _, _, box in tests], _NOBODY)
    return outcomes, boxes


def _largest(
    overlaps: NDArray[np.float64], columns: NDArray[np.int64], starts: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The largest overlap of each detection, and its box; of equal ones the first."""
    largest = np.maximum.reduceat(overlaps, starts)
    counts = np.diff(np.concatenate([starts, [len(overlaps)]]))
    places = np.flatnonzero(overlaps == np.repeat(largest, counts))
    first = places[np.searchsorted(places, starts)]
    return largest, columns[first]


def above(detections: Detections, thresholds: NDArray[np.float64]) -> Detections:
    """Detections of `evaluation.numbered` whose score reaches that of their class, float64 [K]."""
    return detections[detections.scores.astype(np.float64) >= thresholds[detections.category_ids - 1]]
