"""YOLO's folders: a text file of boxes a picture, and data.yaml with the names and splits.

hotcoco reads one flat folder of labels and stops at the first odd line; people's folders have splits, lists of
pictures, paths of other machines, polygons and slips.
"""

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from richsem_schemas.errors import SourceError
from richsem_train.config.yaml_text import parse_yaml
from richsem_train.console import Reporter
from richsem_train.own_data.listing import Listing
from richsem_train.own_data.picture_index import PictureIndex
from richsem_train.own_data.records import (
    Box,
    Export,
    PictureRecord,
    Problems,
    Split,
    bounds_xywh,
    boxes_and_labels,
    split_of_words,
)
from richsem_train.own_data.text_files import read_text

_SPLIT_KEYS: dict[str, Split] = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels")
_MAX_CLASSES = 100_000
_PIXELS_FROM = 2.0
"""A fraction as large as this is no rounding: it is a number of pixels."""

_ROWS_ARE_BOXES, _ROWS_HAVE_SCORES = 5, 6


def yolo_label_files(listing: Listing) -> list[Path]:
    """Text files in folders called `labels`, or beside a picture of their name."""
    beside = {os.path.splitext(path)[0] for path in listing.pictures}
    return [
        path
        for path in listing.ending(".txt")
        if path.name not in _NAME_FILES and ("labels" in listing.folders(path) or os.path.splitext(path)[0] in beside)
    ]


def yolo_tables(listing: Listing) -> list[Path]:
    """YAML files that could be a `data.yaml`."""
    return [path for path in listing.ending(".yaml", ".yml") if re.search(r"^names\s*:", _text(path), re.MULTILINE)]


def _text(path: Path) -> str:
    try:
        return read_text(path)
    except SourceError:
        return ""


@dataclass(frozen=True)
class _Table:
    """What `data.yaml`, or a list of names, says.

    Attributes:
        names: by class number.
        splits: folders or lists of pictures, by split, as written.
        root: its key `path`.
        has_keypoints: rows have keypoints behind the box.
    """

    path: Path
    names: dict[int, str]
    splits: Mapping[Split, tuple[str, ...]]
    root: str | None = None
    has_keypoints: bool = False


def read_yolo(listing: Listing, table: Path | None, reporter: Reporter) -> Export:
    """Read a folder with labels of YOLO's.

    Args:
        listing: the folder's files.
        table: the file with names; None looks for it.
        reporter: is shown how far it is.

    Raises:
        SourceError: nothing names the classes, or a row has a class that has no name, or boxes are pixels.
    """
    problems, notes = Problems(), list[str]()
    found = _read_table(listing, table)
    labels = {_key(path): path for path in yolo_label_files(listing)}
    splits = _picture_splits(listing, found, problems)
    pictures: list[PictureRecord] = []
    reader = _Rows(listing, found, problems)
    reporter.begin("reading labels", len(listing.pictures))
    used = set[str]()
    for number, picture in enumerate(listing.pictures):
        reporter.move(number)
        split = splits.get(picture) if splits else split_of_words(listing.folders(picture))
        key = _label_key(picture, labels)
        where = listing.relative(picture)
        if key is None:
            problems.add(
                "pictures without a label file, left out (an empty file says that a picture shows none of the classes)",
                where,
            )
            continue
        used.add(key)
        if splits and split is None:
            problems.add(f"pictures of no split of {found.path.name}, left out", where)
            continue
        pictures.append(reader.record(picture, labels[key], split))
    reporter.end()
    for key in labels.keys() - used:
        problems.add("label files without a picture, left out", listing.relative(labels[key]))
    reader.require_fractions()
    names = [found.names.get(number, f"class {number}") for number in range(max(found.names) + 1)]
    return Export("YOLO", (found.path,), names, pictures, True, problems, notes=notes)


def _key(path: Path) -> str:
    return os.path.splitext(path)[0]


def _label_key(picture: Path, labels: Mapping[str, Path]) -> str | None:
    """Of a picture's label file: in `labels` for its `images`, innermost first, or beside it."""
    stem = _key(picture)
    parts = stem.split(os.sep)
    places = [place for place in range(len(parts) - 2, -1, -1) if parts[place].lower() in ("images", "jpegimages")]
    candidates = [os.sep.join([*parts[:place], "labels", *parts[place + 1 :]]) for place in places]
    # `train/a.jpg` with `labels/train/a.txt` or `train/labels/a.txt`.
    candidates += [stem, os.sep.join([*parts[:-1], "labels", parts[-1]])]
    if len(parts) > 2:
        candidates.append(os.sep.join([*parts[:-2], "labels", *parts[-2:]]))
    return next((key for key in candidates if key in labels), None)


class _Rows:
    """Reads label files and remembers how far their numbers go."""

    def __init__(self, listing: Listing, table: _Table, problems: Problems) -> None:
        self._listing, self._table, self._problems = listing, table, problems
        self._rows = self._pixel_rows = 0
        self._pixels_at = ""

    def record(self, picture: Path, path: Path, split: Split | None) -> PictureRecord:
        boxes: list[Box] = []
        labels: list[int] = []
        shown = self._listing.relative(path)
        for line, text in enumerate(read_text(path).splitlines(), 1):
            numbers = text.split()
            if not numbers:
                continue
            where = f"{shown} line {line}"
            if (row := self._row(numbers, where)) is not None:
                labels.append(row[0])
                boxes.append(row[1])
        label_array, box_array = boxes_and_labels(boxes, labels)
        return PictureRecord(picture.name, shown, label_array, box_array, split=split, file=picture)

    def _row(self, texts: Sequence[str], where: str) -> tuple[int, Box] | None:
        try:
            numbers = [float(text) for text in texts]
        except ValueError:
            self._problems.add("rows that are no numbers, left out", where)
            return None
        label = numbers[0]
        if len(numbers) < _ROWS_ARE_BOXES or not all(map(math.isfinite, numbers)) or label != int(label):
            self._problems.add("rows that are no class number and box, left out", where)
            return None
        if int(label) not in self._table.names:
            raise SourceError(
                f"{where}: class {int(label)}, and {self._listing.relative(self._table.path)} names "
                f"{len(self._table.names)} classes from 0 ({', '.join(list(self._table.names.values())[:5])}); add the "
                "name there, or mend the row"
            )
        box = self._box(numbers, where)
        self._rows += 1
        if max(map(abs, box)) > _PIXELS_FROM:
            self._pixel_rows += 1
            self._pixels_at = self._pixels_at or where
        return int(label), box

    def _box(self, numbers: Sequence[float], where: str) -> Box:
        values = numbers[1:]
        if len(numbers) == _ROWS_HAVE_SCORES:
            self._problems.add("rows with a score behind the box, which is passed over", where)
        elif len(numbers) > _ROWS_ARE_BOXES and not self._table.has_keypoints:
            self._problems.add("polygons in the place of boxes, of which the bounds are taken", where)
            points = values[: len(values) - len(values) % 2]
            return bounds_xywh(points[::2], points[1::2])
        x, y, width, height = values[:4]
        return x - width / 2, y - height / 2, width, height

    def require_fractions(self) -> None:
        if self._pixel_rows * 2 > self._rows:
            raise SourceError(
                f"{self._pixels_at}: {self._pixel_rows:,} of {self._rows:,} boxes have numbers above {_PIXELS_FROM:g}, "
                "and YOLO's are fractions of the picture's sides, from 0 to 1; these seem to be pixels: divide x and "
                "width by the picture's width, y and height by its height"
            )


def _read_table(listing: Listing, table: Path | None) -> _Table:
    if table is not None:
        return _parse_table(table)
    tables = yolo_tables(listing)
    if len(tables) > 1:
        raise SourceError(
            f"{listing.root}: {len(tables)} files name classes ({', '.join(map(listing.relative, tables[:5]))}); give "
            "the path of the one that is meant in the place of the folder"
        )
    if tables:
        return _parse_table(tables[0])
    lists = [path for path in listing.ending(".txt", ".names") if path.name in _NAME_FILES or path.suffix == ".names"]
    if lists:
        names = [line.strip() for line in read_text(lists[0]).splitlines() if line.strip()]
        return _Table(lists[0], dict(enumerate(names)), {})
    raise SourceError(
        f"{listing.root}: labels of YOLO's without names of their classes; write a data.yaml there, such as: "
        "names: [cat, dog]"
    )


def _parse_table(path: Path) -> _Table:
    try:
        values = parse_yaml(read_text(path))
    except ValueError as error:
        raise SourceError(f"{path}: no YAML ({error})") from None
    if not isinstance(values, dict):
        raise SourceError(f"{path}: no data.yaml of YOLO's; expected keys such as `names:` and `train:`")
    splits: dict[Split, tuple[str, ...]] = {}
    for key, split in _SPLIT_KEYS.items():
        given = values.get(key)
        entries = given if isinstance(given, list) else [given] if given else []
        if not all(isinstance(entry, str) for entry in entries):
            raise SourceError(f"{path}: `{key}` is {str(given)[:80]!r}; a folder, a list file, or a list of them")
        if entries:
            splits[split] = (*splits.get(split, ()), *entries)
    root = values.get("path")
    return _Table(
        path, _class_names(values, path), splits, root if isinstance(root, str) else None, "kpt_shape" in values
    )


def _class_names(values: Mapping[str, Any], path: Path) -> dict[int, str]:
    given = values.get("names")
    pairs: Iterable[tuple[Any, Any]] = ()
    if isinstance(given, list):
        pairs = enumerate(given)
    elif isinstance(given, dict):
        pairs = given.items()
    names: dict[int, str] = {}
    for key, name in pairs:
        number = int(key) if isinstance(key, str) and key.isdecimal() and len(key) < 10 else key
        if isinstance(name, bool):
            raise SourceError(
                f"{path}: the name of class {key} is {name} to YAML, as yes, no, on and off are; quote it"
            )
        if type(number) is not int or not 0 <= number < _MAX_CLASSES or not isinstance(name, str | int | float):
            raise SourceError(
                f"{path}: `names` has {str(key)[:40]!r}: {str(name)[:40]!r}; each class has a number from 0 and a text"
            )
        names[number] = str(name)
    if not names:
        raise SourceError(f"{path}: no `names`; a list of the classes, or a mapping from their numbers, from 0")
    count = values.get("nc")
    if type(count) is int and count != len(names):
        raise SourceError(f"{path}: nc is {count}, and `names` has {len(names)}; make them agree")
    return names


def _picture_splits(listing: Listing, table: _Table, problems: Problems) -> dict[Path, Split]:
    """The split of each picture that the table names; empty where it names none that is there."""
    if not table.splits:
        return {}
    by_text, index = {str(path): path for path in listing.pictures}, PictureIndex(listing)
    found: dict[Path, Split] = {}
    for split in ("train", "val", "test"):
        for entry in table.splits.get(split, ()):
            pictures = list(_pictures_of(_place_of(entry, table, listing), listing, by_text, index))
            if not pictures:
                problems.add(
                    f"entries of {table.path.name} that lead to no pictures here, passed over", f"{split}: {entry}"
                )
            for picture in pictures:
                found.setdefault(picture, split)
    return found


def _pictures_of(
    place: Path | None, listing: Listing, by_text: Mapping[str, Path], index: PictureIndex
) -> Iterator[Path]:
    """The pictures of a folder, or those that a list names."""
    if place is None:
        return
    if place.suffix == ".txt":
        names = [line.strip().replace("\\", "/") for line in read_text(place).splitlines() if line.strip()]
        yield from (picture for name in names if (picture := index.find(name, near=place)) is not None)
        return
    start = "" if place == listing.root else f"{place}{os.sep}"
    yield from (path for text, path in by_text.items() if text.startswith(start))


def _place_of(entry: str, table: _Table, listing: Listing) -> Path | None:
    """A folder or list of the listing: as the table means it, else the longest end of the path that is there."""
    entry = entry.replace("\\", "/")
    base = table.path.parent
    tried = [base / entry]
    if table.root is not None:
        tried.insert(0, base / table.root / entry)
    parts = [part for part in PurePosixPath(entry).parts if part not in {"/", ".", ".."} and ":" not in part]
    for start in range(len(parts)):
        tried += [base.joinpath(*parts[start:]), listing.root.joinpath(*parts[start:])]
    for place in tried:
        normal = Path(os.path.normpath(place))
        inside = normal == listing.root or normal.is_relative_to(listing.root)
        if inside and (normal.is_dir() or (normal.suffix == ".txt" and normal.is_file())):
            return normal
    return None
