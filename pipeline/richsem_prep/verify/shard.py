"""One shard against its receipt, its index and itself: files, tars, sidecars, views."""

import hashlib
import json
import operator
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from richsem_prep.shard.plan import planned_entries
from richsem_prep.verify.tar import (
    BytesDone,
    Chunk,
    HashingReader,
    Members,
    UnusualTarError,
    plain_chunks,
    shown,
    walked_chunks,
)
from richsem_prep.verify.views import LabelSetUnderTest, sampled_regions, views_problems
from richsem_schemas.cache.index import (
    PictureColumns,
    ViewColumns,
    parquet_source,
    read_picture_columns,
    read_view_columns,
)
from richsem_schemas.cache.layout import CacheLayout, sample_key
from richsem_schemas.cache.manifest import LabelSpec, LabelsReceipt, PicturesReceipt, Plan, ShardSummary
from richsem_schemas.cache.view_checks import BoxRows, ShardPictures
from richsem_schemas.errors import CorruptCacheError
from richsem_schemas.io.files import FileHash, open_regular, read_file
from richsem_schemas.io.places import Place, RemotePath, name_below
from richsem_schemas.io.sealed_json import MAX_JSON_BYTES
from richsem_schemas.pictures.originals import WHOLE_FILE, Original

MAX_PROBLEMS_A_FILE = 20
"""More than that of one file tell nothing new."""

EXTENSIONS = frozenset({"jpg", "png", "webp", "bmp", "gif", "tif", "ppm"})
"""What pictures in a cache are called; `picture_extension` gives no other."""

SAMPLED_PICTURES = 16
"""Pictures of a shard that are hashed again by themselves. The shard's hash finds every changed byte, and readers
compare each picture with its own hash; this looks for a writer that stored wrong ones, in every picture, from the
start."""

_BUFFER = 2**20
_MIN_MEMBER_BYTES = 512
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


@dataclass(frozen=True, eq=False)
class CacheUnderTest:
    """What the checks of all shards share.

    Attributes:
        layout: the cache, its folder resolved.
        plan: of the cache.
        sizes: bytes of each regular file by its path relative to OUT; nothing else is ever opened.
        done: bytes read so far.
        is_thorough: check by itself every value that is otherwise sampled.
    """

    layout: CacheLayout
    plan: Plan
    sizes: dict[str, int]
    done: BytesDone
    is_thorough: bool

    def relative(self, path: Place) -> str:
        """A file's name in problems."""
        return name_below(path, self.layout.out)

    def has(self, path: Place) -> bool:
        """Whether a regular file is there."""
        return self.relative(path) in self.sizes

    def file_problem(self, path: Place, expected: FileHash, *, said_by: str) -> str | None:
        """Compare a file with its size and SHA-256; None where they agree."""
        if problem := self.size_problem(path, expected, said_by=said_by):
            return problem
        with self.open(path) as reader:
            reader.drain()
        return reader.problem(expected, said_by=said_by)

    @contextmanager
    def open(self, path: Place, *, counted: bool = True) -> "Iterator[HashingReader]":
        """Open a file to be read once, from start to end; `counted` where its bytes are progress."""
        done = self.done if counted else BytesDone(lambda _: None)
        if isinstance(path, RemotePath):
            with path.open() as remote:
                yield HashingReader(remote, done)
            return
        with open_regular(path, buffering=_BUFFER) as file:
            yield HashingReader(file, done)

    def size_problem(self, path: Place, expected: FileHash, *, said_by: str) -> str | None:
        """Compare a file with its size alone."""
        size = self.sizes.get(self.relative(path))
        if size is None:
            return "it is missing"
        if size != expected.bytes:
            verdict = "cut short" if size < expected.bytes else "too long"
            return f"{verdict}: it has {size:,} bytes, {said_by} says {expected.bytes:,}"
        return None


def check_pictures(
    cache: CacheUnderTest, shard: int, recorded: ShardSummary | None
) -> tuple[list[Problem], PictureColumns | None]:
    """Check a shard of pictures.

    Args:
        cache: the cache.
        shard: number of the shard.
        recorded: what the manifest says of it; None where there is no manifest.

    Returns:
        What is wrong, and its index, None where it can't be trusted.
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
    rows = report.rows(index, summary, summary.samples, read_picture_columns)
    if rows is not None and report.all(index, _picture_row_problems(rows, shard, cache.plan)):
        rows = None
    quarantined = _check_quarantine(report, quarantine, receipt, shard)
    if rows is not None and not quarantined.isdisjoint(rows.sample.tolist()):
        report.add(quarantine, "it names samples that the shard holds")
    members = None if rows is None else _picture_members(rows, cache.plan)
    hashed = _hashed_pictures(cache, summary.samples, shard)
    _check_tar(
        report, tar, summary.tar, members, lambda chunks: _picture_tar_problems(chunks, rows, cache.plan, hashed)
    )
    return report.problems, rows


def _hashed_pictures(cache: CacheUnderTest, samples: int, shard: int) -> Container[int]:
    if cache.is_thorough or samples <= SAMPLED_PICTURES:
        return range(samples)
    rng = np.random.default_rng([cache.plan.seed, shard])
    return frozenset(rng.choice(samples, SAMPLED_PICTURES, replace=False).tolist())


def check_labels(
    cache: CacheUnderTest,
    labels: LabelSetUnderTest,
    shard: int,
    recorded: ShardSummary | None,
    pictures: PictureColumns | None,
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
    rows = report.rows(index, summary, summary.views, read_view_columns)
    if rows is not None and report.all(index, _view_row_problems(rows, shard, summary, labels.spec)):
        rows = None
    if rows is None or pictures is None:
        _check_tar(report, tar, summary.tar, None, lambda _: iter(()))
        return report.problems
    names = [f"{key}.{member}" for key, member in zip(rows.key, _members(rows), strict=True)]
    shown_pictures = ShardPictures.of_columns(pictures, cache.plan)
    if labels.spec.views.has_boxes and cache.has(cache.layout.listing):
        boxes = report.guarded(cache.layout.listing, lambda: _box_rows(cache, shard, pictures.sample))
        shown_pictures = replace(shown_pictures, boxes=boxes)
    sampled = None if cache.is_thorough else sampled_regions(summary.regions, seed=cache.plan.seed, shard=shard)
    _check_tar(
        report,
        tar,
        summary.tar,
        Members(names, rows.offset, rows.size),
        lambda chunks: views_problems(chunks, rows, names, shown_pictures, labels, sampled),
    )
    return report.problems


def _box_rows(cache: CacheUnderTest, shard: int, samples: NDArray[np.int32]) -> BoxRows | None:
    """The classes of all annotated boxes of a shard's pictures; None where the listing is broken, which is found."""
    try:
        entries = planned_entries(cache.layout, cache.plan, shard)
    except CorruptCacheError:
        return None
    boxes = [entries[sample].boxes for sample in samples.tolist()]
    rows = [np.zeros(0, np.int32) if item is None else item.rows for item in boxes]
    return BoxRows(np.cumsum([0, *map(len, rows)]), np.concatenate([np.zeros(0, np.int32), *rows]))


@dataclass(eq=False)
class _Report:
    """Problems of one shard, with the remedy they share."""

    cache: CacheUnderTest
    remedy: str
    problems: list[Problem] = field(default_factory=list)

    def add(self, path: Place, message: str) -> None:
        self.problems.append(Problem(self.cache.relative(path), message, self.remedy))

    def all(self, path: Place, messages: Iterator[str]) -> bool:
        """Add messages about one file, as many as tell something; returns whether there were any."""
        found = _messages(messages)
        for message in found:
            self.add(path, message)
        return bool(found)

    def guarded(self, path: Place, read: Callable[[], Any]) -> Any:
        """What `read` returns, or None and a problem where it can't: the bytes of a cache may be anything."""
        try:
            return read()
        except Exception as error:
            self.add(path, reason(error, path))
            return None

    def receipt(self, path: Place, kind: type[Any]) -> Any:
        if not self.cache.has(path):
            self.add(path, "it is missing")
            return None
        self.cache.done.add(self.cache.sizes[self.cache.relative(path)])
        return self.guarded(path, lambda: kind.read(path))

    def rows(self, path: Place, summary: ShardSummary, count: int, read: Callable[[Place], Any]) -> Any:
        """An index of so many rows, or None and a problem."""
        return self.guarded(path, lambda: _read_index(self.cache, path, summary, count, read))


def reason(error: Exception, path: Place) -> str:
    """What an exception says, without the name of the file, on one line."""
    if not isinstance(error, CorruptCacheError):
        return f"it can't be read ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
    return str(error).removeprefix(f"{path}: ").partition("; ")[0]


def _guarded_messages(messages: Iterator[str]) -> Iterator[str]:
    try:
        yield from messages
    except UnusualTarError:
        raise
    except CorruptCacheError as error:
        yield str(error)
    except Exception as error:  # A hostile file may trip any library; that is a finding, not a crash.
        yield f"it can't be read ({type(error).__name__}: {' '.join(str(error).split())[:200]})"


def _check_tar(
    report: _Report,
    path: Place,
    expected: FileHash,
    members: Members | None,
    problems_of: Callable[[Iterator[Chunk]], Iterator[str]],
) -> None:
    """Hash a tar and look at its members in one pass; where the hash is wrong, that alone is said.

    Args:
        report: takes the problems.
        path: the tar.
        expected: its size and hash.
        members: what its index says; None where it can't be trusted, which leaves only the hash.
        problems_of: what to look at.
    """
    if problem := report.cache.size_problem(path, expected, said_by="the receipt"):
        report.add(path, problem)
        return
    messages: list[str] | None = []
    with report.cache.open(path) as reader:
        if members is not None:
            try:
                chunks = plain_chunks(reader, members, file_bytes=expected.bytes)
                messages = _messages(problems_of(chunks))
            except UnusualTarError:
                messages = None
        reader.drain()
    if problem := reader.problem(expected, said_by="the receipt"):
        messages = [problem]
    elif messages is None:
        assert members is not None
        with report.cache.open(path, counted=False) as reader:
            messages = _messages(problems_of(walked_chunks(reader, members, file_bytes=expected.bytes)))
    for message in messages or ():
        report.add(path, message)


def _messages(problems: Iterator[str]) -> list[str]:
    return list(islice(_guarded_messages(problems), MAX_PROBLEMS_A_FILE))


def _read_index(
    cache: CacheUnderTest, path: Place, summary: ShardSummary, rows: int, read: Callable[[Place], Any]
) -> Any:
    """Read an index whose hash is right and whose claims are modest: a few bytes of parquet can promise any size."""
    if problem := cache.file_problem(path, summary.index, said_by="the receipt"):
        raise CorruptCacheError(problem)
    metadata = pq.read_metadata(parquet_source(path))
    if metadata.num_rows != rows:
        raise CorruptCacheError(f"it has {metadata.num_rows:,} rows, the receipt says {rows:,}")
    unpacked = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    if rows > summary.tar.bytes // _MIN_MEMBER_BYTES or unpacked > _MAX_INDEX_BYTES:
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
    pictures: PictureColumns | None,
) -> Iterator[str]:
    if receipt.spec_fingerprint != labels.spec.fingerprint:
        yield "it belongs to another spec"
    yield from _summary_problems(receipt.summary, recorded, shard)
    has_views = any(labels.spec.views.passes.values())
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


def _picture_row_problems(rows: PictureColumns, shard: int, plan: Plan) -> Iterator[str]:
    samples, before = rows.sample, np.concatenate([np.full(1, -1, np.int32), rows.sample[:-1]])[: len(rows)]
    for row in np.flatnonzero((samples <= before) | (samples >= plan.shard_samples(shard))).tolist():
        who = shown(rows.key[row])
        yield f"{who}: sample {samples[row]} after {before[row]} is not in order, or not in the plan"
    yield from _key_problems(rows, shard)
    classes = len(plan.vocabulary.class_names)
    for row in np.flatnonzero((rows.category_id < 0) | (rows.category_id >= classes)).tolist():
        yield f"{shown(rows.key[row])}: category_id {rows.category_id[row]} is not in the vocabulary"
    if not EXTENSIONS.issuperset(rows.extension):
        row = next(row for row, extension in enumerate(rows.extension) if extension not in EXTENSIONS)
        yield f"{shown(rows.key[row])}: {shown(rows.extension[row])} is no extension of pictures"
    for row in np.flatnonzero(np.minimum(rows.height, rows.width) < 1).tolist():
        yield f"{shown(rows.key[row])}: the picture has no area"
    fits = (rows.offset >= 0) if plan.pictures == "copy" else (rows.offset == -1)
    for row in np.flatnonzero(~fits | (rows.size < 0)).tolist():
        where = f"offset {rows.offset[row]} and size {rows.size[row]}"
        yield f"{shown(rows.key[row])}: {where} don't fit `--pictures {plan.pictures}`"


def _key_problems(rows: PictureColumns | ViewColumns, shard: int) -> Iterator[str]:
    keys = [sample_key(shard, sample) for sample in rows.sample.tolist()]
    if keys != rows.key:
        row = next(row for row, (key, found) in enumerate(zip(keys, rows.key, strict=True)) if key != found)
        yield f"{shown(rows.key[row])}: the key of sample {rows.sample[row]} is {keys[row]}"


def _view_row_problems(rows: ViewColumns, shard: int, summary: ShardSummary, spec: LabelSpec) -> Iterator[str]:
    yield from _key_problems(rows, shard)
    passes = spec.views.passes
    for kind, number in sorted(set(zip(rows.kind, rows.pass_index.tolist(), strict=True))):
        if not 0 <= number < passes.get(kind, 0):
            yield f"the label set has no such views as {shown(kind)} of pass {number}"
    names = list(zip(rows.key, _members(rows), strict=True))
    if not all(map(operator.lt, names, names[1:])):
        key, member = next(later for earlier, later in pairwise(names) if not earlier < later)
        yield f"{shown(key)}.{shown(member)}: not in order"
    regions = int(rows.regions.sum(dtype=np.int64))
    if regions != summary.regions:
        yield f"it has {regions:,} regions, the receipt says {summary.regions:,}"


def _members(rows: ViewColumns) -> list[str]:
    return [f"{kind}-{number}.npy" for kind, number in zip(rows.kind, rows.pass_index.tolist(), strict=True)]


def _check_quarantine(report: _Report, path: Place, receipt: PicturesReceipt, shard: int) -> set[int]:
    """Check a shard's quarantine file; returns the samples that it names."""
    if receipt.quarantine is None:
        if report.cache.has(path):
            report.add(path, "the receipt knows no such file")
        return set()
    if problem := report.cache.file_problem(path, receipt.quarantine, said_by="the receipt"):
        report.add(path, problem)
        return set()
    return report.guarded(path, lambda: _quarantined_samples(path, receipt.summary, shard)) or set()


def _quarantined_samples(path: Place, summary: ShardSummary, shard: int) -> set[int]:
    if path.stat().st_size > MAX_JSON_BYTES:
        raise CorruptCacheError("it is too large for what it holds")
    samples = set()
    for line in read_file(path).splitlines():
        item = json.loads(line)
        if set(item) != {"key", "sample", "name", "reason"} or item["key"] != sample_key(shard, int(item["sample"])):
            raise CorruptCacheError("a line is not that of a quarantined sample")
        samples.add(int(item["sample"]))
    if len(samples) != summary.quarantined:
        raise CorruptCacheError(f"it names {len(samples)} samples, the receipt says {summary.quarantined}")
    return samples


def _picture_members(rows: PictureColumns, plan: Plan) -> Members:
    """What the index says of the tar of pictures: of a sample the members by their extensions."""
    if plan.pictures != "copy":
        return Members([f"{key}.json" for key in rows.key], rows.json_offset, rows.json_size)
    json_first_N = _json_comes_first(rows)
    names = [
        f"{key}.{ending}"
        for key, extension, json_first in zip(rows.key, rows.extension, json_first_N.tolist(), strict=True)
        for ending in (("json", extension) if json_first else (extension, "json"))
    ]
    offsets = np.where(json_first_N, (rows.json_offset, rows.offset), (rows.offset, rows.json_offset)).T.reshape(-1)
    sizes = np.where(json_first_N, (rows.json_size, rows.size), (rows.size, rows.json_size)).T.reshape(-1)
    return Members(names, offsets, sizes, together=2)


def _json_comes_first(rows: PictureColumns) -> NDArray[np.bool_]:
    return np.array([extension > "json" for extension in rows.extension], np.bool_)


def _picture_tar_problems(
    chunks: Iterator[Chunk], rows: PictureColumns, plan: Plan, hashed: Container[int]
) -> Iterator[str]:
    """Compare each KEY.json with the index, and its hash with the picture for the rows that are `hashed`."""
    copied = plan.pictures == "copy"
    json_first = _json_comes_first(rows).tolist()
    facts = _sidecar_facts(rows, plan)
    for chunk in chunks:
        contents = iter(chunk.contents)
        for row, first in enumerate(contents, chunk.first // (1 + copied)):
            second = next(contents) if copied else first
            data, picture = (first, second) if json_first[row] else (second, first)
            sidecar = _parsed(data)
            who = f"{rows.key[row]}.json"
            if sidecar is None:
                yield f"{who}: no JSON object"
            elif not facts[row].items() <= sidecar.items():
                for name in (name for name, value in facts[row].items() if sidecar.get(name) != value):
                    yield f"{who}: its {name} is not that of the index, {shown(str(facts[row][name]))}"
            elif copied and row in hashed and sidecar.get("sha256") != hashlib.sha256(picture).hexdigest():
                yield f"{who}: its sha256 is not that of {rows.key[row]}.{rows.extension[row]}"
            elif not copied and not _is_original(sidecar.get("original")):
                yield f"{who}: it doesn't say where the picture lies"


def _sidecar_facts(rows: PictureColumns, plan: Plan) -> list[dict[str, Any]]:
    """What KEY.json repeats of the index, a row a sample."""
    names = plan.vocabulary.class_names
    return [
        {"name": name, "category_id": category_id, "category": names[category_id], "height": height, "width": width}
        for name, category_id, height, width in zip(
            rows.name, rows.category_id.tolist(), rows.height.tolist(), rows.width.tolist(), strict=True
        )
    ]


def _parsed(data: memoryview) -> dict[str, Any] | None:
    try:
        value = json.loads(str(data, "utf-8"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _is_original(value: Any) -> bool:
    try:
        original = Original.from_json(value)
    except (KeyError, TypeError, ValueError):
        return False
    inside = not original.file.startswith(b"/") and b".." not in original.file.split(b"/")
    return bool(original.file) and inside and original.offset >= WHOLE_FILE and original.size >= 0
