"""Pictures in, pictures of what two detectors found in them and a JSON file out."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from richsem_schemas.scoring.detections import PictureDetections
from richsem_schemas.vocabularies.lvis import FREQUENCY_NAMES
from richsem_train.results.gallery import Gallery, Predicted, SheetForm, Shown
from richsem_train.results.matching import JoinedClasses, Side, Tally, join_classes, match_detections, some_names, tally
from richsem_train.results.pictures import number_for_name
from richsem_train.results.predict import detection_records
from richsem_train.results.prediction import ClassTable
from richsem_train.results.side_by_side import choose_shown, draw_side_by_side, legend_of

ALL = "all"
"""Beside the names of frequencies, whose classes are counted apart."""

_SHEET_COLUMNS, _SHEET_SIDE = 2, 1280


@dataclass(frozen=True)
class Contender:
    """One of two detectors that are compared.

    Attributes:
        title: stands above its pictures.
        checkpoint: where it is from.
        classes: the rows that it gives.
        detect: finds the objects of an upright RGB picture, in its pixels.
    """

    title: str
    checkpoint: Path
    classes: ClassTable
    detect: Callable[[Image.Image], PictureDetections]


@dataclass
class Compared(Predicted):
    """The outcome of `compare_detectors`.

    Attributes:
        a: title of the detector on the left.
        b: title of the other.
        found: what was found by whom, by `all` or the name of a frequency.
        found_in: the same of each of the pictures.
    """

    a: str = ""
    b: str = ""
    found: dict[str, Tally] = field(default_factory=dict)
    found_in: list[dict[str, Tally]] = field(default_factory=list)


def compare_detectors(
    paths: Sequence[Path],
    a: Contender,
    b: Contender,
    out: Path,
    *,
    score_threshold: float = 0.3,
    on_picture: Callable[[Path, str | None], None] = lambda _path, _problem: None,
) -> Compared:
    """Find the objects of each picture by two detectors and draw them side by side.

    Writes what `predict` writes; `predictions.json` says of each detection whether the other detector found it, by the
    rules of `match_detections`, and how much was found by both and by either alone.

    Args:
        paths: picture files; one that can't be used is left out and reported, the others go on.
        a: the detector whose pictures are on the left.
        b: the other.
        out: a folder, made if absent; nothing is written elsewhere.
        score_threshold: worse detections are drawn only where the other detector found them above it.
        on_picture: called after each path, with the reason where it failed.

    Raises:
        OSError: `out` can't be written.
        RichSemError: the detectors have no class in common, or their detections of a picture aren't finite.
    """
    joined = join_classes(a.classes, b.classes)
    gallery = Gallery(out, SheetForm(_SHEET_COLUMNS, _SHEET_SIDE, legend_of(joined.table)))
    found_in: list[dict[str, Tally]] = []

    def show(image: Image.Image, path: Path) -> Shown:
        found = [_detected(each, image, path) for each in (a, b)]
        of_joined = [
            PictureDetections(rows[each.category_ids], each.boxes_xyxy_px, each.scores)
            for each, rows in zip(found, (joined.rows_of_a, joined.rows_of_b), strict=True)
        ]
        sides = match_detections(*of_joined, are_shared=joined.are_shared, score_threshold=score_threshold)
        found_in.append(_tallies(sides, joined.table))
        detections = {
            name: _records(each, contender.classes, side, other)
            for name, each, contender, side, other in zip("ab", found, (a, b), sides, sides[::-1], strict=True)
        }
        draw = partial(draw_side_by_side, image, sides, joined.table, (a.title, b.title))
        record = {"found": _as_json(found_in[-1]), "detections": detections}
        return Shown(draw(), partial(draw, legend=False), record, _number_for_name(sides, joined.table))

    gallery.add_pictures(paths, show, on_picture)
    total = {name: sum((each[name] for each in found_in), Tally()) for name in _groups(joined.table)}
    gallery.finish(_head(a, b, joined, total, score_threshold))
    return Compared(**vars(gallery.done), a=a.title, b=b.title, found=total, found_in=found_in)


def titles_of(names: tuple[str, str], checkpoints: tuple[Path, Path]) -> tuple[str, str]:
    """The names of two detectors' configs; of one config what differs in their paths."""
    if names[0] != names[1]:
        return names
    parts = [list(path.parts) for path in checkpoints]
    for end in (0, -1):
        while all(parts) and parts[0][end] == parts[1][end]:
            for each in parts:
                del each[end]
    one, other = ("/".join(each) for each in parts)
    return (one, other) if one and other else (str(checkpoints[0]), str(checkpoints[1]))


def unshared_classes_note(a: Contender, b: Contender) -> str | None:
    """How many classes only one of two detectors knows, in words; None where there are none.

    Raises:
        RichSemError: they have none in common.
    """
    joined = join_classes(a.classes, b.classes)
    told = [
        f"{len(only):,} that only {each.title} knows ({some_names(only)})"
        for each, only in ((a, joined.only_a), (b, joined.only_b))
        if only
    ]
    if not told:
        return None
    return f"classes: {' and '.join(told)}; what is found of them is drawn without arrows and counted apart"


def _detected(contender: Contender, image: Image.Image, path: Path) -> PictureDetections:
    found = contender.detect(image)
    found.require_finite(f"{path} by {contender.checkpoint}")
    return found


def _groups(classes: ClassTable) -> dict[str, str | None]:
    """Names of what is counted apart, and the frequencies that belong to them; None is any."""
    return {ALL: None} | {name: letter for letter, name in FREQUENCY_NAMES.items() if letter in classes.frequencies}


def _tallies(sides: tuple[Side, Side], classes: ClassTable) -> dict[str, Tally]:
    return {
        name: tally(*sides, np.array([letter in (None, each) for each in classes.frequencies]))
        for name, letter in _groups(classes).items()
    }


def _records(found: PictureDetections, classes: ClassTable, side: Side, other: Side) -> list[dict[str, Any]]:
    """Detections of one detector for JSON, with what the other has of them."""
    partners = side.partners.tolist()
    return [
        record
        | {
            "found_by_other": partner >= 0 if is_shown and is_known else None,
            "score_of_other": round(float(other.found.scores[partner]), 6) if partner >= 0 else None,
        }
        for record, partner, is_shown, is_known in zip(
            detection_records(found, classes), partners, side.are_shown, side.are_known, strict=True
        )
    ]


def _number_for_name(sides: tuple[Side, Side], classes: ClassTable) -> str | None:
    rows = [side.found.category_ids[chosen] for side, chosen in zip(sides, choose_shown(*sides), strict=True)]
    return next(filter(None, (number_for_name(row, classes) for row in np.concatenate(rows).tolist())), None)


def _head(
    a: Contender, b: Contender, joined: JoinedClasses, total: dict[str, Tally], score_threshold: float
) -> dict[str, Any]:
    return {
        name: {"title": each.title, "checkpoint": str(each.checkpoint), "only_it_knows": list(only)}
        for name, each, only in (("a", a, joined.only_a), ("b", b, joined.only_b))
    } | {"score_threshold": score_threshold, "found": _as_json(total)}


def _as_json(tallies: dict[str, Tally]) -> dict[str, dict[str, int]]:
    return {name: asdict(each) for name, each in tallies.items()}
