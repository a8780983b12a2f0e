"""Label Studio's JSON export: a list of tasks, with the results of their annotators."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from richsem_schemas.annotations.json_stream import stream_json
from richsem_schemas.errors import SourceError
from richsem_schemas.pictures.names import PICTURE_ENDINGS
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
    turned_bounds,
    usable_hw,
)

_PERCENT = 100
_KINDS = {"rectanglelabels", "polygonlabels", "ellipselabels"}


def read_label_studio(listing: Listing, files: Sequence[Path], reporter: Reporter) -> Export:
    """Read the full JSON export; the first annotation of a task that wasn't cancelled counts.

    Raises:
        SourceError: a file is no such list.
    """
    problems, names = Problems(), ClassNames()
    pictures: list[PictureRecord] = []
    with reading("reading tasks", files, reporter) as on_read:
        for path in files:
            for number, task in enumerate(_tasks(path, on_read)):
                where = f"{listing.relative(path)} [{number}] (task {str(task.get('id', '?'))[:20]})"
                if (record := _record(task, where, names, problems)) is not None:
                    pictures.append(record)
    return Export("Label Studio JSON", tuple(files), names.names, pictures, True, problems)


def _tasks(path: Path, on_read: Callable[[int], None]) -> Iterator[Mapping[str, Any]]:
    for name, batch in stream_json(path, on_read=on_read):
        if name != "":
            raise SourceError(f"{path}: the JSON of Label Studio is one list of tasks; export it anew as JSON")
        for number, task in enumerate(batch):
            if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
                raise SourceError(
                    f"{path}: [{number}] has no `data`; it is no task of Label Studio's export `JSON` (JSON-MIN and "
                    "CSV leave out what is needed)"
                )
            yield task


def _record(task: Mapping[str, Any], where: str, names: ClassNames, problems: Problems) -> PictureRecord | None:
    name = _picture_name(task["data"])
    if name is None:
        problems.add("tasks without a picture, left out", where)
        return None
    given = task.get("annotations")
    annotations = [each for each in given if isinstance(each, dict)] if isinstance(given, list) else []
    done = [each for each in annotations if not each.get("was_cancelled") and isinstance(each.get("result"), list)]
    if not done:
        problems.add("tasks that nobody labelled, left out", where)
        return None
    if len(done) > 1:
        problems.add("further annotations of one picture, left out: the first counts", where, len(done) - 1)
    boxes: list[Box] = []
    labels: list[int] = []
    hw = None
    for shape in done[0]["result"]:
        kind = shape.get("type") if isinstance(shape, dict) else None
        if kind not in _KINDS:
            problems.add("results that are no boxes, left out", f"{where} {str(kind)[:40]}")
            continue
        value = shape.get("value")
        box = _box(value, usable_hw(shape.get("original_height"), shape.get("original_width")))
        words = value.get(kind) if isinstance(value, dict) else None
        if box is None or not isinstance(words, list) or not words or not isinstance(words[0], str):
            problems.add("results without a label or a box, left out", where)
            continue
        if len(words) > 1:
            problems.add("boxes of several labels, of which the first is taken", where)
        if kind == "polygonlabels":
            problems.add("polygons in the place of boxes, of which the bounds are taken", where)
        elif value.get("rotation"):
            problems.add("turned boxes, of which the bounds are taken", where)
        hw = hw or usable_hw(shape.get("original_height"), shape.get("original_width"))
        labels.append(names.position(words[0]))
        boxes.append(box)
    label_array, box_array = boxes_and_labels(boxes, labels)
    return PictureRecord(name, where, label_array, box_array, hw=hw)


def _picture_name(data: Mapping[str, Any]) -> str | None:
    """Of the values of a task, the one that looks like a picture; else that under `image`."""
    texts = [value for value in data.values() if isinstance(value, str)]
    pictures = [text for text in texts if any(ending in text.lower() for ending in PICTURE_ENDINGS)]
    named = data.get("image")
    if isinstance(named, str):
        return named
    return pictures[0] if pictures else None


def _box(value: Any, hw: tuple[int, int] | None) -> Box | None:
    """A shape in fractions of the sides; it was turned in pixels."""
    height, width = hw or (1, 1)
    try:
        if "points" in value:
            return bounds_xywh(
                [float(x) / _PERCENT for x, _ in value["points"]], [float(y) / _PERCENT for _, y in value["points"]]
            )
        if "radiusX" in value:
            x, y, across, down = (float(value[key]) / _PERCENT for key in ("x", "y", "radiusX", "radiusY"))
            return x - across, y - down, 2 * across, 2 * down
        x, y, w, h = (float(value[key]) / _PERCENT for key in ("x", "y", "width", "height"))
        degrees = float(value.get("rotation") or 0)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    left, top, across, down = turned_bounds((x * width, y * height, w * width, h * height), degrees, about_corner=True)
    return left / width, top / height, across / width, down / height
