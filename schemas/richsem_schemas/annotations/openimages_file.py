"""Boxes of OpenImages V4 and later: a CSV line a box, fractions of the picture's sides, streamed into columns."""

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from numpy.typing import NDArray

from richsem_schemas.annotations.annotation_file import AnnotationFile, CategoryRecord, NameRule
from richsem_schemas.annotations.boxes import AnnotatedBoxes, joined_boxes
from richsem_schemas.annotations.picture_files import end_of_name
from richsem_schemas.errors import SourceError
from richsem_schemas.io.files import open_regular
from richsem_schemas.io.places import RemotePath
from richsem_schemas.io.words import printable
from richsem_schemas.pictures.boxes import xyxy_to_xywh

_SIDES = ("XMin", "XMax", "YMin", "YMax")
_NEEDED = ("ImageID", "LabelName", *_SIDES)
_GROUP = "IsGroupOf"
CLASS_FILES = ("*class-descriptions-boxable.csv", "*classes-description*.csv", "*class-descriptions*.csv")
"""Patterns of the names that people's class descriptions have, in the order of preference."""

_CHALLENGE = re.compile(r"challenge-\d{4}")

_MAX_CLASSES = 100_000
_MAX_LINE = 2**16
_SHOWN = 5

AnyPlace = TypeVar("AnyPlace", Path, RemotePath)
_UNKNOWN = -1


def read_openimages_file(path: Path) -> AnnotationFile:
    """Read `...-annotations-bbox.csv`; the names of its labels are looked for in the class descriptions beside it.

    The CSV of a challenge, `challenge-2019-train-detection-bbox.csv`, has its list of 500 classes before any other.

    Category ids are lines of the class descriptions, from 1. Image ids are positions: those of OpenImages are no
    numbers of 63 bits. Lines with too few columns, or without numbers, are left out and counted, and so are boxes of
    labels that the class descriptions don't list; `IsGroupOf` boxes count as crowd regions.

    Raises:
        SourceError: a file can't be read, is something else, or has no usable line.
    """
    class_file = _class_file(path)
    labels = read_class_file(class_file)
    table = _Table(path, {label: number for number, (label, _) in enumerate(labels, 1)})
    broken = _BrokenLines()
    for batch in _batches(path, broken):
        table.add(batch)
    if not table.images:
        raise SourceError(f"{path}: has no usable line ({broken.lines:,} broken ones); is it the CSV of boxes?")
    boxes = joined_boxes(table.parts)
    known = boxes.category_ids != _UNKNOWN
    if not known.any():
        raise SourceError(f"{path}: no label is in {class_file}; it has {_examples(table.unknown)}. Use matching files")
    count = len(table.images)
    return AnnotationFile(
        image_ids=np.arange(count),
        hws_px=np.ones((count, 2), np.int32),
        name_rules=_name_rules(list(table.images), path),
        boxes=boxes.only(known),
        categories={number: CategoryRecord(name) for number, (_, name) in enumerate(labels, 1)},
        are_relative=True,
        problems={
            "broken lines left out": broken.lines + table.broken,
            f"boxes of labels that {class_file.name} doesn't list left out ({_examples(table.unknown)})": int(
                (~known).sum()
            ),
        },
    )


def _examples(unknown: dict[str, None]) -> str:
    return ", ".join(list(unknown)[:_SHOWN]) + (", ..." if len(unknown) > _SHOWN else "")


class _BrokenLines:
    """Skips and counts lines with another number of columns than the header."""

    def __init__(self) -> None:
        self.lines = 0

    def __call__(self, _: pacsv.InvalidRow) -> str:
        self.lines += 1
        return "skip"


def _batches(path: Path, broken: _BrokenLines) -> Iterator[pa.RecordBatch]:
    """The needed columns as bytes: numbers and names are checked afterwards, so that one bad line ends nothing."""
    columns = _header(path)
    missing = [name for name in _NEEDED if name not in columns]
    if missing:
        raise SourceError(
            f"{path}: has no column {', '.join(missing)}; its first line is {','.join(columns)[:200]!r}. "
            "The CSV of boxes of OpenImages V4 or later is expected, unpacked"
        )
    wanted = [*_NEEDED, *([_GROUP] if _GROUP in columns else [])]
    try:
        yield from pacsv.open_csv(
            path if _is_utf8(path) else pa.PythonFile(_MendedLines(path), mode="r"),
            parse_options=pacsv.ParseOptions(quote_char=False, invalid_row_handler=broken),
            convert_options=pacsv.ConvertOptions(
                include_columns=wanted, column_types=dict.fromkeys(wanted, pa.binary()), strings_can_be_null=False
            ),
        )
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise SourceError(f"{path}: no CSV ({str(error)[:200]}); is it cut short? Download it again") from None


def _header(path: Path) -> list[str]:
    try:
        with open_regular(path) as file:
            line = file.readline(_MAX_LINE)
    except OSError as error:
        raise SourceError(
            f"{path}: can't be read ({error.strerror or error}); give the path of an annotation file"
        ) from error
    # Arrow ends lines at either.
    return re.split(rb"[\r\n]", line, maxsplit=1)[0].decode("utf-8-sig", "replace").strip().split(",")


def _is_utf8(path: Path) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with path.open("rb") as file:
            while block := file.read(2**20):
                decoder.decode(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


class _MendedLines(io.RawIOBase):
    """A file whose lines that aren't UTF-8 have a question mark for each byte beyond ASCII.

    Arrow hands broken lines to Python as texts: one that is none would end the reading.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._ready = self._ready or _mended(self._file.readline(_MAX_LINE))
        part, self._ready = self._ready[: len(buffer)], self._ready[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)

    def close(self) -> None:
        self._file.close()
        super().close()


_ASCII = bytes(code if code < 128 else ord("?") for code in range(256))


def _mended(line: bytes) -> bytes:
    try:
        line.decode()
    except UnicodeDecodeError:
        return line.translate(_ASCII)
    return line


class _Table:
    def __init__(self, path: Path, category_of: dict[str, int]) -> None:
        self._path = path
        self._category_of = category_of
        self.images: dict[str, int] = {}
        self.unknown: dict[str, None] = {}
        self.parts: list[AnnotatedBoxes] = []
        self.broken = 0

    def add(self, batch: pa.RecordBatch) -> None:
        x1, x2, y1, y2 = (_numbers(batch.column(name)) for name in _SIDES)
        crowd = _numbers(batch.column(_GROUP)) if _GROUP in batch.schema.names else np.zeros(len(x1))
        image_index = _numbered(batch.column("ImageID"), self._image_number)
        category_ids = _numbered(batch.column("LabelName"), self._category_number)
        with np.errstate(invalid="ignore"):  # Infinities, which are left out below.
            boxes_xywh = xyxy_to_xywh(np.stack([x1, y1, x2, y2], axis=1))
        # A cell that is no number became NaN; no line of OpenImages has one.
        whole = np.isfinite(boxes_xywh).all(axis=1) & np.isfinite(crowd)
        self.broken += int((~whole).sum())
        # 1 says that it is a group, 0 that it is none, and -1 that nobody looked.
        self.parts.append(AnnotatedBoxes(image_index, category_ids, boxes_xywh, crowd == 1).only(whole))

    def _image_number(self, image_id: str) -> int:
        return self.images.setdefault(image_id.removesuffix(".jpg"), len(self.images))

    def _category_number(self, label: str) -> int:
        number = self._category_of.get(label, _UNKNOWN)
        if number == _UNKNOWN and len(self.unknown) <= _SHOWN:
            self.unknown[label[:40]] = None
        return number


def _numbered(column: pa.Array, number_of: Callable[[str], int]) -> NDArray[np.int64]:
    encoded = column.dictionary_encode()
    numbers = [number_of(printable(text)) for text in encoded.dictionary.to_pylist()]
    return np.array(numbers, np.int64)[encoded.indices.to_numpy(zero_copy_only=False)]


def _numbers(column: pa.Array) -> NDArray[np.float64]:
    """A column of bytes as float64; NaN where a cell holds no number."""
    try:
        return np.asarray(pc.cast(pc.cast(column, pa.string()), pa.float64()))
    except pa.ArrowInvalid:
        return np.array([_number(cell) for cell in column.to_pylist()])


def _number(cell: bytes) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")


def folders_of_classes(path: AnyPlace) -> tuple[AnyPlace, ...]:
    """Folders in which the class descriptions of a CSV of boxes may lie, in the order of preference."""
    here, above = path.parent, path.parent.parent
    return here, here / "metadata", above, above / "metadata", above / "annotations"


def _class_file(path: Path) -> Path:
    folders = folders_of_classes(path)
    # Both lists may lie there: with that of V4 and later a challenge's boxes would have 100 classes that none is of.
    challenge = _CHALLENGE.match(path.name)
    if challenge and (found := _first_of(folders, [f"{challenge[0]}-class*-500.csv"])):
        return found
    if found := _first_of(folders, CLASS_FILES):
        return found
    raise SourceError(
        f"{path}: the names of its labels are missing; put class-descriptions-boxable.csv (or oidv7-…) beside it"
    )


def _first_of(folders: Iterable[Path], patterns: Iterable[str]) -> Path | None:
    found = (sorted(filter(Path.is_file, folder.glob(pattern))) for folder in folders for pattern in patterns)
    return next((items[0] for items in found if items), None)


def read_class_file(path: Path) -> list[tuple[str, str]]:
    """Labels and their names in the order of a file of class descriptions; a header is passed over.

    Raises:
        SourceError: it can't be read, is something else, or names a label twice.
    """
    labels: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(csv.reader(file), 1):
                if not row or (number == 1 and row[0] == "LabelName"):
                    continue
                if len(row) < 2 or not row[0] or not row[1].strip():
                    raise SourceError(f"{path}: line {number} is not `label,name`; is the file cut short?")
                if row[0] in labels:
                    raise SourceError(f"{path}: line {number} names the label {row[0][:40]} again; labels are unique")
                labels[row[0]] = row[1].strip()
                if len(labels) > _MAX_CLASSES:
                    raise SourceError(f"{path}: more than {_MAX_CLASSES:,} classes; is it the file of class names?")
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise SourceError(f"{path}: can't be read as class descriptions ({error}); download it again") from None
    if not labels:
        raise SourceError(f"{path}: lists no classes; lines `label,name` are expected")
    return list(labels.items())


def _name_rules(image_ids: list[str], path: Path) -> dict[str, NameRule]:
    """Where OpenImages' pictures lie: in one folder, or as their 16 archives unpack, by the id's first digit."""
    match = re.search("train|validation|test", path.name)
    split = match[0] if match else "train"

    def rule(pattern: str) -> NameRule:
        def name(index: int) -> str | None:
            image_id = image_ids[index]
            return end_of_name(pattern.format(image_id, split=split, first=image_id[:1]), "ImageID", path)

        return name

    patterns = (
        "{split}/{0}.jpg",
        "{split}_{first}/{0}.jpg",
        "{split}/{split}_{first}/{0}.jpg",
        "images/{split}/{0}.jpg",
        "{split}/data/{0}.jpg",
        "{0}.jpg",
    )
    return {f"as {pattern.format('ImageID', split=split, first='0')}": rule(pattern) for pattern in patterns}
