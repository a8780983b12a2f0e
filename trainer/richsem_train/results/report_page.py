"""A run's report as one self-contained HTML page: no script, nothing from elsewhere.

Everything that comes from files is escaped, and the page's own policy forbids scripts and requests.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from richsem_schemas.scoring.box_errors import Outcome
from richsem_schemas.scoring.metrics import METRICS, is_defined
from richsem_schemas.vocabularies.lvis import FREQUENCY_NAMES
from richsem_train.results.chart import Chart, Series, draw_chart, thinned
from richsem_train.results.class_rows import ClassRow
from richsem_train.results.run_report import (
    Reported,
    class_groups,
    confused_pairs,
    error_counts,
    gained_classes,
    precision_curves,
    worst_classes,
)
from richsem_train.results.shown_boxes import (
    BoxError,
    ShownBox,
    cut_out,
    missed_objects,
    spread_over_classes,
    wrong_detections,
)

_CARDS, _BOXES_A_CARD = 12, 3
_GALLERY, _GALLERY_OF_A_CLASS = 24, 2
_GAINS, _PAIRS = 10, 20
_MATRIX_CLASSES = 24
"""So many classes have a matrix of confusions; of more the pairs are listed."""

_OPEN_ROWS = 60
"""Longer tables of all classes are folded."""

_ERRORS = {
    "Cls": ("wrong class", "the box is right, the class is not", Outcome.WRONG_CLASS),
    "Loc": ("poor box", "right class, overlap 0.1 to 0.5", Outcome.POOR_BOX),
    "Both": ("both", "wrong class and poor box", Outcome.BOTH),
    "Dupe": ("duplicate", "a better detection has the object already", Outcome.DUPLICATE),
    "Bkg": ("background", "nothing is annotated there", Outcome.BACKGROUND),
    "Miss": ("missed", "nothing lies on the object", Outcome.MISSED),
}
"""TIDE's kinds of error: name, meaning, outcome."""

_METRIC_LINES = {"AP": "all", "APr": "r", "APc": "c", "APf": "f"}


@dataclass(frozen=True)
class _Card:
    """A class with the boxes that tell why."""

    row: ClassRow
    boxes: list[ShownBox]


def report_page(reported: Reported, rows: Sequence[ClassRow]) -> tuple[str, list[str]]:
    """The page, and what is wrong with pictures that it can't show."""
    worst = worst_classes(rows)[:_CARDS]
    chosen = _ChosenBoxes.of(reported, rows, worst)
    shown, problems = cut_out(chosen.all, reported.data, reported.truth)
    cards = [_Card(row, _those(shown, boxes)) for row, boxes in zip(worst, chosen.of_cards, strict=True)]
    gained = gained_classes(rows)
    pages = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {"ap": _ap, "gain": _gain, "share": _share, "count": "{:,}".format}
    page = pages.get_template("report.html.j2").render(
        reported=reported,
        # A page is sent to others, whom the folders above don't concern; report.json names them.
        annotations=Path(reported.truth.annotations.source).name,
        metrics=_metrics(reported),
        groups=class_groups(rows),
        charts=_charts(reported),
        errors=_errors(reported),
        improved=[row for row in gained[:_GAINS] if (row.gain or 0) > 0],
        worsened=[row for row in gained[::-1][:_GAINS] if (row.gain or 0) < 0],
        has_before=reported.before is not None,
        has_train=any(count is not None for count in reported.train_pictures),
        cards=cards,
        matrix=_matrix(reported, rows),
        pairs=[(rows[i], rows[j], count) for i, j, count in confused_pairs(reported.diagnosis.confusion, _PAIRS)],
        wrong=_those(shown, chosen.wrong),
        missed=_those(shown, chosen.missed),
        all_rows=worst_classes(rows) + [row for row in rows if row.ap is None],
        open_rows=_OPEN_ROWS,
        rows=rows,
        frequency_names=FREQUENCY_NAMES,
        problems=problems,
    )
    return page, problems


@dataclass(frozen=True)
class _ChosenBoxes:
    """The errors that are shown: of each card, the surest wrong detections, missed objects, rare ones first."""

    of_cards: list[list[BoxError]]
    wrong: list[BoxError]
    missed: list[BoxError]

    @property
    def all(self) -> list[BoxError]:
        return list(dict.fromkeys([*(box for boxes in self.of_cards for box in boxes), *self.wrong, *self.missed]))

    @classmethod
    def of(cls, reported: Reported, rows: Sequence[ClassRow], worst: Sequence[ClassRow]) -> "_ChosenBoxes":
        errors = reported.diagnosis.errors
        missed, wrong = missed_objects(reported.truth, errors), wrong_detections(reported.truth, errors)
        place = {id(row): index for index, row in enumerate(rows)}
        of_class: dict[int, tuple[list[BoxError], list[BoxError]]] = {place[id(row)]: ([], []) for row in worst}
        for side, candidates in enumerate((missed, wrong)):
            for error in candidates:
                boxes = of_class.get(error.category, ([], []))[side]
                # Several of one picture are mostly one object.
                if len(boxes) < _BOXES_A_CARD and all(box.picture != error.picture for box in boxes):
                    boxes.append(error)
        order = {letter: index for index, letter in enumerate([*FREQUENCY_NAMES, ""])}
        rare_first = sorted(missed, key=lambda error: order[rows[error.category].frequency])
        return cls(
            [[box for boxes in of_class[place[id(row)]] for box in boxes] for row in worst],
            spread_over_classes(wrong, most=_GALLERY, of_a_class=_GALLERY_OF_A_CLASS),
            spread_over_classes(rare_first, most=_GALLERY, of_a_class=_GALLERY_OF_A_CLASS),
        )


def _those(shown: Mapping[BoxError, ShownBox], boxes: Sequence[BoxError]) -> list[ShownBox]:
    return [shown[box] for box in boxes if box in shown]


def _metrics(reported: Reported) -> list[tuple[str, float]]:
    metrics = reported.diagnosis.metrics
    return [(name, metrics[name]) for name in METRICS if name in metrics and is_defined(metrics[name])]


def _errors(reported: Reported) -> list[dict[str, Any]]:
    """Kinds of error by what they cost, dearest first."""
    wrong, not_found = error_counts(reported.diagnosis)
    counts = not_found | wrong | {"missed": not_found["missed"]}
    dearest = max(*reported.diagnosis.tide.values(), 1e-9)
    listed = [
        {
            "name": name,
            "meaning": meaning,
            "cost": reported.diagnosis.tide[key],
            "width": max(100 * reported.diagnosis.tide[key] / dearest, 0.0),
            "count": counts[outcome.name.lower()],
        }
        for key, (name, meaning, outcome) in _ERRORS.items()
    ]
    return sorted(listed, key=lambda error: -float(str(error["cost"])))


def _charts(reported: Reported) -> list[Chart]:
    calibration = reported.diagnosis.calibration
    recalls = reported.diagnosis.classes.recalls.tolist()
    charts = [
        _loss_chart(reported),
        _ap_chart(reported),
        draw_chart(
            "Precision over recall, IoU 0.5",
            [
                Series(FREQUENCY_NAMES[letter] if letter else "all", letter or "all", recalls, precisions.tolist())
                for letter, precisions in precision_curves(reported).items()
            ],
            x_label="recall",
            x_range=(0, 1),
            y_range=(0, 1),
        ),
        draw_chart(
            "Share of right detections over their score",
            [
                Series(
                    f"error {calibration.error:.3f}",
                    "all",
                    calibration.scores.tolist(),
                    calibration.accuracies.tolist(),
                )
            ],
            x_label="score",
            x_range=(0, 1),
            y_range=(0, 1),
            has_diagonal=True,
        ),
    ]
    return [chart for chart in charts if chart is not None]


def _loss_chart(reported: Reported) -> Chart | None:
    steps = [record["step"] for record in reported.log_steps]
    xs, ys = thinned(steps, [record["loss"] for record in reported.log_steps])
    return draw_chart("Loss", [Series("loss", "all", xs, ys)], x_label="step")


def _ap_chart(reported: Reported) -> Chart | None:
    series = []
    for name, style in _METRIC_LINES.items():
        points = [
            (record["step"], value)
            for record in reported.log_evaluations
            if (value := record["metrics"].get(name)) is not None and is_defined(value)
        ]
        if points:
            xs, ys = zip(*points, strict=True)
            series.append(Series(name, style, xs, ys, f"{ys[-1]:.3f}"))
    highest = max((max(each.ys) for each in series), default=0.0)
    return draw_chart("Average precision", series, x_label="step", y_range=(0, max(highest * 1.1, 0.02)))


def _matrix(reported: Reported, rows: Sequence[ClassRow]) -> list[dict[str, Any]] | None:
    """Rows of confusions, the strongest shade 1; None where there are too many classes."""
    if len(rows) > _MATRIX_CLASSES:
        return None
    confusion = reported.diagnosis.confusion
    totals = np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    shares = confusion / totals
    names = [row.name for row in rows]
    return [
        {
            "name": name,
            "cells": [
                {"count": int(count), "shade": round(float(share), 3), "is_right": i == j}
                for j, (count, share) in enumerate(zip(confusion[i], shares[i], strict=True))
            ],
        }
        for i, name in enumerate([*names, None])
    ]


def _ap(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _gain(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}".replace("-", "−")


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _printable(value: object) -> object:
    """Control characters, marks that turn the writing direction among them, are replaced."""
    if type(value) is not str or value.isprintable():
        return value
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in value)
