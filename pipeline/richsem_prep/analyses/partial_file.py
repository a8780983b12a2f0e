"""An annotation file without some of its boxes, written record by record."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from richsem_schemas.annotations.annotation_file import AnnotationFile
from richsem_schemas.annotations.boxes import count_images
from richsem_schemas.annotations.json_stream import SingleValue, stream_json
from richsem_schemas.annotations.read_annotation_file import format_by_content, read_annotation_file
from richsem_schemas.errors import RichSemError
from richsem_schemas.io.files import HashedFile, hashed_file
from richsem_schemas.io.output_files import require_no_inputs, require_replaceable

_NOT_EXHAUSTIVE = "not_exhaustive_category_ids"

OnProgress = Callable[[int, int], None]
"""Takes the records that are written, and all that will be."""


def read_to_write_again(path: Path, out: Path, *, option: str) -> AnnotationFile:
    """Read an annotation file of COCO's or LVIS's format, of which a part is to be written to `out`.

    Raises:
        RichSemError: it has another format, or `out`, which `option` names, is the file itself or a folder.
    """
    require_no_inputs([out], [path], remedy=f"name another {option}")
    require_replaceable(out)
    if format_by_content(path) != "coco":
        raise RichSemError(
            f"{path}: annotations are dropped from JSON of COCO, LVIS and Objects365, whose format is written again; "
            "write these as such JSON first"
        )
    return read_annotation_file(path, "coco")


def write_without(
    path: Path, found: AnnotationFile, is_dropped: NDArray[np.bool_], out: Path, on_progress: OnProgress
) -> int:
    """Write an annotation file without some of its boxes, whole or not at all; it is read once more, never held.

    Pictures, categories and crowd regions stay, and so does all that the file says of them but for two things:
    `image_count` and `instance_count`, where categories have them, are those of the boxes that stay; and LVIS's
    pictures list each category of which they have lost a box in `not_exhaustive_category_ids`. Annotations given twice
    under one id stand there once.

    Args:
        path: the file.
        found: the same, as `read_to_write_again` reads it.
        is_dropped: bool [M], of its boxes.
        out: where it goes.
        on_progress: called now and then.

    Returns:
        Pairs of a picture and a category that were added to LVIS's lists; none in files without them.
    """
    editor = _Editor(found, is_dropped)
    with hashed_file(out) as file:
        _write(path, file, editor, on_progress)
    return editor.marked


class _Editor:
    """What becomes of each record of a file.

    Attributes:
        records: pictures and annotations of the file.
        marked: pairs of a picture and a category that were listed as not exhaustively annotated so far.
    """

    def __init__(self, found: AnnotationFile, is_dropped: NDArray[np.bool_]) -> None:
        assert found.repeats is not None, "of COCO's format"
        boxes = found.boxes
        self.records = len(found.image_ids) + len(boxes) + len(found.repeats)
        places = np.delete(np.arange(len(boxes) + len(found.repeats)), found.repeats)
        self._is_written = np.zeros(len(boxes) + len(found.repeats), np.bool_)
        self._is_written[places[~is_dropped]] = True
        rows = max(found.categories) + 1
        self._lost = np.unique(boxes.image_index[is_dropped] * rows + boxes.category_ids[is_dropped])
        self._rows = rows
        stays = boxes.only(~is_dropped)
        counted = np.bincount(stays.category_ids[~stays.is_crowd], minlength=rows)
        self._counts = {"image_count": count_images(stays, num_rows=rows), "instance_count": counted}
        self._edits = {"images": self._picture, "categories": self._category}
        self.marked = 0

    def edited(self, name: str, records: list[Any], start: int) -> Iterator[bytes]:
        """The text of those records of a list that stay; `start` is the place of the first one in the list."""
        for place, record in enumerate(records, start):
            if name == "annotations" and not self._is_written[place]:
                continue
            edit = self._edits.get(name)
            edited = record if edit is None else edit(record, place)
            yield bytes(edited) if isinstance(edited, msgspec.Raw) else json.dumps(edited).encode()

    def _picture(self, record: Any, place: int) -> Any:
        """A picture whose list names what it has lost; others as they are."""
        first, end = np.searchsorted(self._lost, [place * self._rows, (place + 1) * self._rows])
        if first == end:
            return record
        content = json.loads(bytes(record)) if isinstance(record, msgspec.Raw) else record
        listed = content.get(_NOT_EXHAUSTIVE)
        if not isinstance(listed, list):
            return record
        lost = [number for number in (self._lost[first:end] % self._rows).tolist() if number not in listed]
        self.marked += len(lost)
        return content | {_NOT_EXHAUSTIVE: listed + lost}

    def _category(self, record: dict[str, Any], _: int) -> dict[str, Any]:
        """A category with the counts that it has now, where it has any."""
        counts = {key: int(counted[record["id"]]) for key, counted in self._counts.items() if key in record}
        return record | counts


def _write(path: Path, file: HashedFile, editor: _Editor, on_progress: OnProgress) -> None:
    """Write the lists and values of a file one after the other, edited."""
    raw = dict.fromkeys(("images", "annotations"), msgspec.Raw)
    current, place, done, between, end = None, 0, 0, b"", b"{"
    for name, records in stream_json(path, raw):
        if name != current:
            is_value = isinstance(records, SingleValue)
            key = json.dumps(name.removesuffix("!") if is_value else name).encode()
            file.write(end + key + (b": " if is_value else b": ["))
            current, place, between, end = name, 0, b"", (b", " if is_value else b"], ")
        if texts := list(editor.edited(name, records, place)):
            file.write(between + b", ".join(texts))
            between = b", "
        place += len(records)
        if name in raw:
            done += len(records)
            on_progress(done, editor.records)
    file.write(end.removesuffix(b", ") + b"}\n")
