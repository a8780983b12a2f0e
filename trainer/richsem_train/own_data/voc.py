"""Pascal VOC: an XML file a picture.

hotcoco reads one folder of them, finds no pictures and stops at the first file that is odd.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from richsem_schemas.errors import SourceError
from richsem_train.console import Reporter
from richsem_train.own_data.listing import Listing
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
from richsem_train.own_data.text_files import read_text
from richsem_train.own_data.xml_records import Element, stream_xml

ROOT = "annotation"


def read_voc(listing: Listing, files: Sequence[Path], reporter: Reporter) -> Export:
    """Read XML files of Pascal VOC's kind; splits by `ImageSets/Main`, else by the names of folders.

    VOC counts pixels from 1, and its last ones belong to the box. Many tools count from 0: where one corner is below 1,
    all are taken as they stand.

    Source:
        VOC's development kit; hotcoco and Detectron2 read it so, too.
    """
    problems, names = Problems(), ClassNames()
    splits = _listed_splits(listing)
    pictures = []
    reporter.begin("reading XML", len(files))
    for number, path in enumerate(files):
        reporter.move(number)
        where = listing.relative(path)
        try:
            root = Element(ROOT, {}, list(stream_xml(path, ROOT)))
        except SourceError as error:
            problems.add("XML files that can't be read as Pascal VOC, left out", str(error))
            continue
        split = splits.get(path.stem) if splits else split_of_words(listing.folders(path))
        if splits and split is None:
            problems.add("files of no split of ImageSets/Main, left out", where)
            continue
        pictures.append(_record(root, path, where, split, names, problems))
    reporter.end()
    lowest = min((record.boxes_xywh[:, :2].min() for record in pictures if len(record.labels)), default=0.0)
    if lowest >= 1:
        inclusive = np.array([-1.0, -1.0, 1.0, 1.0])
        pictures = [replace(record, boxes_xywh=record.boxes_xywh + inclusive) for record in pictures]
    folder = files[0].parent if len({path.parent for path in files}) == 1 else listing.root
    return Export("Pascal VOC", (folder,), names.names, pictures, False, problems)


def _record(
    root: Element, path: Path, where: str, split: Split | None, names: ClassNames, problems: Problems
) -> PictureRecord:
    boxes, labels = [], []
    for number, thing in enumerate(root.all("object"), 1):
        name, box = thing.words("name"), _box(thing)
        if name is None or box is None:
            problems.add("objects without a name or a box, left out", f"{where} object {number}")
            continue
        if thing.first("bndbox") is None:
            problems.add("polygons in the place of boxes, of which the bounds are taken", f"{where} object {number}")
        labels.append(names.position(name))
        boxes.append(box)
    label_array, box_array = boxes_and_labels(boxes, labels)
    hw = usable_hw(_number(root.words("size", "height")), _number(root.words("size", "width")))
    name = _picture_name(root, path)
    return PictureRecord(name, where, label_array, box_array, split=split, hw=hw)


def _picture_name(root: Element, path: Path) -> str:
    name = root.words("filename") or path.stem
    folder = root.words("folder")
    return f"{folder}/{name}" if folder and "/" not in name and "\\" not in name else name


def _box(thing: Element) -> Box | None:
    corners = [_number(thing.words("bndbox", side)) for side in ("xmin", "ymin", "xmax", "ymax")]
    if None not in corners:
        left, top, right, bottom = (corner or 0.0 for corner in corners)
        return left, top, right - left, bottom - top
    polygon = thing.first("polygon")
    if polygon is None:
        return None
    points = {child.tag: _number(child.text) for child in polygon.children}
    xs = [value for tag, value in points.items() if tag.startswith("x") and value is not None]
    ys = [value for tag, value in points.items() if tag.startswith("y") and value is not None]
    return bounds_xywh(xs, ys) if xs and ys else None


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None


def _listed_splits(listing: Listing) -> dict[str, Split]:
    """Splits by stems of names, from `ImageSets/Main/train.txt` and the like; empty without."""
    splits: dict[str, Split] = {}
    for split in ("train", "val", "test"):
        for path in listing.ending(".txt"):
            if path.stem == split and path.parent.parts[-2:] == ("ImageSets", "Main"):
                for line in read_text(path).splitlines():
                    if line.strip():
                        splits.setdefault(line.split()[0], split)
    return splits
