"""The plan: the source's listing, frozen on disk, and the seeded order in which shards are cut from it."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
import pyarrow as pa

from richsem_prep.sources.entry import PictureBoxes, Rejected, SourceEntry
from richsem_schemas.cache.layout import BLOCK_SAMPLES, CacheLayout
from richsem_schemas.cache.listed_boxes import BOX_COLUMNS, require_planned_listing
from richsem_schemas.cache.manifest import Plan
from richsem_schemas.cache.permutation import permuted
from richsem_schemas.errors import SourceError
from richsem_schemas.io.files import FileHash, HashedFile, hash_file, hashed_file
from richsem_schemas.io.places import RemotePath
from richsem_schemas.io.words import printable

LISTING_BATCH = 1_024
"""Rows of the listing that are written and read at a time: a shard's rows lie anywhere, so batches are small."""

_COLUMNS = pa.schema(
    [
        ("file", pa.binary()),
        ("member", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("category_id", pa.int32()),
    ]
)

_CAPTION_COLUMNS = pa.schema([("caption", pa.string())])
"""Only where the source has captions."""


LEAST_SHARDS = 16
"""A shard is made by one worker, so fewer would leave most of a machine idle."""

_MOST_SAMPLES = 1_024


def default_samples_per_shard(samples: int) -> int:
    """The largest of 64, 128, … 1,024 that makes at least `LEAST_SHARDS` shards of so many pictures; else 64.

    By the number of pictures and not that of workers, so that every machine cuts a dataset the same way.
    """
    size = _MOST_SAMPLES
    while size > BLOCK_SAMPLES and -(-samples // size) < LEAST_SHARDS:
        size //= 2
    return size


@dataclass(frozen=True)
class Listing:
    """Counts of a listing, pictures and things rejected, and its files."""

    listed: int
    rejected: int
    file: FileHash
    quarantine: FileHash | None


def freeze_listing(
    layout: CacheLayout,
    found: Iterable[SourceEntry | Rejected],
    *,
    on_progress: Callable[[int], None],
    has_boxes: bool = False,
    has_captions: bool = False,
) -> Listing:
    """Write down what a source lists, in its order, in constant memory.

    `on_progress` is told how many pictures have been listed.

    Raises:
        SourceError: nothing was listed.
    """
    columns = pa.schema([*_COLUMNS, *(BOX_COLUMNS if has_boxes else ()), *(_CAPTION_COLUMNS if has_captions else ())])
    listed = 0
    with hashed_file(layout.listing) as listing, hashed_file(layout.listing_quarantine) as quarantine:
        with pa.ipc.new_file(pa.PythonFile(listing, "w"), columns) as writer:
            entries = _without_rejected(found, quarantine)
            while batch := list(islice(entries, LISTING_BATCH)):
                writer.write_batch(_batch(batch, columns))
                listed += len(batch)
                on_progress(listed)
        if not listed:
            raise SourceError("the source lists no pictures at all")
        rejected = quarantine.lines
        if not rejected:
            quarantine.discard()
            layout.listing_quarantine.unlink(missing_ok=True)
    return Listing(listed, rejected, listing.hash(), quarantine.hash() if rejected else None)


def _without_rejected(found: Iterable[SourceEntry | Rejected], quarantine: HashedFile) -> Iterator[SourceEntry]:
    for item in found:
        if isinstance(item, Rejected):
            quarantine.write_line({"name": item.name, "reason": item.reason})
        else:
            yield item


def _batch(entries: list[SourceEntry], columns: pa.Schema) -> pa.RecordBatch:
    rows = [_row(entry) for entry in entries]
    arrays = [pa.array([row[column.name] for row in rows], column.type) for column in columns]
    return pa.record_batch(arrays, schema=columns)


def _row(entry: SourceEntry) -> dict[str, Any]:
    row = {
        "file": entry.file,
        "member": entry.name[len(printable(entry.file)) + 1 :],
        "offset": entry.offset,
        "size": entry.size,
        "category_id": entry.category_id,
        "caption": entry.caption,
    }
    boxes = entry.boxes
    if boxes is None:
        return row | dict.fromkeys(BOX_COLUMNS.names)
    height, width = boxes.hw or (None, None)
    return row | {
        "boxes_xyxy": boxes.boxes_xyxy.reshape(-1),
        "rows": boxes.rows,
        "boxes_height": height,
        "boxes_width": width,
    }


def planned_entries(
    layout: CacheLayout, plan: Plan, shard: int, samples: Sequence[int] | None = None
) -> list[SourceEntry]:
    """The pictures of one shard, or some of its samples, in their order.

    Memory and time are those of the shard, or of the samples, and not of the listing.

    Raises:
        IndexError: the shard has no such sample.
    """
    wanted = np.arange(plan.shard_samples(shard))
    if samples is not None:
        wanted = wanted[list(samples)]
    rows = permuted(shard * plan.samples_per_shard + wanted, size=plan.listed, seed=plan.seed)
    entries: dict[int, SourceEntry] = {}
    with _open_listing(layout, plan) as reader:
        for number in np.unique(rows // LISTING_BATCH).tolist():
            inside = rows[rows // LISTING_BATCH == number]
            taken = reader.get_batch(number).take(pa.array(inside - number * LISTING_BATCH)).to_pylist()
            entries.update(zip(inside.tolist(), map(_entry, taken), strict=True))
    return [entries[row] for row in rows.tolist()]


def _entry(row: dict) -> SourceEntry:
    file, member = row["file"], row["member"]
    name = f"{printable(file)}/{member}" if member else printable(file)
    return SourceEntry(name, file, row["offset"], row["size"], row["category_id"], _boxes(row), row.get("caption"))


def _boxes(row: dict) -> PictureBoxes | None:
    if row.get("rows") is None:
        return None
    hw = None if row["boxes_height"] is None else (row["boxes_height"], row["boxes_width"])
    boxes_xyxy = np.array(row["boxes_xyxy"], np.float32).reshape(-1, 4)
    return PictureBoxes(boxes_xyxy, np.array(row["rows"], np.int32), hw)


@contextmanager
def _open_listing(layout: CacheLayout, plan: Plan) -> Iterator[pa.ipc.RecordBatchFileReader]:
    # Read rather than mapped: pages touched at random would pile up to hundreds of MiB for a long listing.
    if isinstance(layout.listing, RemotePath):
        yield pa.ipc.open_file(pa.PythonFile(_fetched_listing(layout.listing, plan.listing), "r"))
        return
    _check_once(layout.listing, plan.listing)
    with pa.OSFile(str(layout.listing)) as source:
        yield pa.ipc.open_file(source)


@functools.lru_cache(maxsize=4)
def _check_once(path: Path, expected: FileHash) -> None:
    """Check the listing once a process: Arrow trusts what it reads, so damage would read as anything at all."""
    try:
        found = hash_file(path)
    except FileNotFoundError:
        found = None
    require_planned_listing(path, found, expected)


@functools.lru_cache(maxsize=4)
def _fetched_listing(path: RemotePath, expected: FileHash) -> IO[bytes]:
    """Fetch the listing once a process, since a shard's rows lie all over it; the copy goes with the process."""
    copy = TemporaryFile()  # noqa: SIM115 - open as long as the process asks for shards
    hashed = HashedFile(copy)
    path.copy_to(hashed.write)
    require_planned_listing(path, hashed.hash(), expected)
    return copy
