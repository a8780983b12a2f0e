"""The plan: the source's listing, frozen on disk, and the seeded order in which shards are cut from it."""

import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from richsem_prep.sources import Rejected, SourceEntry
from richsem_schemas.errors import CorruptCacheError, SourceError
from richsem_schemas.layout import CacheLayout
from richsem_schemas.manifest import FileHash, Plan
from richsem_schemas.originals import printable
from richsem_schemas.permutation import permuted
from richsem_schemas.sealed_json import canonical_json, commit, temporary_path

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


@dataclass(frozen=True)
class Listing:
    """What was listed: pictures, things rejected, and the files that say so."""

    listed: int
    rejected: int
    file: FileHash
    quarantine: FileHash | None


def freeze_listing(
    layout: CacheLayout, found: Iterable[SourceEntry | Rejected], *, on_progress: Callable[[int], None]
) -> Listing:
    """Write down what a source lists, in its order, in constant memory.

    Raises:
        SourceError: nothing was listed.
    """
    listed = 0
    with hashed_file(layout.listing) as listing, hashed_file(layout.listing_quarantine) as quarantine:
        with pa.ipc.new_file(pa.PythonFile(listing, "w"), _COLUMNS) as writer:
            entries = _without_rejected(found, quarantine)
            while batch := list(islice(entries, LISTING_BATCH)):
                writer.write_batch(_batch(batch))
                listed += len(batch)
                on_progress(listed)
        if not listed:
            raise SourceError("the source lists no pictures at all")
        rejected = quarantine.lines
        if not rejected:
            quarantine.discard()
            layout.listing_quarantine.unlink(missing_ok=True)
    return Listing(listed, rejected, listing.hash(), quarantine.hash() if rejected else None)


def _without_rejected(found: Iterable[SourceEntry | Rejected], quarantine: "HashedFile") -> Iterator[SourceEntry]:
    for item in found:
        if isinstance(item, Rejected):
            quarantine.write_line({"name": item.name, "reason": item.reason})
        else:
            yield item


def _batch(entries: list[SourceEntry]) -> pa.RecordBatch:
    return pa.record_batch(
        [
            pa.array([entry.file for entry in entries], pa.binary()),
            pa.array([entry.name[len(printable(entry.file)) + 1 :] for entry in entries], pa.string()),
            pa.array([entry.offset for entry in entries], pa.int64()),
            pa.array([entry.size for entry in entries], pa.int64()),
            pa.array([entry.category_id for entry in entries], pa.int32()),
        ],
        schema=_COLUMNS,
    )


def planned_entries(layout: CacheLayout, plan: Plan, shard: int) -> list[SourceEntry]:
    """The pictures of one shard, in their order; memory and time are those of the shard, not of the listing."""
    first = shard * plan.samples_per_shard
    positions = np.arange(first, first + plan.shard_samples(shard))
    rows = permuted(positions, size=plan.listed, seed=plan.seed)
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
    return SourceEntry(name, file, row["offset"], row["size"], row["category_id"])


@contextmanager
def _open_listing(layout: CacheLayout, plan: Plan) -> Iterator[pa.ipc.RecordBatchFileReader]:
    _require_intact(layout.listing, plan.listing)
    # Read rather than mapped: pages touched at random would pile up to hundreds of MiB for a long listing.
    with pa.OSFile(str(layout.listing)) as source:
        yield pa.ipc.open_file(source)


@functools.lru_cache(maxsize=4)
def _require_intact(path: Path, expected: FileHash) -> None:
    """Check the listing once a process: Arrow trusts what it maps, so damage would read as anything at all."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        digest = "missing"
    if digest != expected.sha256:
        raise CorruptCacheError(
            f"{path}: not the listing that the plan was made from; restore it, or begin anew with --overwrite"
        )


class HashedFile:
    """A file being written under a temporary name, its hash kept along."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._bytes = 0
        self.lines = 0
        self.discarded = False

    def write(self, data: bytes) -> int:
        """Append bytes, unless the file is discarded."""
        if self.discarded:
            return len(data)
        view = memoryview(data)
        self._digest.update(view)
        self._bytes += view.nbytes
        self._file.write(view)
        return view.nbytes

    def write_line(self, value: dict) -> None:
        """Append one line of JSON."""
        self.write(canonical_json(value) + b"\n")
        self.lines += 1

    def tell(self) -> int:
        """Bytes written so far."""
        return self._bytes

    def flush(self) -> None:
        """Hand what is buffered to the system."""
        self._file.flush()

    def discard(self) -> None:
        """Leave no file behind."""
        self.discarded = True

    def hash(self) -> FileHash:
        """Size and SHA-256 of what was written."""
        return FileHash(bytes=self._bytes, sha256=self._digest.hexdigest())


@contextmanager
def hashed_file(path: Path) -> Iterator[HashedFile]:
    """Write a file that becomes visible, fsynced, when the block ends well, and leaves nothing when it doesn't."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        with temporary.open("wb") as file:
            hashed = HashedFile(file)
            yield hashed
            file.flush()
            os.fsync(file.fileno())
        if not hashed.discarded:
            commit(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
