"""What the readers of all formats give: a record a picture, the classes, and what was wrong."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.pictures.limits import MAX_PICTURE_SIDE
from richsem_schemas.vocabularies.frequencies import Frequency

Split = Literal["train", "val", "test"]

FormatName = Literal["COCO JSON", "LVIS JSON", "YOLO", "Pascal VOC", "CVAT XML", "Label Studio JSON"]


Box = tuple[float, float, float, float]
"""Left, top, width, height."""


class Problems:
    """Kinds of problems: how often each came, and the record where it came first."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, what: str, where: str, count: int = 1) -> None:
        """Count a problem, such as "boxes without area, left out", of a record such as `labels/a.txt line 3`."""
        if count:
            self._counts[what] += count
            self._first.setdefault(what, where)

    def __iter__(self) -> Iterator[tuple[str, int, str]]:
        """Each kind with its count and its first record, in the order in which they came first."""
        return ((what, count, self._first[what]) for what, count in self._counts.items())


@dataclass(frozen=True, slots=True, eq=False)
class PictureRecord:
    """What an export says of one picture with G boxes.

    Attributes:
        name: of the picture, as the export has it; absolute, of another machine and with backslashes at will.
        where: the record, for messages.
        labels: int64 [G], positions in the export's classes.
        boxes_xywh: float64 [G, 4], pixels, or fractions of the sides.
        split: None where the export says none.
        hw: height and width that boxes are meant for; None where the export says none.
        file: where the picture lies, if the format itself says so; None leaves it to the name.
        is_crowd: bool [G]; None is none.
        negatives: of LVIS, classes that were looked for and aren't there, by position.
        not_exhaustive: of LVIS, classes of which more may be there than is boxed.
    """

    name: str
    where: str
    labels: NDArray[np.int64]
    boxes_xywh: NDArray[np.float64]
    split: Split | None = None
    hw: tuple[int, int] | None = None
    file: Path | None = None
    is_crowd: NDArray[np.bool_] | None = None
    negatives: tuple[int, ...] = ()
    not_exhaustive: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Export:
    """An export as it was read.

    Attributes:
        format_name: whose it is.
        annotations: the files that hold its annotations, or their folder.
        class_names: as written, some of them perhaps twice.
        pictures: a record each.
        are_relative: boxes are fractions of the sides of their picture.
        problems: what was wrong so far.
        frequencies: given by the file, by position; None where it doesn't give all.
        notes: what was passed over, or taken for granted.
    """

    format_name: FormatName
    annotations: tuple[Path, ...]
    class_names: Sequence[str]
    pictures: Sequence[PictureRecord]
    are_relative: bool
    problems: Problems
    frequencies: tuple[Frequency, ...] | None = None
    notes: list[str] = field(default_factory=list)


class ClassNames:
    """Positions of class names that are met one by one."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._positions: dict[str, int] = {}
        for name in names:
            self.position(name)

    def position(self, name: str) -> int:
        """Of a name, which is put to the end where it is new."""
        return self._positions.setdefault(name, len(self._positions))

    @property
    def names(self) -> list[str]:
        """In the order of their positions."""
        return list(self._positions)


def boxes_and_labels(
    boxes_xywh: Sequence[Sequence[float]], labels: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Labels, int64 [G], and boxes, float64 [G, 4], of lists of them."""
    return np.array(labels, np.int64), np.array(boxes_xywh, np.float64).reshape(-1, 4)


def turned_bounds(box_xywh: Box, degrees: float, *, about_corner: bool = False) -> Box:
    """Bounds of a box that is turned clockwise about its centre, or about its upper left corner."""
    if not degrees:
        return box_xywh
    left, top, width, height = box_xywh
    turn = math.radians(degrees)
    xs, ys = zip(*((x, y) for x in (0.0, width) for y in (0.0, height)), strict=True)
    shift_x, shift_y = (0.0, 0.0) if about_corner else (width / 2, height / 2)
    turned = [
        (
            left + shift_x + (x - shift_x) * math.cos(turn) - (y - shift_y) * math.sin(turn),
            top + shift_y + (x - shift_x) * math.sin(turn) + (y - shift_y) * math.cos(turn),
        )
        for x, y in zip(xs, ys, strict=True)
    ]
    return bounds_xywh([x for x, _ in turned], [y for _, y in turned])


def bounds_xywh(xs: Sequence[float], ys: Sequence[float]) -> Box:
    """The box around points."""
    left, top = min(xs), min(ys)
    return left, top, max(xs) - left, max(ys) - top


def usable_hw(height: object, width: object) -> tuple[int, int] | None:
    """Height and width as an export gives them; None where they are no size of a picture."""
    sides = [side for side in (height, width) if isinstance(side, int | float) and 1 <= side <= MAX_PICTURE_SIDE]
    return (int(sides[0]), int(sides[1])) if len(sides) == 2 else None


def split_of_words(parts: Iterable[str]) -> Split | None:
    """The split that parts of a path name: train, val or test, with a year or another word beside it."""
    found: Split | None = None
    for part in parts:
        for split, words in _SPLIT_WORDS.items():
            if any(word in words for word in _words(part)):
                found = split
    return found


def _words(part: str) -> list[str]:
    """Runs of letters, in lower case: `instances_train2017.json` has instances, train, json."""
    return "".join(letter.lower() if letter.isalpha() else " " for letter in part).split()


_SPLIT_WORDS: dict[Split, frozenset[str]] = {
    "train": frozenset({"train", "training"}),
    "val": frozenset({"val", "valid", "validation", "dev"}),
    "test": frozenset({"test", "testing"}),
}
