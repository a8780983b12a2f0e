"""CVAT's own export, "CVAT for images 1.1": one XML file.

hotcoco reads it, too, but not masks, ellipses or subsets, and it finds no pictures.
"""

from collections.abc import Sequence
from pathlib import Path

from richsem_train.console import Reporter
from richsem_train.own_data.listing import Listing
from richsem_train.own_data.reading import reading
from richsem_train.own_data.records import (
    Box,
    ClassNames,
    Export,
    PictureRecord,
    Problems,
    bounds_xywh,
    boxes_and_labels,
    split_of_words,
    turned_bounds,
    usable_hw,
)
from richsem_train.own_data.xml_records import Element, stream_xml

ROOT = "annotations"


def read_cvat(listing: Listing, files: Sequence[Path], reporter: Reporter) -> Export:
    """Read CVAT's XML; splits by its subsets.

    Boxes that were turned count by their bounds, and so do polygons, masks and ellipses. Lines and points have no box.

    Raises:
        SourceError: a file is no such XML.
    """
    problems, names = Problems(), ClassNames()
    pictures = []
    with reading("reading XML", files, reporter) as on_read:
        for path in files:
            for record in stream_xml(path, ROOT, on_read=on_read):
                if record.tag == "meta":
                    for label in _labels(record):
                        names.position(label)
                elif record.tag == "image":
                    pictures.append(_record(record, listing.relative(path), names, problems))
                elif record.tag == "track":
                    problems.add(
                        "tracks of a video, left out: export it as CVAT for images, whose frames are pictures",
                        f"{listing.relative(path)} track {record.attributes.get('id', '')}",
                    )
    return Export("CVAT XML", tuple(files), names.names, pictures, False, problems)


def _labels(meta: Element) -> list[str]:
    """The classes of the task, or of the tasks of a project, in its order."""
    lists = [meta.first(kind, "labels") for kind in ("task", "project", "job")]
    return [
        name for found in lists if found for label in found.all("label") if (name := label.words("name")) is not None
    ]


def _record(image: Element, file: str, names: ClassNames, problems: Problems) -> PictureRecord:
    name = image.attributes.get("name", "")
    where = f"{file} image {image.attributes.get('id', '?')} ({name[:80]})"
    boxes: list[Box] = []
    labels = []
    for shape in image.children:
        box = _box(shape)
        label = shape.attributes.get("label")
        if label is None:
            continue
        if box is None:
            problems.add(f"shapes <{shape.tag[:20]}> that have no box, left out", where)
            continue
        if shape.tag != "box":
            problems.add("polygons in the place of boxes, of which the bounds are taken", where)
        elif _number(shape, "rotation"):
            problems.add("turned boxes, of which the bounds are taken", where)
        labels.append(names.position(label))
        boxes.append(box)
    label_array, box_array = boxes_and_labels(boxes, labels)
    subset = image.attributes.get("subset", "")
    return PictureRecord(
        name,
        where,
        label_array,
        box_array,
        split=split_of_words([subset]),
        hw=usable_hw(_number(image, "height"), _number(image, "width")),
    )


def _box(shape: Element) -> Box | None:
    try:
        if shape.tag == "box":
            left, top, right, bottom = (float(shape.attributes[side]) for side in ("xtl", "ytl", "xbr", "ybr"))
            return turned_bounds((left, top, right - left, bottom - top), _number(shape, "rotation") or 0.0)
        if shape.tag == "polygon":
            points = [point.split(",") for point in shape.attributes["points"].split(";")]
            return bounds_xywh([float(x) for x, _ in points], [float(y) for _, y in points])
        if shape.tag == "mask":
            left, top, width, height = (float(shape.attributes[side]) for side in ("left", "top", "width", "height"))
            return left, top, width, height
        if shape.tag == "ellipse":
            x, y, across, down = (float(shape.attributes[side]) for side in ("cx", "cy", "rx", "ry"))
            return x - across, y - down, 2 * across, 2 * down
    except (KeyError, ValueError):
        return None
    return None


def _number(element: Element, key: str) -> float | None:
    try:
        return float(element.attributes[key])
    except (KeyError, ValueError):
        return None
