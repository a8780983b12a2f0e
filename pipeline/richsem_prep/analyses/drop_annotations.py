"""Partial annotations: a part of the boxes is missing, as in the supplement's figure 2."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from richsem_schemas.annotations.annotation_file import AnnotationFile
from richsem_schemas.annotations.boxes import AnnotatedBoxes, clean_boxes, count_images
from richsem_schemas.annotations.json_stream import SingleValue, stream_json
from richsem_schemas.annotations.read_annotation_file import format_by_content, read_annotation_file
from richsem_schemas.errors import RichSemError
from richsem_schemas.io.files import HashedFile, hashed_file
from richsem_schemas.io.output_files import require_no_inputs

_NOT_EXHAUSTIVE = "not_exhaustive_category_ids"

OnProgress = Callable[[int, int], None]
"""Takes the records that are written, and all that will be."""


@dataclass(frozen=True)
class Dropped:
    """What was left out of an annotation file, and what stays.

    Attributes:
        file: the annotations.
        out: the partial ones.
        ratio: of the boxes to leave out, as it was asked for.
        seed: of the draw.
        pictures: all of them; they stay.
        categories: all of them; they stay.
        boxes: of the file, crowd regions aside.
        dropped: boxes left out.
        emptied_pictures: pictures that have lost their last box.
        crowd_regions: they stay.
        not_exhaustive: pairs of a picture and a category that were added to LVIS's lists; none in files without them.
    """

    file: Path
    out: Path
    ratio: float
    seed: int
    pictures: int
    categories: int
    boxes: int
    dropped: int
    emptied_pictures: int
    crowd_regions: int
    not_exhaustive: int

    @property
    def kept(self) -> int:
        """Boxes that stay."""
        return self.boxes - self.dropped


def drop_annotations(path: Path, out: Path, *, ratio: float, seed: int, on_progress: OnProgress) -> Dropped:
    """Write an annotation file of COCO's or LVIS's format without some of its boxes.

    Every category keeps a box of those it has, and of one seed the boxes that are left out at a ratio are among those
    of every higher one. Pictures, categories and crowd regions stay, and so does all that the file says of them but for
    two things: `image_count` and `instance_count`, where categories have them, are those of the boxes that stay; and
    LVIS's pictures list each category of which they have lost a box in `not_exhaustive_category_ids`. Annotations given
    twice under one id stand there once.

    Args:
        path: the annotations; read twice, never held.
        out: written whole or not at all.
        ratio: of the boxes to leave out, 0 to 1; fewer where categories would be left without any.
        seed: of the draw.
        on_progress: called now and then.

    Raises:
        RichSemError: a file of another format, `out` is the file itself, or the ratio is none.
    """
    if not 0 <= ratio <= 1:
        raise RichSemError(f"--ratio {ratio}: the share of boxes to drop is from 0 to 1")
    require_no_inputs([out], [path], remedy="name another --out")
    if format_by_content(path) != "coco":
        raise RichSemError(
            f"{path}: annotations are dropped from JSON of COCO, LVIS and Objects365, whose format is written again; "
            "write these as such JSON first"
        )
    found = read_annotation_file(path, "coco")
    is_dropped = choose_dropped(found, ratio=ratio, seed=seed)
    editor = _Editor(found, is_dropped)
    with hashed_file(out) as file:
        _write(path, file, editor, on_progress)
    counts = _counts(found, is_dropped)
    return Dropped(file=path, out=out, ratio=ratio, seed=seed, not_exhaustive=editor.marked, **counts)


def choose_dropped(found: AnnotationFile, *, ratio: float, seed: int) -> NDArray[np.bool_]:
    """Which of an annotation file's M boxes are left out, bool [M].

    All boxes are drawn in one order, of which `ratio` times their number, rounded, are left out from the front. Of each
    category the last one in this order stands out of it: one that can be learned from, where there is one.
    """
    boxes = found.boxes
    order = np.random.default_rng(seed).permutation(len(boxes))
    order = order[~boxes.is_crowd[order]]
    # A category whose only box left has no area would have none to learn from.
    last = order[np.argsort(_is_learnable(boxes, found.hws_px)[order], kind="stable")][::-1]
    _, first = np.unique(boxes.category_ids[last], return_index=True)
    is_kept = np.zeros(len(boxes), np.bool_)
    is_kept[last[first]] = True
    is_dropped = np.zeros(len(boxes), np.bool_)
    is_dropped[order[~is_kept[order]][: round(ratio * len(order))]] = True
    return is_dropped


def _is_learnable(boxes: AnnotatedBoxes, hws_px: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Which boxes training keeps, bool [M]."""
    # Numbered in the place of categories, which cleaning hands through.
    kept, _ = clean_boxes(replace(boxes, category_ids=np.arange(len(boxes))), hws_px)
    is_learnable = np.zeros(len(boxes), np.bool_)
    is_learnable[kept.category_ids] = True
    return is_learnable


def _counts(found: AnnotationFile, is_dropped: NDArray[np.bool_]) -> dict[str, int]:
    """Fields of `Dropped` that count."""
    boxes = found.boxes
    with_boxes, still = (np.unique(boxes.image_index[~boxes.is_crowd & mask]) for mask in (True, ~is_dropped))
    return {
        "pictures": len(found.image_ids),
        "categories": len(found.categories),
        "boxes": int((~boxes.is_crowd).sum()),
        "dropped": int(is_dropped.sum()),
        "emptied_pictures": len(with_boxes) - len(still),
        "crowd_regions": int(boxes.is_crowd.sum()),
    }


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
