"""Detection pictures as the teacher saw them: stored windows of a cache in the place of augmentation.

The n-th time that a picture is shown, it is its window n mod K. Which picture of the cache is which of the annotations
is found once, by name, and which box is which; then any picture is read on its own, whatever the order asks for: its
views by one ranged read, its sidecar and its bytes by another.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch.utils.data import Dataset

from richsem_schemas.annotations import DetectionData
from richsem_schemas.cache.index import PictureRow, ViewRow
from richsem_schemas.cache.layout import sample_key
from richsem_schemas.cache.listed_boxes import read_listed_boxes
from richsem_schemas.cache.quarantine import read_quarantine
from richsem_schemas.cache.reader import read_pictures_span, read_views, read_views_span
from richsem_schemas.errors import CorruptCacheError, ManifestMismatchError, RichSemError
from richsem_schemas.io.places import Place
from richsem_train.data.cache.alignment import joined_by_name, require_same_boxes
from richsem_train.data.cache.nearest import ABSENT
from richsem_train.data.cache.source import TrainingCache
from richsem_train.data.cache.views import (
    DamagedViewError,
    ReadView,
    Recent,
    ViewSource,
    check_views,
    damaged_view,
    decode_pictures,
    read_indexes,
    view_name,
)
from richsem_train.data.collate import Sample
from richsem_train.data.damage import OnDamage, whole_picture
from richsem_train.data.showings import Showings
from richsem_train.data.soft_labels import view_target
from richsem_train.data.transforms import rendered

INDEX_BYTES = 128 * 2**20
"""Most bytes of indexes that a worker keeps: 700 shards of 1,024 pictures with four windows each."""

_SHOWN = 3

_BETWEEN_BYTES = 2048
"""A tar's header and padding, and room."""

_PICTURE = np.dtype(
    [
        ("offset", "<i8"), ("size", "<i8"), ("json_offset", "<i8"), ("json_size", "<i4"),
        ("height", "<i4"), ("width", "<i4"), ("category_id", "<i4"),
    ]
)  # fmt: skip
_WINDOW = np.dtype([("offset", "<i8"), ("size", "<i8"), ("regions", "<i4"), ("tiles", "<i4")])


@dataclass(frozen=True, eq=False)
class WindowCache:
    """A cache whose pictures and boxes are those of the annotations.

    Attributes:
        cache: an opened one.
        positions: int64 [N], where the plan has each picture of the annotations; `ABSENT` where it was left out.
        annotations: int32 [M], where each box of the annotations stands among those that the plan lists of its picture.
        originals: what will be read from a local folder; None where the cache has its pictures, or refers to a URL.
    """

    cache: TrainingCache
    positions: NDArray[np.int64]
    annotations: NDArray[np.int32]
    originals: "Originals | None" = None


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


def align_windows(cache: TrainingCache, data: DetectionData, *, on_damage: OnDamage) -> WindowCache:
    """Join a cache to the annotations that a run learns from.

    Reads the cache's listing and, where pictures were left out, its quarantine; no shard.

    Args:
        cache: with windows.
        data: the annotations; category ids are rows of the cache's text.
        on_damage: "stop" refuses a cache that left some of the pictures out.

    Raises:
        ManifestMismatchError: pictures are missing in the cache, or have other boxes or categories there.
        RichSemError: it is no cache of detection data, or left pictures out.
    """
    source = cache.source
    where = str(source.layout.out)
    listed = read_listed_boxes(source.layout, source.plan)
    listed_index = joined_by_name(data.files, listed.files)
    rejected = _rejected_names(source)
    missing = listed_index == ABSENT
    missing[missing] = joined_by_name([data.files[i] for i in np.flatnonzero(missing)], rejected) == ABSENT
    positions = np.where(listed_index == ABSENT, ABSENT, listed.positions[listed_index])
    missing |= (listed_index != ABSENT) & (positions == ABSENT)
    if missing.any():
        raise ManifestMismatchError(_missing_message(data, missing, source))
    annotations = require_same_boxes(data, listed, listed_index, cache.rows, where=where)
    positions[np.isin(positions, _quarantined_positions(source))] = ABSENT
    if on_damage == "stop" and (left_out := np.flatnonzero(positions == ABSENT)).size:
        raise RichSemError(
            f"{where} left out {len(left_out):,} of {len(data):,} pictures of the annotations, first "
            f"{data.files[left_out[0]]}; {source.layout.out / 'quarantine'} says why. Make them anew with "
            "`richsem-prep shard --retry-failed`, or go on without them by detection.on_damage=skip"
        )
    originals = None
    if isinstance(source.root, Path):
        files = listed.files.take(pa.array(listed_index[positions != ABSENT])).to_pylist()
        originals = Originals(source.root, tuple(map(os.fsdecode, files)))
    return WindowCache(cache, positions, annotations, originals)


def _missing_message(data: DetectionData, missing: NDArray[np.bool_], source: ViewSource) -> str:
    names = [data.files[index] for index in np.flatnonzero(missing)[:_SHOWN].tolist()]
    limit = source.plan.limit
    return (
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
    for shard in np.flatnonzero(source.files.samples < planned).tolist():
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


@dataclass(frozen=True, eq=False)
class _ShardIndex:
    """Where the pictures of a shard and their windows lie, in arrays: a row a planned sample, size 0 where left out."""

    pictures: NDArray[np.void]
    windows: NDArray[np.void]

    @property
    def bytes(self) -> int:
        return self.pictures.nbytes + self.windows.nbytes


class WindowReader:
    """Reads windows of one picture; keeps the indexes of the shards that were used last.

    Opens nothing before the first one is asked for, so it may be handed to worker processes. Unlike blocks of extra
    data, which are read once each, windows are read at random, so the label shards are not hashed as a whole: what is
    read is checked view by view.

    Args:
        source: which windows.
        index_bytes: most bytes of indexes that are kept.
    """

    def __init__(self, source: ViewSource, *, index_bytes: int = INDEX_BYTES) -> None:
        self.source = source
        self._indexes: Recent[_ShardIndex] = Recent(index_bytes, lambda index: index.bytes)

    def read(self, position: int, passes: Sequence[int]) -> list[ReadView]:
        """Read some of a picture's windows, and decode it once.

        Args:
            position: in the plan, counted over all shards.
            passes: which of its windows, at least one.

        Raises:
            DamagedViewError: one can't be read, or is not what was written.
        """
        shard, sample = divmod(position, self.source.plan.samples_per_shard)
        try:
            return self._read(shard, sample, passes)
        except (RichSemError, OSError) as error:
            raise self.damaged(position, error) from error

    def damaged(self, position: int, error: Exception) -> DamagedViewError:
        """The error that names what is wrong with a picture's shard."""
        return damaged_view(self.source, position // self.source.plan.samples_per_shard, error)

    def _read(self, shard: int, sample: int, passes: Sequence[int]) -> list[ReadView]:
        source = self.source
        index = self._indexes.get(shard, lambda: self._read_index(shard))
        picture = _picture_row(index, shard, sample)
        views = [_view_row(index, shard, sample, pass_index) for pass_index in passes]
        labels_span = read_views_span(source.labels_layout, source.labels, shard, views) if _are_near(views) else None
        labelled = list(read_views(source.labels_layout, source.labels, shard, views, span=labels_span))
        check_views(source, views, labelled, [picture])
        span = read_pictures_span(source.layout, shard, [picture]) if picture.offset >= 0 else None
        pictures = decode_pictures(source, shard, [picture], span)
        return [ReadView(view_name(row), view, pictures) for row, view in zip(views, labelled, strict=True)]

    def _read_index(self, shard: int) -> _ShardIndex:
        source = self.source
        pictures, passes = read_indexes(source, shard)
        samples = source.plan.shard_samples(shard)
        if any(not 0 <= row.sample < samples for row in pictures):
            raise CorruptCacheError(f"its index has samples outside of 0..{samples - 1}")
        index = _ShardIndex(np.zeros(samples, _PICTURE), np.zeros((samples, source.passes), _WINDOW))
        for row in pictures:
            index.pictures[row.sample] = (
                row.offset, row.size, row.json_offset, row.json_size, row.height, row.width, row.category_id
            )  # fmt: skip
        for pass_index, rows in enumerate(passes):
            for view in rows:
                index.windows[view.sample, pass_index] = (view.offset, view.size, view.regions, view.tiles)
        return index


def _are_near(views: Sequence[ViewRow]) -> bool:
    """Whether little lies between some views but a tar's own blocks; their jitters are much."""
    first, last = min(view.offset for view in views), max(view.offset + view.size for view in views)
    return last - first <= sum(2 * view.size + _BETWEEN_BYTES for view in views)


def _picture_row(index: _ShardIndex, shard: int, sample: int) -> PictureRow:
    row = index.pictures[sample]
    key = sample_key(shard, sample)
    if not row["json_size"]:
        raise CorruptCacheError(f"it has no {key}")
    return PictureRow(
        key=key,
        sample=sample,
        category_id=int(row["category_id"]),
        name=key,
        extension="",
        height=int(row["height"]),
        width=int(row["width"]),
        offset=int(row["offset"]),
        size=int(row["size"]),
        json_offset=int(row["json_offset"]),
        json_size=int(row["json_size"]),
    )


def _view_row(index: _ShardIndex, shard: int, sample: int, pass_index: int) -> ViewRow:
    row = index.windows[sample, pass_index]
    key = sample_key(shard, sample)
    if not row["size"]:
        raise CorruptCacheError(f"it has no window {pass_index} of {key}")
    return ViewRow(
        key=key,
        sample=sample,
        kind="window",
        pass_index=pass_index,
        tiles=int(row["tiles"]),
        regions=int(row["regions"]),
        offset=int(row["offset"]),
        size=int(row["size"]),
    )


class WindowDataset(Dataset[Sample]):
    """Training pictures with soft labels, by (epoch, position in the epoch, picture), as `DetectionDataset` has them.

    What a sample shows is a function of the epoch, the position and the picture, whoever asks for it and whenever.

    Args:
        data: the annotations.
        windows: the cache that was aligned with them.
        showings: counts how often a picture was shown before.
        on_damage: what to do about pictures that were left out of the cache, or can't be read.
        index_bytes: most bytes of indexes that a worker keeps.
    """

    def __init__(
        self,
        data: DetectionData,
        windows: WindowCache,
        showings: Showings,
        *,
        on_damage: OnDamage = "stop",
        index_bytes: int = INDEX_BYTES,
    ) -> None:
        self.data = data
        self.windows = windows
        self.showings = showings
        self.on_damage = on_damage
        self.reader = WindowReader(windows.cache.source, index_bytes=index_bytes)

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self.data)

    def __getitem__(self, key: tuple[int, int, int]) -> Sample:
        """Render the window of one picture.

        Raises:
            DamagedViewError: it can't be read, and nor can those that may take its place.
        """
        epoch, position, picture = key
        pass_index = self.showings.before(epoch, position, picture) % self.reader.source.passes
        index, read, damage = whole_picture(
            picture, partial(self._read, pass_index), len(self.data), on_damage=self.on_damage
        )
        labelled, (original,) = read.labelled, read.pictures.values()
        cache = self.windows.cache
        target = view_target(
            labelled,
            cache.expected.labels,
            cache.expected.supervision,
            rows=cache.rows,
            image_id=int(self.data.image_ids[index]),
        )
        return Sample(
            rendered(labelled.view, read.pictures),
            replace(target, original_hw=(original.height, original.width)),
            self.data.files[index],
            damage,
        )

    def _read(self, pass_index: int, index: int) -> ReadView:
        return self.reader.read(position_of(self.data, self.windows, index), [pass_index])[0]


def position_of(data: DetectionData, windows: WindowCache, index: int) -> int:
    """Where the plan has a picture of the annotations.

    Raises:
        DamagedViewError: it was left out.
    """
    position = int(windows.positions[index])
    if position == ABSENT:
        raise DamagedViewError(f"{data.files[index]} was left out of {windows.cache.source.layout.out}")
    return position
