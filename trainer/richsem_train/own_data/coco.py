"""COCO's JSON as people's tools write it, and LVIS's.

The trainer's own reader takes what COCO and LVIS publish and refuses the rest; here polygons may stand in the place of
boxes, pictures may be listed twice or have no size, and boxes may belong to none.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from richsem_schemas.annotations.json_stream import stream_json
from richsem_schemas.errors import SourceError
from richsem_schemas.vocabularies.frequencies import Frequency
from richsem_train.console import Reporter
from richsem_train.own_data.listing import Listing
from richsem_train.own_data.reading import reading
from richsem_train.own_data.records import (
    Box,
    ClassNames,
    Export,
    PictureRecord,
    Problems,
    Split,
    bounds_xywh,
    boxes_and_labels,
    split_of_words,
    usable_hw,
)

_LISTS = ("images", "annotations", "categories")
_SHOWN = 5


class _Image(msgspec.Struct, gc=False):
    id: int | str
    file_name: str | None = None
    coco_url: str | None = None
    height: float | None = None
    width: float | None = None
    neg_category_ids: list[int] = []
    not_exhaustive_category_ids: list[int] = []


class _Annotation(msgspec.Struct, gc=False):
    image_id: int | str
    category_id: int
    bbox: tuple[float, float, float, float] | None = None
    iscrowd: float | None = None
    segmentation: msgspec.Raw = msgspec.Raw(b"")


@dataclass(eq=False)
class _Boxes:
    """Of one picture, growing."""

    labels: list[int] = field(default_factory=list)
    xywh: list[Box] = field(default_factory=list)
    crowds: list[bool] = field(default_factory=list)


def read_coco(listing: Listing, files: Sequence[Path], reporter: Reporter) -> Export:
    """Read one JSON file, or one for each split.

    Files without categories (captions) are passed over where another has them. Splits are told by the names of files,
    or of their folders.

    Raises:
        SourceError: a file can't be read, is something else, or has a box of a category that it doesn't list; or two
            files are of one split.
    """
    problems, names = Problems(), ClassNames()
    read = [each for path in files if (each := _read_file(path, listing, problems, reporter)) is not None]
    if not read:
        raise SourceError(
            f"{', '.join(map(listing.relative, files[:_SHOWN]))}: no `categories` in it; an annotation file is an "
            "object that holds `images`, `annotations` and `categories`"
        )
    splits = _splits_of(read, listing)
    pictures = [record for each, split in zip(read, splits, strict=True) for record in each.records(names, split)]
    is_lvis = any(each.is_lvis for each in read)
    notes = [] if len(read) == len(files) else ["JSON files without categories, such as captions, are passed over"]
    return Export(
        "LVIS JSON" if is_lvis else "COCO JSON",
        tuple(each.path for each in read),
        names.names,
        pictures,
        False,
        problems,
        frequencies=_frequencies(read, names),
        notes=notes,
    )


def _splits_of(files: Sequence["_File"], listing: Listing) -> list[Split | None]:
    if len(files) == 1:
        split = split_of_words((*listing.folders(files[0].path), files[0].path.name))
        # One file alone is all there is, whatever it is called.
        return [None if split in {"train", "val"} else split]
    splits = [split_of_words((*listing.folders(each.path), each.path.name)) for each in files]
    shown = ", ".join(listing.relative(each.path) for each in files[:_SHOWN])
    if None in splits or len(set(splits)) < len(splits):
        raise SourceError(
            f"{listing.root}: {len(files)} JSON files have boxes ({shown}), and their names don't tell one split each "
            "(train, val, test); give the path of the one that is meant in the place of the folder"
        )
    return splits


def _frequencies(files: Sequence["_File"], names: ClassNames) -> tuple[Frequency, ...] | None:
    given = {name: letter for each in reversed(files) for name, letter in each.frequencies.items()}
    return tuple(given[name] for name in names.names) if set(names.names) <= given.keys() else None


def _read_file(path: Path, listing: Listing, problems: Problems, reporter: Reporter) -> "_File | None":
    found = _File(path, listing.relative(path), problems)
    types: dict[str, type[msgspec.Struct]] = {"images": _Image, "annotations": _Annotation}
    try:
        with reading(f"reading {listing.relative(path)}", [path], reporter) as on_read:
            for name, batch in stream_json(path, types, on_read=on_read):
                if name in _LISTS:
                    found.add(name, batch)
    except OSError as error:
        raise SourceError(f"{path}: can't be read ({error.strerror or error})") from None
    return found if found.names else None


class _File:
    """One file, growing list by list in whatever order they stand."""

    def __init__(self, path: Path, shown: str, problems: Problems) -> None:
        self.path, self._shown, self._problems = path, shown, problems
        self.counts = dict.fromkeys(_LISTS, 0)
        self.names: dict[int, str] = {}
        self.frequencies: dict[str, Frequency] = {}
        self.is_lvis = False
        self._images: dict[int | str, tuple[_Image, str]] = {}
        self._boxes: dict[int | str, _Boxes] = {}

    def add(self, name: str, batch: list[Any]) -> None:
        for record in batch:
            where = f"{self._shown} {name}[{self.counts[name]}]"
            self.counts[name] += 1
            if name == "categories":
                self._add_category(record, where)
            elif name == "images":
                self._add_image(_converted(record, _Image, where), where)
            else:
                self._add_annotation(_converted(record, _Annotation, where), where)

    def _add_category(self, record: Any, where: str) -> None:
        number = record.get("id") if isinstance(record, dict) else None
        name = record.get("name") if isinstance(record, dict) else None
        if type(number) is not int or not isinstance(name, str):
            raise SourceError(f"{where} is {str(record)[:80]}; a category has a whole number `id` and a text `name`")
        if self.names.get(number, name) != name:
            raise SourceError(
                f"{where}: id {number} is {name!r} here and {self.names[number]!r} before; ids are unique: renumber one"
            )
        if number in self.names:
            self._problems.add("categories given twice, taken once", where)
        if number == 0:
            self._problems.add("categories with the id 0, which are numbered from 1 here", where)
        self.names[number] = name
        if record.get("frequency") in ("r", "c", "f"):
            self.frequencies[name] = record["frequency"]

    def _add_image(self, image: _Image, where: str) -> None:
        if image.file_name is None and image.coco_url is None:
            raise SourceError(f"{where} has no `file_name`; it names the picture")
        self.is_lvis = self.is_lvis or bool(image.neg_category_ids or image.not_exhaustive_category_ids)
        if image.id in self._images:
            if self._images[image.id][0].file_name != image.file_name:
                raise SourceError(
                    f"{where}: id {image.id} is {image.file_name!r} here and "
                    f"{self._images[image.id][0].file_name!r} before; a box can't tell which it is of: renumber one"
                )
            self._problems.add("pictures listed twice under one id, taken once", where)
            return
        self._images[image.id] = (image, where)

    def _add_annotation(self, record: _Annotation, where: str) -> None:
        box = record.bbox
        if box is None:
            box = _bounds(record.segmentation)
            if box is None:
                self._problems.add("annotations without a box or a polygon, left out", where)
                return
            self._problems.add("polygons in the place of boxes, of which the bounds are taken", where)
        boxes = self._boxes.setdefault(record.image_id, _Boxes())
        boxes.labels.append(record.category_id)
        boxes.xywh.append(box)
        boxes.crowds.append(bool(record.iscrowd))

    def records(self, names: ClassNames, split: Split | None) -> list[PictureRecord]:
        """The pictures with their boxes, once all is read; classes by their positions in `names`."""
        positions = {number: names.position(self.names[number]) for number in sorted(self.names)}
        for image_id in self._boxes.keys() - self._images.keys():
            where = f"{self._shown} annotations with image_id {image_id}"
            self._problems.add(
                "boxes of pictures that `images` doesn't list, left out", where, len(self._boxes[image_id].labels)
            )
        return [self._record(image, where, positions, split) for image, where in self._images.values()]

    def _record(self, image: _Image, where: str, positions: dict[int, int], split: Split | None) -> PictureRecord:
        boxes = self._boxes.get(image.id, _Boxes())
        unknown = next((number for number in boxes.labels if number not in positions), None)
        if unknown is not None:
            raise SourceError(
                f"{where}: a box of it has the category_id {unknown}, which `categories` doesn't list; add it there, "
                "or remove the box"
            )
        labels, xywh = boxes_and_labels(boxes.xywh, [positions[number] for number in boxes.labels])
        return PictureRecord(
            image.file_name or image.coco_url or "",
            where,
            labels,
            xywh,
            split=split,
            hw=usable_hw(image.height, image.width),
            is_crowd=np.array(boxes.crowds, np.bool_) if any(boxes.crowds) else None,
            negatives=tuple(positions[number] for number in image.neg_category_ids if number in positions),
            not_exhaustive=tuple(
                positions[number] for number in image.not_exhaustive_category_ids if number in positions
            ),
        )


def _converted(record: Any, kind: type[Any], where: str) -> Any:
    """A record as its type: decoded already, or as JSON has it where a value is unusual."""
    if isinstance(record, kind):
        return record
    if not isinstance(record, dict):
        raise SourceError(f"{where} is of type {type(record).__name__}; it must be an object")
    record = {key: value for key, value in record.items() if key in kind.__struct_fields__}
    if kind is _Annotation:
        if not record.get("bbox"):
            record["bbox"] = None
        record["segmentation"] = msgspec.Raw(msgspec.json.encode(record.get("segmentation")))
    try:
        return msgspec.convert(record, kind)
    except msgspec.ValidationError as error:
        raise SourceError(f"{where}: {error}; mend the record") from None


def _bounds(segmentation: msgspec.Raw) -> Box | None:
    """Around the polygons of a segmentation; None where it is a mask, or nothing."""
    try:
        polygons = msgspec.json.decode(segmentation, type=list[list[float]])
    except msgspec.DecodeError:
        return None
    xs = [x for polygon in polygons for x in polygon[::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    return bounds_xywh(xs, ys) if xs and ys else None
