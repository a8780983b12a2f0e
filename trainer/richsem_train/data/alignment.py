"""Which picture of a detection cache is which picture of the annotations, and whether their boxes are the same."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from richsem_schemas.annotations import DetectionData
from richsem_schemas.errors import ManifestMismatchError
from richsem_schemas.listed_boxes import ListedBoxes

TOLERANCE_PX = 0.01
"""How far the corners of a box may lie apart; both were rounded to float32."""

TOLERANCE_FRACTION = 1e-5
"""The same where boxes are fractions of the picture's sides."""

ABSENT = -1


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
) -> None:
    """Check that a cache's boxes are those of the annotations, picture by picture.

    Args:
        data: N pictures; its category ids are rows of the run's vocabulary.
        listed: the cache's.
        listed_index: int64 [N], the listed picture of each; `ABSENT` ones are passed over.
        rows: int64 [R], the run's row of each row of the cache's vocabulary.
        where: the cache, for messages.

    Raises:
        ManifestMismatchError: names the first picture that differs, and in what.
    """
    known = np.flatnonzero(listed_index != ABSENT)
    there = listed_index[known]
    sizes = listed.hws_px[there]
    problem = next(_problems(data, listed, known, there, sizes, rows), None)
    if problem is not None:
        count, picture, what = problem
        raise ManifestMismatchError(
            f"{where} has other annotations than this run: {count:,} of {len(data):,} pictures differ, first "
            f"{data.files[picture]}: {what}. Its labels are of those boxes: train on the annotations that it was made "
            "from, or make it anew with these (`richsem-prep shard --annotations`)"
        )


def _problems(
    data: DetectionData,
    listed: ListedBoxes,
    known: NDArray[np.int64],
    there: NDArray[np.int64],
    sizes: NDArray[np.int32],
    rows: NDArray[np.int64],
) -> Iterator[tuple[int, int, str]]:
    """How many pictures break a rule, the first of them, and what it is; rule by rule."""
    other_size = ((sizes != data.hws_px[known]) & (sizes > 0)).any(axis=1)
    if other_size.any():
        first = int(np.argmax(other_size))
        height, width = sizes[first]
        ours = " x ".join(map(str, data.hws_px[known[first]]))
        yield int(other_size.sum()), int(known[first]), f"size is {height} x {width} there, {ours} here"
    counts_here, counts_there = np.diff(data.offsets)[known], np.diff(listed.offsets)[there]
    other_count = counts_here != counts_there
    if other_count.any():
        first = int(np.argmax(other_count))
        what = f"{counts_there[first]} boxes there, {counts_here[first]} here"
        yield int(other_count.sum()), int(known[first]), what
        return
    boxes_here, owner = _part(data.offsets, known)
    boxes_there, _ = _part(listed.offsets, there)
    xywh = data.boxes_xywh_px[boxes_here]
    here = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:], _column(data.category_ids[boxes_here])], axis=1)
    their_rows = rows[np.clip(listed.rows[boxes_there], 0, len(rows) - 1)]
    them = np.concatenate([listed.boxes_xyxy[boxes_there], _column(their_rows)], axis=1)
    tolerance = np.where(sizes[:, :1] > 0, TOLERANCE_PX, TOLERANCE_FRACTION)
    differs = (np.abs(here - them) > tolerance[owner]).any(axis=1)
    for picture in np.unique(owner[differs]).tolist():
        part = slice(*np.searchsorted(owner, [picture, picture + 1]))
        difference = _box_difference(_sorted(here[part]), _sorted(them[part]), float(tolerance[picture, 0]))
        if difference is not None:
            yield len(np.unique(owner[differs])), int(known[picture]), difference


def _part(offsets: NDArray[np.int64], chosen: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The boxes of chosen pictures, one picture after the other, and for each the position of its picture."""
    counts = np.diff(offsets)[chosen]
    owner = np.repeat(np.arange(len(chosen)), counts)
    inside = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    return offsets[chosen][owner] + inside, owner


def _column(values: NDArray[np.integer]) -> NDArray[np.float64]:
    return values.astype(np.float64)[:, None]


def _sorted(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same boxes in an order that doesn't depend on the file's."""
    return boxes[np.lexsort(boxes.T)]


def _box_difference(here: NDArray[np.float64], there: NDArray[np.float64], tolerance: float) -> str | None:
    differs = np.abs(here - there) > tolerance
    if not differs.any():
        return None
    box = int(np.argmax(differs.any(axis=1)))
    shown = [f"{edges[:4].round(2).tolist()} of row {int(edges[4])}" for edges in (there[box], here[box])]
    return f"box {shown[0]} there, {shown[1]} here"
