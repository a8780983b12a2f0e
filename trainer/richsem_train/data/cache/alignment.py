"""Which picture of a detection cache is which picture of the annotations, and which of their boxes is which."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from richsem_schemas.annotations import DetectionData
from richsem_schemas.cache.listed_boxes import ListedBoxes, read_listed_boxes
from richsem_schemas.cache.quarantine import read_quarantine
from richsem_schemas.errors import CorruptCacheError, ManifestMismatchError, RichSemError
from richsem_schemas.io.places import Place
from richsem_schemas.pictures.boxes import xywh_to_xyxy
from richsem_train.choices import OnDamage
from richsem_train.data.cache.nearest import ABSENT
from richsem_train.data.cache.source import TrainingCache
from richsem_train.data.cache.views import ViewSource

TOLERANCE_PX = 0.01
"""How far the corners of a box may lie apart; both were rounded to float32."""

TOLERANCE_FRACTION = 1e-5
"""The same where boxes are fractions of the picture's sides."""

_CHUNK_PICTURES = 2**13
"""Pictures that are compared at a time, for the memory."""

_SHOWN = 3


@dataclass(frozen=True, eq=False)
class Originals:
    """Pictures that a cache refers to.

    Attributes:
        root: the folder.
        files: names below it as the plan lists them, of the pictures of the annotations that the cache didn't leave
            out, in their order.
    """

    root: Path
    files: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class WindowCache:
    """A cache that has the pictures and boxes of the annotations.

    Attributes:
        cache: an opened one.
        positions: int64 [N], where the plan has each picture of the annotations; `ABSENT` where it was left out.
        annotations: int32 [M], where each box of the annotations stands among those that the plan lists of its picture.
        listed_boxes: int32 [N], how many boxes the plan lists of each picture; more than annotated ones are no targets.
        originals: the pictures that will be read from a local folder; None where the cache has its pictures, or refers
            to a URL.
    """

    cache: TrainingCache
    positions: NDArray[np.int64]
    annotations: NDArray[np.int32]
    listed_boxes: NDArray[np.int32]
    originals: Originals | None = None


def align_windows(cache: TrainingCache, data: DetectionData, *, on_damage: OnDamage) -> WindowCache:
    """Join a cache with windows to the annotations that a run learns from.

    Their category ids are rows of the cache's text. Reads the cache's listing and, where pictures were left out, its
    quarantine; no shard. With "stop" a cache that left some of the pictures out is refused. Boxes may be missing in the
    annotations.

    Raises:
        ManifestMismatchError: pictures or boxes are missing in the cache, or have other categories there.
        RichSemError: it is no cache of detection data, or left pictures out.
    """
    source = cache.source
    listed = read_listed_boxes(source.layout, source.plan)
    listed_index = joined_by_name(data.files, listed.files)
    positions = np.where(listed_index == ABSENT, ABSENT, listed.positions[listed_index])
    _require_all(data, listed_index, positions, source)
    annotations = require_listed_boxes(data, listed, listed_index, cache.rows, where=str(source.layout.out))
    listed_boxes = np.where(listed_index == ABSENT, 0, np.diff(listed.offsets)[listed_index]).astype(np.int32)
    positions[np.isin(positions, _quarantined_positions(source))] = ABSENT
    if on_damage == "stop" and (left_out := np.flatnonzero(positions == ABSENT)).size:
        raise RichSemError(
            f"{source.layout.out} left out {len(left_out):,} of {len(data):,} pictures of the annotations, first "
            f"{data.files[left_out[0]]}; {source.layout.out / 'quarantine'} says why. Make them anew with "
            "`richsem-prep shard --retry-failed`, or go on without them by detection.on_damage=skip"
        )
    originals = None
    if isinstance(source.root, Path):
        files = listed.files.take(pa.array(listed_index[positions != ABSENT])).to_pylist()
        originals = Originals(source.root, tuple(map(os.fsdecode, files)))
    return WindowCache(cache, positions, annotations, listed_boxes, originals)


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


def _require_all(
    data: DetectionData, listed_index: NDArray[np.int64], positions: NDArray[np.int64], source: ViewSource
) -> None:
    """Check that the plan has each picture, or that the listing left it out.

    Raises:
        ManifestMismatchError: names the first that it hasn't.
    """
    is_listed = listed_index != ABSENT
    missing = positions == ABSENT
    unlisted = np.flatnonzero(~is_listed)
    missing[unlisted] = joined_by_name([data.files[index] for index in unlisted], _rejected_names(source)) == ABSENT
    if not missing.any():
        return
    names = [data.files[index] for index in np.flatnonzero(missing)[:_SHOWN].tolist()]
    limit = source.plan.limit
    raise ManifestMismatchError(
        f"{source.layout.out} lacks {int(missing.sum()):,} of {len(data):,} pictures of the annotations: "
        f"{', '.join(names)}{', ...' if int(missing.sum()) > _SHOWN else ''}"
        + (f" (it was made with --limit {limit})" if limit is not None else "")
        + "; choose the cache of this split (detection.cache), or make one with `richsem-prep shard --annotations`"
    )


def _rejected_names(source: ViewSource) -> pa.ChunkedArray:
    """Names that the listing left out."""
    if source.plan.listing_quarantine is None:
        return pa.chunked_array([], pa.binary())
    names = [str(record.get("name", "")) for record in _left_out(source.layout.listing_quarantine)]
    return pa.chunked_array([pa.array([name.encode("utf-8", "replace") for name in names], pa.binary())])


def _quarantined_positions(source: ViewSource) -> NDArray[np.int64]:
    """Positions in the plan of the samples that couldn't be decoded."""
    plan, positions = source.plan, []
    planned = np.array([plan.shard_samples(shard) for shard in range(plan.shards)])
    for shard in np.flatnonzero(source.picture_summaries["samples"] < planned).tolist():
        for record in _left_out(source.layout.quarantine(shard)):
            sample = record.get("sample")
            if type(sample) is int and 0 <= sample < planned[shard]:
                positions.append(shard * plan.samples_per_shard + sample)
    return np.array(positions, np.int64)


def _left_out(path: Place) -> Iterator[dict[str, Any]]:
    try:
        yield from read_quarantine(path)
    except FileNotFoundError:
        raise CorruptCacheError(f"{path} is missing, and pictures were left out; restore it") from None


def require_listed_boxes(
    data: DetectionData, listed: ListedBoxes, listed_index: NDArray[np.int64], rows: NDArray[np.int64], *, where: str
) -> NDArray[np.int32]:
    """Check that a cache lists the boxes of the annotations, picture by picture, and find which is which.

    It may list more: partial annotations lack some, and whatever is there of them is the same.

    Args:
        data: N pictures with M boxes; its category ids are rows of the run's vocabulary.
        listed: the cache's.
        listed_index: int64 [N], the listed picture of each; `ABSENT` ones are passed over.
        rows: int64 [R], the run's row of each row of the cache's vocabulary.
        where: the cache, for messages.

    Returns:
        int32 [M], where each box stands among the listed ones of its picture.

    Raises:
        ManifestMismatchError: names the first picture that has another size or a box that isn't listed, and which.
    """
    counts = np.diff(data.offsets)
    annotations = np.arange(len(data.category_ids), dtype=np.int32)
    annotations -= np.repeat(data.offsets[:-1].astype(np.int32), counts)
    comparison = _Comparison(data, listed, listed_index, rows)
    first, differing = "", 0
    for picture in comparison.suspects():
        matched = comparison.matched(picture)
        if isinstance(matched, str):
            first = first or f"{data.files[picture]}: {matched}"
            differing += 1
        else:
            annotations[data.offsets[picture] : data.offsets[picture + 1]] = matched
    if differing:
        raise ManifestMismatchError(
            f"{where} has other annotations than this run: {differing:,} of {len(data):,} pictures differ, first "
            f"{first}. Its labels are of those boxes: train on the annotations that it was made from, or make it anew "
            "with these (`richsem-prep shard --annotations`)"
        )
    return annotations


@dataclass(frozen=True, eq=False)
class _Comparison:
    """Pictures of annotations beside those that a cache lists, as `require_listed_boxes` takes them."""

    data: DetectionData
    listed: ListedBoxes
    listed_index: NDArray[np.int64]
    rows: NDArray[np.int64]

    def suspects(self) -> Iterator[int]:
        """Pictures whose boxes differ, or stand in another order."""
        known = np.flatnonzero(self.listed_index != ABSENT)
        for start in range(0, len(known), _CHUNK_PICTURES):
            chunk = known[start : start + _CHUNK_PICTURES]
            yield from chunk[self._seem_to_differ(chunk)].tolist()

    def _seem_to_differ(self, here_P: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of many pictures have other sizes, numbers of boxes, or boxes when compared in order, bool [P]."""
        data, listed, there_P = self.data, self.listed, self.listed_index[here_P]
        sizes = listed.hws_px[there_P]
        differ = ((sizes != data.hws_px[here_P]) & (sizes > 0)).any(axis=1)
        other_count = np.diff(data.offsets)[here_P] != np.diff(listed.offsets)[there_P]
        same = np.flatnonzero(~other_count)
        boxes_here, owner = _boxes_of(data.offsets, here_P[same])
        boxes_there, _ = _boxes_of(listed.offsets, there_P[same])
        moved = np.abs(xywh_to_xyxy(data.boxes_xywh_px[boxes_here]) - listed.boxes_xyxy[boxes_there])
        tolerance = np.where(sizes[same, :1] > 0, TOLERANCE_PX, TOLERANCE_FRACTION)
        other_box = (moved > tolerance[owner]).any(axis=1)
        other_box |= data.category_ids[boxes_here] != self._own_rows(listed.rows[boxes_there])
        differ[same[owner[other_box]]] = True
        return differ | other_count

    def matched(self, picture: int) -> NDArray[np.int64] | str:
        """Where each box of a picture stands among the listed ones, in whatever order; or which is not there."""
        data, listed, there = self.data, self.listed, int(self.listed_index[picture])
        hw_here, hw_there = tuple(data.hws_px[picture].tolist()), tuple(listed.hws_px[there].tolist())
        if hw_there[0] and hw_here != hw_there:
            return f"size is {hw_there[0]} x {hw_there[1]} there, {hw_here[0]} x {hw_here[1]} here"
        part = slice(listed.offsets[there], listed.offsets[there + 1])
        ours = _with_rows(data.boxes_xyxy(picture), data.objects(picture)[1])
        theirs = _with_rows(listed.boxes_xyxy[part], self._own_rows(listed.rows[part]))
        if len(ours) > len(theirs):
            return f"{len(theirs)} boxes there, {len(ours)} here"
        apart = np.abs(ours[:, None, :4] - theirs[None, :, :4]).max(axis=2, initial=0)
        is_other = (apart > (TOLERANCE_PX if hw_there[0] else TOLERANCE_FRACTION)) | (ours[:, None, 4] != theirs[:, 4])
        # As many as can be are matched, each with one of its own.
        _, found = linear_sum_assignment(is_other)
        differs = is_other[np.arange(len(ours)), found]
        if differs.any():
            first, left = int(np.argmax(differs)), np.setdiff1d(np.arange(len(theirs)), found[~differs])
            pair = theirs[left[apart[first, left].argmin()]], ours[first]
            shown = [f"{box[:4].round(2).tolist()} of row {int(box[4])}" for box in pair]
            return f"box {shown[0]} there, {shown[1]} here"
        return found

    def _own_rows(self, rows_there: NDArray[np.int32]) -> NDArray[np.int64]:
        """The run's rows of the cache's; what is no row of its vocabulary is no row here."""
        known = (rows_there >= 0) & (rows_there < len(self.rows))
        return np.where(known, self.rows[np.where(known, rows_there, 0)], ABSENT)


def _boxes_of(offsets: NDArray[np.int64], chosen: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The boxes of chosen pictures, one picture after the other, and for each the position of its picture."""
    counts = np.diff(offsets)[chosen]
    owner = np.repeat(np.arange(len(chosen)), counts)
    inside = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    return offsets[chosen][owner] + inside, owner


def _with_rows(boxes_xyxy: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """[G, 5], corners and row."""
    return np.concatenate([boxes_xyxy.astype(np.float64), rows[:, None].astype(np.float64)], axis=1)
