"""What a report says of each class: how often it is there, how well it is found, and why where it is not."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.scoring.box_errors import NOT_FOUND, WRONG, BoxErrors, Outcome
from richsem_schemas.scoring.diagnosis import Diagnosis
from richsem_schemas.scoring.evaluation import GroundTruth

_CONFUSIONS = 3


@dataclass(frozen=True)
class ClassRow:
    """A class of a report; figures are None where there is nothing to take them of.

    Attributes:
        name: as the annotations have it.
        frequency: r, c, f, or empty.
        train_pictures: pictures of the training split that show it.
        val_pictures: pictures of the split that was scored that show it.
        val_boxes: its boxes there that count.
        ap: over IoU 0.50:0.05:0.95.
        ap50: at IoU 0.5.
        ap_before: what it is compared with.
        threshold: the score from which on it is detected best; the following are of detections from there on.
        precision: share of detections that are right.
        recall: share of objects that are found.
        found: objects that are found.
        not_found: objects that are not, by the name of the `Outcome`.
        wrong: detections that are wrong, by the name of the `Outcome`.
        taken_for: other classes that its objects are taken for most often, with counts.
        calibration_error: expected calibration error over all scores.
    """

    name: str
    frequency: str
    train_pictures: int | None
    val_pictures: int
    val_boxes: int
    ap: float | None
    ap50: float | None
    ap_before: float | None
    threshold: float
    precision: float | None
    recall: float | None
    found: int
    not_found: dict[str, int]
    wrong: dict[str, int]
    taken_for: tuple[tuple[str, int], ...]
    calibration_error: float | None

    @property
    def gain(self) -> float | None:
        """Difference of AP to what it is compared with."""
        return None if self.ap is None or self.ap_before is None else self.ap - self.ap_before


def class_rows(
    truth: GroundTruth,
    diagnosis: Diagnosis,
    *,
    frequencies: Sequence[str],
    train_pictures: Sequence[int | None],
    before: dict[str, float],
) -> list[ClassRow]:
    """The K classes of a report, in the order of their ids.

    Args:
        truth: what was compared with.
        diagnosis: of it.
        frequencies: K of r, c, f, or empty.
        train_pictures: K.
        before: AP by name, to compare with.
    """
    names = [category.name for category in truth.annotations.categories]
    have_names_of_their_own = len(set(names)) == len(names)
    classes, errors = diagnosis.classes, diagnosis.errors
    found, of_boxes = _box_counts(truth, errors, len(names))
    of_detections = _counts(errors.detections.category_ids, errors.outcomes, len(names))
    pictures = _val_pictures(truth, len(names))
    taken = diagnosis.confusion
    rows = []
    for k, name in enumerate(names):
        boxes = int(of_boxes[k].sum())
        right, wrong = int(of_detections[k, Outcome.FOUND]), int(of_detections[k, list(WRONG)].sum())
        rows.append(
            ClassRow(
                name=name,
                frequency=frequencies[k],
                train_pictures=train_pictures[k],
                val_pictures=int(pictures[k]),
                val_boxes=boxes,
                ap=_number(classes.aps[k]),
                ap50=_number(classes.aps50[k]),
                ap_before=before.get(name),
                threshold=round(float(diagnosis.thresholds[k]), 4),
                precision=right / (right + wrong) if right + wrong else None,
                recall=int(found[k]) / boxes if boxes else None,
                found=int(found[k]),
                not_found={each.name.lower(): int(of_boxes[k, each]) for each in NOT_FOUND},
                wrong={each.name.lower(): int(of_detections[k, each]) for each in WRONG},
                taken_for=tuple((names[j], int(taken[k, j])) for j in _most_taken(taken[k], k)),
                calibration_error=diagnosis.calibration.class_errors.get(name) if have_names_of_their_own else None,
            )
        )
    return rows


def _box_counts(truth: GroundTruth, errors: BoxErrors, classes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Boxes found, int64 [K], and those that count by outcome, int64 [K, outcomes]."""
    counts = _counts(truth.box_categories, errors.box_outcomes, classes)
    counts[:, Outcome.IGNORED] = 0
    return counts[:, Outcome.FOUND], counts


def _counts(categories: NDArray[np.int64], outcomes: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """How often each class, by its number from 1, has each outcome: int64 [K, outcomes]."""
    width = max(Outcome) + 1
    flat = np.bincount((categories - 1) * width + outcomes, minlength=classes * width)
    return flat.reshape(classes, width)


def _val_pictures(truth: GroundTruth, classes: int) -> NDArray[np.int64]:
    """Pictures that show each class, int64 [K]."""
    pairs = np.unique(np.column_stack([truth.box_images, truth.box_categories]), axis=0)
    return np.bincount(pairs[:, 1] - 1, minlength=classes)


def _most_taken(row: NDArray[np.int64], itself: int) -> list[int]:
    """The classes, but itself and the background, that objects are taken for most often."""
    others = row[:-1].copy()
    others[itself] = 0
    order = np.argsort(-others, kind="stable")[:_CONFUSIONS]
    return [int(j) for j in order if others[j]]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
