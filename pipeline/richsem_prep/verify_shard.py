"""One shard against its receipt, its index and itself: files, tars, sidecars, views."""

import hashlib
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import numpy as np
import pyarrow.parquet as pq

from richsem_schemas.codec import LabelledView, unpack_view
from richsem_schemas.errors import CorruptCacheError
from richsem_schemas.index import PictureRow, ViewRow, read_picture_index, read_view_index
from richsem_schemas.layout import CacheLayout, LabelSetLayout, sample_key
from richsem_schemas.manifest import (
    FileHash,
    LabelManifest,
    LabelSpec,
    LabelsReceipt,
    PicturesReceipt,
    Plan,
    ShardSummary,
)
from richsem_schemas.originals import WHOLE_FILE, Original, open_regular
from richsem_schemas.picture import MAX_PICTURE_BYTES
from richsem_schemas.sealed_json import MAX_JSON_BYTES
from richsem_schemas.text_bank import TextBank
from richsem_schemas.view import VIEW_KINDS
from richsem_schemas.view_checks import ShardPictures, view_problems

MAX_PROBLEMS_A_FILE = 20
"""More than that of one file tell nothing new."""

EXTENSIONS = frozenset({"jpg", "png", "webp", "bmp", "gif", "tif", "ppm"})
"""What pictures in a cache are called; `picture_extension` gives no other."""

_BLOCK = 512
_CHUNK = 2**20
_REGIONS_AT_ONCE = 1024
_MAX_INDEX_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Problem:
    """Something wrong with a cache.

    Attributes:
        path: the file, relative to OUT.
        message: what is wrong with it.
        remedy: what to do.
    """

    path: str
    message: str
    remedy: str


class BytesDone:
    """Counts the bytes that have been read, over all threads."""

    def __init__(self, on_bytes: Callable[[int], None]) -> None:
        self._on_bytes = on_bytes
        self._lock = Lock()
        self.total = 0

    def add(self, count: int) -> None:
        """Count, and report the total."""
        with self._lock:
            self.total += count
            self._on_bytes(self.total)


@dataclass(frozen=True, eq=False)
class CacheUnderTest:
    """What the checks of all shards share.

    Attributes:
        layout: the cache, its folder resolved.
        plan: of the cache.
        sizes: bytes of each regular file by its path relative to OUT; nothing else is ever opened.
        done: bytes read so far.
    """

    layout: CacheLayout
    plan: Plan
    sizes: dict[str, int]
    done: BytesDone

    def relative(self, path: Path) -> str:
        """A file's name in problems."""
        return path.relative_to(self.layout.out).as_posix()

    def has(self, path: Path) -> bool:
        """Whether a regular file is there."""
        return self.relative(path) in self.sizes

    def file_problem(self, path: Path, expected: FileHash, *, said_by: str) -> str | None:
        """Compare a file with its size and SHA-256; None where they agree."""
        if problem := self.size_problem(path, expected, said_by=said_by):
            return problem
        with self.open(path) as reader:
            reader.drain()
        return reader.problem(expected, said_by=said_by)

    @contextmanager
    def open(self, path: Path) -> "Iterator[HashingReader]":
        """Open a file to be read once, from start to end."""
        with (
            open_regular(os.fsencode(path)) as descriptor,
            os.fdopen(descriptor, "rb", buffering=_CHUNK, closefd=False) as file,
        ):
            yield HashingReader(file, self.done)

    def size_problem(self, path: Path, expected: FileHash, *, said_by: str) -> str | None:
        """Compare a file with its size alone."""
        size = self.sizes.get(self.relative(path))
        if size is None:
            return "it is missing"
        if size != expected.bytes:
            verdict = "cut short" if size < expected.bytes else "too long"
            return f"{verdict}: it has {size:,} bytes, {said_by} says {expected.bytes:,}"
        return None


class HashingReader:
    """Reads a file from start to end and keeps the hash of what went by."""

    def __init__(self, file: BinaryIO, done: BytesDone) -> None:
        self._file = file
        self._done = done
        self._digest = hashlib.sha256()
        self._uncounted = 0
        self.position = 0

    def read(self, size: int) -> bytes:
        """The next bytes; fewer only where the file ends."""
        data = self._file.read(size)
        self._digest.update(data)
        self.position += len(data)
        self._uncounted += len(data)
        if self._uncounted >= _CHUNK or len(data) < size:
            self._done.add(self._uncounted)
            self._uncounted = 0
        return data

    def drain(self) -> None:
        """Read to the end."""
        while self.read(_CHUNK):
            pass

    def problem(self, expected: FileHash, *, said_by: str) -> str | None:
        """Compare with size and SHA-256, once all is read; None where they agree."""
        if (self.position, self._digest.hexdigest()) == (expected.bytes, expected.sha256):
            return None
        return (
            f"bytes have changed: its SHA-256 is {self._digest.hexdigest()[:12]}…, "
            f"{said_by} says {expected.sha256[:12]}…"
        )


@dataclass(frozen=True, slots=True)
class TarMember:
    """A member as it stands in a tar; `offset` counts to its data."""

    name: str
    offset: int
    data: bytes


def tar_members(reader: HashingReader, *, file_bytes: int) -> Iterator[TarMember]:
    """Walk a shard as we write them: plain files one after the other, then zeros to the end.

    Raises:
        CorruptCacheError: it is another kind of tar, or breaks off.
    """
    while True:
        header = reader.read(_BLOCK)
        if len(header) == _BLOCK and not any(header):
            break
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except (tarfile.TarError, ValueError) as error:
            raise CorruptCacheError(f"no tar header at byte {reader.position - len(header):,} ({error})") from None
        offset = reader.position
        if info.type != tarfile.REGTYPE:
            raise CorruptCacheError(f"{_shown(info.name)} is no plain file")
        if not 0 <= info.size <= min(MAX_PICTURE_BYTES, file_bytes - offset):
            raise CorruptCacheError(f"{_shown(info.name)} claims {info.size:,} bytes, more than there are")
        data = reader.read(info.size)
        reader.read(-info.size % _BLOCK)
        yield TarMember(info.name, offset, data)
    while rest := reader.read(_CHUNK):
        if rest.count(0) != len(rest):
            raise CorruptCacheError("something stands behind the end of the archive")


def check_pictures(
    cache: CacheUnderTest, shard: int, recorded: ShardSummary | None
) -> tuple[list[Problem], list[PictureRow] | None]:
    """Check a shard of pictures.

    Args:
        cache: the cache.
        shard: number of the shard.
        recorded: what the manifest says of it; None where there is no manifest.

    Returns:
        What is wrong, and the rows of its index, None where they can't be trusted.
    """
    layout = cache.layout
    tar, index, quarantine = layout.pictures_tar(shard), layout.pictures_index(shard), layout.quarantine(shard)
    receipt_path = layout.pictures_receipt(shard)
    report = _Report(cache, remedy=f"delete {receipt_path} and run the same `richsem-prep shard` again")
    receipt = report.receipt(receipt_path, PicturesReceipt)
    if receipt is None:
        return report.problems, None
    summary = receipt.summary
    report.all(receipt_path, _pictures_receipt_problems(receipt, recorded, shard, cache.plan))
    rows = report.guarded(index, lambda: _read_index(cache, index, summary, summary.samples, read_picture_index))
    if rows is not None:
        before = len(report.problems)
        report.all(index, _picture_row_problems(rows, shard, cache.plan))
        if len(report.problems) > before:
            rows = None
    quarantined = _check_quarantine(report, quarantine, receipt, shard)
    if rows is not None and quarantined & {row.sample for row in rows}:
        report.add(quarantine, "it names samples that the shard holds")
    messages = None if rows is None else lambda found: _picture_tar_problems(found, rows, cache.plan)
    _check_tar(report, tar, summary.tar, messages)
    return report.problems, rows


@dataclass(frozen=True, eq=False)
class LabelSetUnderTest:
    """What the checks of all shards of a label set share.

    Attributes:
        layout: the label set.
        spec: what it should be.
        manifest: what it says it is; None where it isn't finished.
        text: its text bank; None where it is broken.
    """

    layout: LabelSetLayout
    spec: LabelSpec
    manifest: LabelManifest | None
    text: TextBank | None


def check_labels(
    cache: CacheUnderTest,
    labels: LabelSetUnderTest,
    shard: int,
    recorded: ShardSummary | None,
    pictures: Sequence[PictureRow] | None,
) -> list[Problem]:
    """Check a shard of labels.

    Args:
        cache: the cache.
        labels: the label set.
        shard: number of the shard.
        recorded: what the set's manifest says of it; None where there is none.
        pictures: rows of the shard's picture index; None leaves out what needs them.
    """
    tar, index, receipt_path = labels.layout.tar(shard), labels.layout.index(shard), labels.layout.receipt(shard)
    report = _Report(cache, remedy=f"delete {receipt_path} and run the same `richsem-prep shard` again")
    receipt = report.receipt(receipt_path, LabelsReceipt)
    if receipt is None:
        return report.problems
    summary = receipt.summary
    report.all(receipt_path, _labels_receipt_problems(receipt, recorded, labels, shard, pictures))
    rows = report.guarded(index, lambda: _read_index(cache, index, summary, summary.views, read_view_index))
    if rows is not None:
        before = len(report.problems)
        report.all(index, _view_row_problems(rows, shard, summary, labels.spec))
        if len(report.problems) > before:
            rows = None
    if rows is None or pictures is None:
        messages = None
    else:
        shown = ShardPictures.of(pictures, cache.plan)
        messages = lambda found: _label_tar_problems(found, rows, shown, labels)  # noqa: E731
    _check_tar(report, tar, summary.tar, messages)
    return report.problems


@dataclass(eq=False)
class _Report:
    """Problems of one shard, with the remedy they share."""

    cache: CacheUnderTest
    remedy: str
    problems: list[Problem] = field(default_factory=list)

    def add(self, path: Path, message: str) -> None:
        self.problems.append(Problem(self.cache.relative(path), message, self.remedy))

    def all(self, path: Path, messages: Iterator[str]) -> None:
        """Add messages about one file, as many as tell something."""
        for message in islice(_guarded_messages(messages), MAX_PROBLEMS_A_FILE):
            self.add(path, message)

    def guarded(self, path: Path, read: Callable[[], Any]) -> Any:
        """What `read` returns, or None and a problem where it can't: the bytes of a cache may be anything."""
        try:
            return read()
        except Exception as error:
            self.add(path, reason(error, path))
            return None

    def receipt(self, path: Path, kind: type[Any]) -> Any:
        if not self.cache.has(path):
            self.add(path, "it is missing")
            return None
        self.cache.done.add(self.cache.sizes[self.cache.relative(path)])
        return self.guarded(path, lambda: kind.read(path))


def reason(error: Exception, path: Path) -> str:
    """What an exception says, without the name of the file, on one line."""
    if not isinstance(error, CorruptCacheError):
        return f"it can't be read ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
    return str(error).removeprefix(f"{path}: ").partition("; ")[0]


def _guarded_messages(messages: Iterator[str]) -> Iterator[str]:
    try:
        yield from messages
    except CorruptCacheError as error:
        yield str(error)
    except Exception as error:  # A hostile file may trip any library; that is a finding, not a crash.
        yield f"it can't be read ({type(error).__name__}: {' '.join(str(error).split())[:200]})"


def _check_tar(
    report: _Report, path: Path, expected: FileHash, problems_of: Callable[[Iterator[TarMember]], Iterator[str]] | None
) -> None:
    """Hash a tar and look at its members in one pass; where the hash is wrong, that alone is said."""
    if problem := report.cache.size_problem(path, expected, said_by="the receipt"):
        report.add(path, problem)
        return
    with report.cache.open(path) as reader:
        messages: list[str] = []
        if problems_of is not None:
            members = tar_members(reader, file_bytes=expected.bytes)
            messages += islice(_guarded_messages(problems_of(members)), MAX_PROBLEMS_A_FILE)
        reader.drain()
    if problem := reader.problem(expected, said_by="the receipt"):
        messages = [problem]
    for message in messages:
        report.add(path, message)


def _read_index(
    cache: CacheUnderTest, path: Path, summary: ShardSummary, rows: int, read: Callable[[Path], list[Any]]
) -> list[Any]:
    """Read an index whose hash is right and whose claims are modest: a few bytes of parquet can promise any size."""
    if problem := cache.file_problem(path, summary.index, said_by="the receipt"):
        raise CorruptCacheError(problem)
    metadata = pq.read_metadata(path)
    if metadata.num_rows != rows:
        raise CorruptCacheError(f"it has {metadata.num_rows:,} rows, the receipt says {rows:,}")
    unpacked = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    if rows > summary.tar.bytes // _BLOCK or unpacked > _MAX_INDEX_BYTES:
        raise CorruptCacheError(f"it has {rows:,} rows of {unpacked:,} bytes, too many for its tar")
    return read(path)


def _pictures_receipt_problems(
    receipt: PicturesReceipt, recorded: ShardSummary | None, shard: int, plan: Plan
) -> Iterator[str]:
    summary = receipt.summary
    if receipt.plan_fingerprint != plan.fingerprint:
        yield "it belongs to another plan"
    yield from _summary_problems(summary, recorded, shard)
    if summary.samples + summary.quarantined != plan.shard_samples(shard):
        yield (
            f"{summary.samples} samples and {summary.quarantined} in quarantine are not the "
            f"{plan.shard_samples(shard)} of the plan"
        )
    if summary.views or summary.regions:
        yield "it counts views, but pictures have none"
    if (receipt.quarantine is None) != (summary.quarantined == 0):
        yield f"it counts {summary.quarantined} samples in quarantine, but its quarantine file says otherwise"


def _labels_receipt_problems(
    receipt: LabelsReceipt,
    recorded: ShardSummary | None,
    labels: LabelSetUnderTest,
    shard: int,
    pictures: Sequence[PictureRow] | None,
) -> Iterator[str]:
    if receipt.spec_fingerprint != labels.spec.fingerprint:
        yield "it belongs to another spec"
    yield from _summary_problems(receipt.summary, recorded, shard)
    has_views = labels.spec.views.crops + labels.spec.views.mosaics + labels.spec.views.windows > 0
    if pictures is not None and has_views and receipt.summary.samples != len(pictures):
        yield f"it counts {receipt.summary.samples} samples, the shard has {len(pictures)}"
    if labels.manifest is not None and receipt.environment not in labels.manifest.environments:
        yield "its environment is not in the manifest"


def _summary_problems(summary: ShardSummary, recorded: ShardSummary | None, shard: int) -> Iterator[str]:
    if summary.shard != shard:
        yield f"it is the receipt of shard {summary.shard}"
    if recorded is not None and recorded != summary:
        differing = [name for name in ShardSummary.model_fields if getattr(summary, name) != getattr(recorded, name)]
        yield f"it and the manifest disagree about {', '.join(differing)}"


def _picture_row_problems(rows: list[PictureRow], shard: int, plan: Plan) -> Iterator[str]:
    last = -1
    copied = plan.pictures == "copy"
    for row in rows:
        who = _shown(row.key)
        if not last < row.sample < plan.shard_samples(shard):
            yield f"{who}: sample {row.sample} after {last} is not in order, or not in the plan"
        last = row.sample
        if row.key != sample_key(shard, row.sample):
            yield f"{who}: the key of sample {row.sample} is {sample_key(shard, row.sample)}"
        if not 0 <= row.category_id < len(plan.vocabulary.class_names):
            yield f"{who}: category_id {row.category_id} is not in the vocabulary"
        if row.extension not in EXTENSIONS:
            yield f"{who}: {_shown(row.extension)} is no extension of pictures"
        if min(row.height, row.width) < 1:
            yield f"{who}: the picture has no area"
        if (row.offset < 0) == copied or (not copied and row.offset != -1) or row.size < 0:
            yield f"{who}: offset {row.offset} and size {row.size} don't fit `--pictures {plan.pictures}`"


def _view_row_problems(rows: list[ViewRow], shard: int, summary: ShardSummary, spec: LabelSpec) -> Iterator[str]:
    passes = {"crop": spec.views.crops, "mosaic": spec.views.mosaics, "window": spec.views.windows}
    last = ("", "")
    for row in rows:
        who = f"{_shown(row.key)}.{_shown(row.member)}"
        if row.key != sample_key(shard, row.sample):
            yield f"{who}: the key of sample {row.sample} is {sample_key(shard, row.sample)}"
        if row.kind not in VIEW_KINDS or not 0 <= row.pass_index < passes[row.kind]:
            yield f"{who}: the label set has no such view"
        if not last < (row.key, row.member):
            yield f"{who}: not in order"
        last = (row.key, row.member)
    regions = sum(row.regions for row in rows)
    if regions != summary.regions:
        yield f"it has {regions:,} regions, the receipt says {summary.regions:,}"


def _check_quarantine(report: _Report, path: Path, receipt: PicturesReceipt, shard: int) -> set[int]:
    """Check a shard's quarantine file; returns the samples that it names."""
    if receipt.quarantine is None:
        if report.cache.has(path):
            report.add(path, "the receipt knows no such file")
        return set()
    if problem := report.cache.file_problem(path, receipt.quarantine, said_by="the receipt"):
        report.add(path, problem)
        return set()
    return report.guarded(path, lambda: _quarantined_samples(path, receipt.summary, shard)) or set()


def _quarantined_samples(path: Path, summary: ShardSummary, shard: int) -> set[int]:
    if path.stat().st_size > MAX_JSON_BYTES:
        raise CorruptCacheError("it is too large for what it holds")
    samples = set()
    for line in path.read_bytes().splitlines():
        item = json.loads(line)
        if set(item) != {"key", "sample", "name", "reason"} or item["key"] != sample_key(shard, int(item["sample"])):
            raise CorruptCacheError("a line is not that of a quarantined sample")
        samples.add(int(item["sample"]))
    if len(samples) != summary.quarantined:
        raise CorruptCacheError(f"it names {len(samples)} samples, the receipt says {summary.quarantined}")
    return samples


def _picture_tar_problems(members: Iterator[TarMember], rows: list[PictureRow], plan: Plan) -> Iterator[str]:
    for row in rows:
        wanted = [("json", row.json_offset, row.json_size)]
        if plan.pictures == "copy":
            wanted.append((row.extension, row.offset, row.size))
        found: dict[str, bytes] = {}
        for extension, offset, size in sorted(wanted):
            member = next(members, None)
            if problem := _member_problem(member, f"{row.key}.{extension}", offset, size):
                yield problem
                return
            assert member is not None
            found[extension] = member.data
        yield from _sidecar_problems(row, found["json"], found.get(row.extension), plan)
    if (member := next(members, None)) is not None:
        yield f"it goes on with {_shown(member.name)}, which the index has not"


def _member_problem(member: TarMember | None, name: str, offset: int, size: int) -> str | None:
    if member is None:
        return f"it ends before {name}, which the index has"
    if (member.name, member.offset, len(member.data)) != (name, offset, size):
        return (
            f"{_shown(member.name)} ({len(member.data):,} bytes at {member.offset:,}) stands where the index has "
            f"{name} ({size:,} bytes at {offset:,})"
        )
    return None


def _sidecar_problems(row: PictureRow, data: bytes, picture: bytes | None, plan: Plan) -> Iterator[str]:
    try:
        sidecar = json.loads(data)
    except (ValueError, RecursionError):
        sidecar = None
    if not isinstance(sidecar, dict):
        yield f"{row.key}.json: no JSON object"
        return
    category = plan.vocabulary.class_names[row.category_id]
    expected = {"name": row.name, "category_id": row.category_id, "category": category}
    expected |= {"height": row.height, "width": row.width}
    for name, value in expected.items():
        if sidecar.get(name) != value:
            yield f"{row.key}.json: its {name} is not that of the index, {_shown(str(value))}"
    if picture is not None and sidecar.get("sha256") != hashlib.sha256(picture).hexdigest():
        yield f"{row.key}.json: its sha256 is not that of {row.key}.{row.extension}"
    if picture is None and not _is_original(sidecar.get("original")):
        yield f"{row.key}.json: it doesn't say where the picture lies"


def _is_original(value: Any) -> bool:
    try:
        original = Original.from_json(value)
    except (KeyError, TypeError, ValueError):
        return False
    inside = not original.file.startswith(b"/") and b".." not in original.file.split(b"/")
    return bool(original.file) and inside and original.offset >= WHOLE_FILE and original.size >= 0


def _label_tar_problems(
    members: Iterator[TarMember], rows: list[ViewRow], pictures: ShardPictures, labels: LabelSetUnderTest
) -> Iterator[str]:
    waiting: list[tuple[str, LabelledView]] = []
    waiting_regions = 0
    shown: dict[tuple[str, int], list[np.ndarray]] = {}
    for row in rows:
        member = next(members, None)
        name = f"{row.key}.{row.member}"
        if problem := _member_problem(member, name, row.offset, row.size):
            yield problem
            return
        assert member is not None
        labelled = unpack_view(member.data, row.member)
        problem = _record_problem(labelled, member.data, row, labels.spec)
        if problem:
            yield f"{name}: {problem}"
            return
        shown.setdefault((row.kind, row.pass_index), []).append(labelled.view.tiles["sample"])
        waiting.append((name, labelled))
        waiting_regions += row.regions
        if waiting_regions >= _REGIONS_AT_ONCE:
            yield from view_problems(waiting, pictures, labels.spec, labels.text)
            waiting, waiting_regions = [], 0
    yield from view_problems(waiting, pictures, labels.spec, labels.text)
    if (member := next(members, None)) is not None:
        yield f"it goes on with {_shown(member.name)}, which the index has not"
        return
    yield from _pass_problems(shown, pictures, labels.spec)


def _record_problem(labelled: LabelledView, data: bytes, row: ViewRow, spec: LabelSpec) -> str | None:
    tiles, regions = labelled.view.tiles, labelled.view.regions
    if (len(tiles), len(regions)) != (row.tiles, row.regions):
        return f"{len(tiles)} tiles and {len(regions)} regions, the index says {row.tiles} and {row.regions}"
    record_bytes = len(data) - 10 - int.from_bytes(data[8:10], "little")
    dim = 0 if labelled.embeddings is None else labelled.embeddings.shape[1]
    expected_dim = 0 if spec.embeddings == "none" else spec.teacher.embed_dim
    if (
        record_bytes != spec.record_layout.record_dtype(len(tiles), len(regions)).itemsize
        or labelled.labels.class_ids.shape[1] != spec.top_k
        or dim != expected_dim
    ):
        return "its record is not the one that the spec describes"
    if not len(tiles) or int(tiles["sample"][0]) != row.sample:
        return "its first tile is not the sample of its key"
    return None


def _pass_problems(
    shown: dict[tuple[str, int], list[np.ndarray]], pictures: ShardPictures, spec: LabelSpec
) -> Iterator[str]:
    """Each pass of crops shows every picture exactly once, each pass of mosaics at least once."""
    if not len(pictures.samples):
        return
    for kind, passes in (("crop", spec.views.crops), ("mosaic", spec.views.mosaics)):
        found = sorted(number for known, number in shown if known == kind)
        if len(found) != passes:
            yield f"it has {len(found)} passes of {kind} views, the spec says {passes}"
        for number in found:
            samples = np.sort(np.concatenate(shown[kind, number]))
            if kind == "mosaic":
                samples = np.unique(samples)
            if not np.array_equal(samples, pictures.samples):
                how = "exactly" if kind == "crop" else "at least"
                yield f"pass {number} of {kind} views doesn't show each picture {how} once"


def _shown(name: str) -> str:
    """An untrusted name for a message: short and quoted."""
    return repr(name[:100])
