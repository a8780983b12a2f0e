"""The report of a run: what its last evaluation says, class by class, as content for a JSON file."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.annotations import DetectionData
from richsem_schemas.scoring.box_errors import NOT_FOUND, WRONG
from richsem_schemas.scoring.diagnosis import Diagnosis
from richsem_schemas.scoring.evaluation import GroundTruth
from richsem_schemas.scoring.metrics import json_metrics
from richsem_schemas.vocabularies.lvis import FREQUENCY_NAMES
from richsem_train.results.class_aps import ClassAps, letters_of
from richsem_train.results.class_rows import ClassRow, class_rows

ALL = "all"
"""Beside the names of frequencies, whose classes are counted apart."""

_DIGITS = 5


@dataclass(frozen=True, eq=False)
class Reported:
    """What a report is of.

    Attributes:
        name: of the run's config.
        step: steps taken before the evaluation.
        data: the split that was scored.
        truth: its annotations.
        diagnosis: of the detections.
        train_pictures: pictures of the training split a class, None where that split can't be read.
        before: what the classes are compared with; None where there is nothing.
        before_title: what that is, in words.
        log_steps: records of training.
        log_evaluations: `step` and `metrics` each.
        notes: what a reader must know, in words.
    """

    name: str
    step: int
    data: DetectionData
    truth: GroundTruth
    diagnosis: Diagnosis
    train_pictures: tuple[int | None, ...]
    before: ClassAps | None
    before_title: str
    log_steps: Sequence[Mapping[str, Any]]
    log_evaluations: Sequence[Mapping[str, Any]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClassGroup:
    """Classes of a frequency, or all; means are over those that have boxes in the split.

    Attributes:
        name: such as "rare".
        letter: r, c, f; empty for all.
        classes: how many have boxes.
        val_boxes: their boxes.
        found: how many of them are found, each class at its best score.
        ap: mean.
        ap_before: mean of the classes that have one on both sides; None where none has.
        gain: mean difference over these.
    """

    name: str
    letter: str
    classes: int
    val_boxes: int
    found: int
    ap: float | None
    ap_before: float | None
    gain: float | None


def rows_of(reported: Reported) -> list[ClassRow]:
    """The classes of a report, in the order of their ids."""
    return class_rows(
        reported.truth,
        reported.diagnosis,
        frequencies=letters_of(reported.truth),
        train_pictures=reported.train_pictures,
        before={} if reported.before is None else reported.before.by_name(),
    )


def class_groups(rows: Sequence[ClassRow]) -> list[ClassGroup]:
    """All classes, and those of each frequency that there is."""
    letters = ["", *(letter for letter in FREQUENCY_NAMES if any(row.frequency == letter for row in rows))]
    return [_group(letter, [row for row in rows if letter in ("", row.frequency)]) for letter in letters]


def error_counts(diagnosis: Diagnosis) -> tuple[dict[str, int], dict[str, int]]:
    """Wrong detections and objects that were not found, by the names of their outcomes, over all classes."""
    errors = diagnosis.errors
    return tuple(  # type: ignore[return-value]
        {each.name.lower(): int((outcomes == each).sum()) for each in kinds}
        for outcomes, kinds in ((errors.outcomes, WRONG), (errors.box_outcomes, NOT_FOUND))
    )


def worst_classes(rows: Sequence[ClassRow]) -> list[ClassRow]:
    """Those that have an AP, the lowest first; of equal ones those of more boxes."""
    return sorted((row for row in rows if row.ap is not None), key=lambda row: (row.ap, -row.val_boxes))


def gained_classes(rows: Sequence[ClassRow]) -> list[ClassRow]:
    """Those that can be compared, the largest gain first."""
    return sorted((row for row in rows if row.gain is not None), key=lambda row: -(row.gain or 0.0))


def confused_pairs(confusion: NDArray[np.int64], most: int) -> list[tuple[int, int, int]]:
    """Classes that objects are taken for most often: place of the class, of what it is taken for, and how often."""
    others = confusion[:-1, :-1].copy()
    np.fill_diagonal(others, 0)
    order = np.argsort(-others, axis=None, kind="stable")[:most]
    pairs = [(int(i), int(j), int(others[i, j])) for i, j in zip(*np.unravel_index(order, others.shape), strict=True)]
    return [pair for pair in pairs if pair[2]]


def report_content(reported: Reported, rows: Sequence[ClassRow]) -> dict[str, Any]:
    """The content of `report.json`."""
    diagnosis, names = reported.diagnosis, [row.name for row in rows]
    wrong, not_found = error_counts(diagnosis)
    calibration = diagnosis.calibration
    content: dict[str, Any] = {
        "config": reported.name,
        "step": reported.step,
        "annotations": reported.truth.annotations.source,
        "pictures": len(reported.data),
        "metrics": json_metrics(diagnosis.metrics),
        "frequencies": reported.truth.frequencies.rule,
        "compared_with": reported.before_title if reported.before is not None else None,
        "notes": list(reported.notes),
        "groups": [asdict(group) for group in class_groups(rows)],
        "errors": {"ap50_without": diagnosis.tide, "wrong_detections": wrong, "objects_not_found": not_found},
        "calibration": {
            "error": calibration.error,
            "bins": [
                {"score": score, "right": right, "detections": count}
                for score, right, count in zip(
                    calibration.scores.tolist(),
                    calibration.accuracies.tolist(),
                    calibration.counts.tolist(),
                    strict=True,
                )
            ],
        },
        "confusions": [
            {"class": names[i], "taken_for": names[j], "objects": count}
            for i, j, count in confused_pairs(diagnosis.confusion, 100)
        ],
        "classes": [asdict(row) | {"gain": row.gain} for row in rows],
    }
    rounded: dict[str, Any] = _rounded(content)
    return rounded


def precision_curves(reported: Reported) -> dict[str, NDArray[np.float64]]:
    """Mean precision at each recall, IoU 0.5, over all classes and over those of each frequency: letter to [R]."""
    precisions = reported.diagnosis.classes.precisions50
    is_defined = ~np.isnan(precisions).any(axis=1)
    letters = np.array(letters_of(reported.truth))
    chosen = {letter: is_defined & ((letters == letter) | (letter == "")) for letter in ("", *FREQUENCY_NAMES)}
    return {letter: precisions[which].mean(axis=0) for letter, which in chosen.items() if which.any()}


def _group(letter: str, rows: Sequence[ClassRow]) -> ClassGroup:
    defined = [row for row in rows if row.ap is not None]
    compared = [row for row in rows if row.gain is not None]
    return ClassGroup(
        name=FREQUENCY_NAMES[letter] if letter else ALL,
        letter=letter,
        classes=len(defined),
        val_boxes=sum(row.val_boxes for row in rows),
        found=sum(row.found for row in rows),
        ap=_mean([row.ap for row in defined]),
        ap_before=_mean([row.ap_before for row in compared]),
        gain=_mean([row.gain for row in compared]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, _DIGITS)
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list | tuple) else value
