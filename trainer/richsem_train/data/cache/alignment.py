"""Which picture of a detection cache is which picture of the annotations, and whether their boxes are the same."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from richsem_schemas.annotations import DetectionData
from richsem_schemas.cache.listed_boxes import ListedBoxes
from richsem_schemas.errors import ManifestMismatchError
from richsem_train.data.cache.nearest import ABSENT

TOLERANCE_PX = 0.01
"""How far the corners of a box may lie apart; both were rounded to float32."""

TOLERANCE_FRACTION = 1e-5
"""The same where boxes are fractions of the picture's sides."""

_CHUNK_PICTURES = 2**13
"""Pictures that are compared at a time, for the memory."""


def joined_by_name(files: Sequence[str], names: pa.ChunkedArray) -> NDArray[np.int64]:
    """Where each file of the annotations stands in a list of names.

    Whole names first. Where none of them is there, the folders on the way differ (one program was given the folder of
    the pictures, the other the one above), and the last parts are compared, if they tell the pictures apart.

    Args:
        files: N names relative to one folder.
        names: names relative to another, as the file system's bytes.

    Returns:
        int64 [N]; `ABSENT` where there is no such name.
    """
    ours = pa.array([file.encode("utf-8", "surrogateescape") for file in files], pa.binary())
    found = _indexes(ours, names)
    if (found != ABSENT).any():
        return found
    our_ends, their_ends = _last_parts(ours.to_pylist()), _last_parts(names.to_pylist())
    if len(pc.unique(their_ends)) < len(their_ends) or len(pc.unique(our_ends)) < len(our_ends):
        return found
    return _indexes(our_ends, their_ends)


def _indexes(values: pa.Array, among: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    return np.asarray(pc.index_in(values, value_set=among).fill_null(ABSENT).to_numpy(zero_copy_only=False), np.int64)


def _last_parts(names: list[bytes]) -> pa.Array:
    return pa.array([name.rpartition(b"/")[2] for name in names], pa.binary())


def require_same_boxes(
    data: DetectionData, listed: ListedBoxes, listed_index: NDArray[np.int64], rows: NDArray[np.int64], *, where: str
) -> NDArray[np.int32]:
    """Check that a cache's boxes are those of the annotations, picture by picture, and find which is which.

    Args:
        data: N pictures with M boxes; its category ids are rows of the run's vocabulary.
        listed: the cache's.
        listed_index: int64 [N], the listed picture of each; `ABSENT` ones are passed over.
        rows: int64 [R], the run's row of each row of the cache's vocabulary.
        where: the cache, for messages.

    Returns:
        int32 [M], where each box stands among the listed ones of its picture.

    Raises:
        ManifestMismatchError: names the first picture that differs, and in what.
    """
    counts = np.diff(data.offsets)
    annotations = np.arange(len(data.category_ids), dtype=np.int32)
    annotations -= np.repeat(data.offsets[:-1].astype(np.int32), counts)
    first, differing = "", 0
    for picture in _suspects(data, listed, listed_index, rows):
        there = int(listed_index[picture])
        difference = _difference(data, listed, picture, there, rows)
        if difference is None:
            part = slice(data.offsets[picture], data.offsets[picture + 1])
            annotations[part] = _reordered(data, listed, picture, there, rows)
        else:
            first = first or f"{data.files[picture]}: {difference}"
            differing += 1
    if differing:
        raise ManifestMismatchError(
            f"{where} has other annotations than this run: {differing:,} of {len(data):,} pictures differ, first "
            f"{first}. Its labels are of those boxes: train on the annotations that it was made from, or make it anew "
            "with these (`richsem-prep shard --annotations`)"
        )
    return annotations


def _suspects(
    data: DetectionData, listed: ListedBoxes, listed_index: NDArray[np.int64], rows: NDArray[np.int64]
) -> Iterator[int]:
    """Pictures whose boxes differ, or stand in another order."""
    known = np.flatnonzero(listed_index != ABSENT)
    for start in range(0, len(known), _CHUNK_PICTURES):
        chunk = known[start : start + _CHUNK_PICTURES]
        yield from chunk[_seem_to_differ(data, listed, chunk, listed_index[chunk], rows)].tolist()


def _seem_to_differ(
    data: DetectionData,
    listed: ListedBoxes,
    here: NDArray[np.int64],
    there: NDArray[np.int64],
    rows: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Which of many pictures have other sizes, numbers of boxes, or boxes when compared in order, bool [P]."""
    sizes = listed.hws_px[there]
    differ = ((sizes != data.hws_px[here]) & (sizes > 0)).any(axis=1)
    counts = np.diff(data.offsets)[here]
    other_count = counts != np.diff(listed.offsets)[there]
    same = np.flatnonzero(~other_count)
    boxes_here, owner = _part(data.offsets, here[same])
    boxes_there, _ = _part(listed.offsets, there[same])
    moved = np.abs(_corners(data.boxes_xywh_px[boxes_here]) - listed.boxes_xyxy[boxes_there])
    tolerance = np.where(sizes[same, :1] > 0, TOLERANCE_PX, TOLERANCE_FRACTION)
    other_box = (moved > tolerance[owner]).any(axis=1)
    other_box |= data.category_ids[boxes_here] != _own_rows(listed.rows[boxes_there], rows)
    differ[same[owner[other_box]]] = True
    return differ | other_count


def _difference(data: DetectionData, listed: ListedBoxes, here: int, there: int, rows: NDArray[np.int64]) -> str | None:
    """In what one picture differs; boxes may stand in another order."""
    hw_here, hw_there = tuple(data.hws_px[here].tolist()), tuple(listed.hws_px[there].tolist())
    if hw_there[0] and hw_here != hw_there:
        return f"size is {hw_there[0]} x {hw_there[1]} there, {hw_here[0]} x {hw_here[1]} here"
    ours, theirs = _rows_of_boxes(data, listed, here, there, rows)
    if len(ours) != len(theirs):
        return f"{len(theirs)} boxes there, {len(ours)} here"
    ours, theirs = ours[_order(ours)], theirs[_order(theirs)]
    differs = (np.abs(ours - theirs) > (TOLERANCE_PX if hw_there[0] else TOLERANCE_FRACTION)).any(axis=1)
    if not differs.any():
        return None
    shown = [
        f"{box[:4].round(2).tolist()} of row {int(box[4])}"
        for box in (theirs[np.argmax(differs)], ours[np.argmax(differs)])
    ]
    return f"box {shown[0]} there, {shown[1]} here"


def _reordered(
    data: DetectionData, listed: ListedBoxes, here: int, there: int, rows: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Where each box of a picture stands among the listed ones, which are the same but for their order."""
    ours, theirs = _rows_of_boxes(data, listed, here, there, rows)
    found = np.empty(len(ours), np.int64)
    found[_order(ours)] = _order(theirs)
    return found


def _rows_of_boxes(
    data: DetectionData, listed: ListedBoxes, here: int, there: int, rows: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The boxes of one picture here and there, their corners and their row, [G, 5] each."""
    boxes_xywh, categories = data.objects(here)
    part = slice(listed.offsets[there], listed.offsets[there + 1])
    return (
        _with_rows(_corners(boxes_xywh), categories),
        _with_rows(listed.boxes_xyxy[part], _own_rows(listed.rows[part], rows)),
    )


def _part(offsets: NDArray[np.int64], chosen: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The boxes of chosen pictures, one picture after the other, and for each the position of its picture."""
    counts = np.diff(offsets)[chosen]
    owner = np.repeat(np.arange(len(chosen)), counts)
    inside = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    return offsets[chosen][owner] + inside, owner


def _corners(boxes_xywh: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1)


def _own_rows(rows_there: NDArray[np.int32], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The run's rows of the cache's; what is no row of its vocabulary is no row here."""
    known = (rows_there >= 0) & (rows_there < len(rows))
    return np.where(known, rows[np.where(known, rows_there, 0)], ABSENT)


def _with_rows(boxes_xyxy: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.concatenate([boxes_xyxy.astype(np.float64), rows[:, None].astype(np.float64)], axis=1)


def _order(boxes_G5: NDArray[np.float64]) -> NDArray[np.int64]:
    """An order of boxes that doesn't depend on the file's."""
    return np.lexsort(boxes_G5.T)
