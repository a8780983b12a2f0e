"""One shard of a cache: its pictures and its labels against their receipts, their indexes and each other."""

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow.parquet as pq

from richsem_prep.verify.files import CacheFiles, Problem, Report, first_messages
from richsem_prep.verify.pictures import (
    SAMPLED_PICTURES,
    picture_members,
    picture_row_problems,
    quarantined_samples,
    sidecar_problems,
)
from richsem_prep.verify.records import LabelSetUnderTest
from richsem_prep.verify.rescored import embeddings_behind, rescored_problems
from richsem_prep.verify.tar import Chunk, Members, tar_chunks
from richsem_prep.verify.views import sampled_regions, view_row_problems, views_problems
from richsem_schemas.cache.index import MAX_INDEX_BYTES, Rows, parquet_source, view_names
from richsem_schemas.cache.layout import CacheLayout
from richsem_schemas.cache.listed_boxes import boxes_of_samples
from richsem_schemas.cache.manifest import CacheManifest, LabelsReceipt, PicturesReceipt, Plan, ShardSummary
from richsem_schemas.cache.shard import LabelShard, PictureShard
from richsem_schemas.cache.view_batch import BoxRows, ShardPictures
from richsem_schemas.errors import CorruptCacheError
from richsem_schemas.io.places import open_place

_MIN_MEMBER_BYTES = 512


@dataclass(frozen=True, eq=False)
class CacheUnderTest:
    """What the checks of all shards share.

    Attributes:
        manifest: of its pictures; None where they aren't finished.
        elsewhere: of the cache that holds the pictures, for a folder of labels alone.
        boxes: the classes of the boxes of all listed pictures, where a label set shows boxes.
        is_thorough: check by itself every value that is otherwise sampled.
    """

    files: CacheFiles
    layout: CacheLayout
    plan: Plan
    manifest: CacheManifest | None
    elsewhere: CacheManifest | None
    label_sets: Sequence[LabelSetUnderTest]
    boxes: BoxRows | None
    is_thorough: bool

    @cached_property
    def summaries(self) -> dict[int, ShardSummary]:
        """The shards of pictures that a manifest names."""
        manifest = self.elsewhere or self.manifest
        return {summary.shard: summary for summary in manifest.shards} if manifest else {}


def check_shard(cache: CacheUnderTest, number: int) -> list[Problem]:
    """Check a shard of pictures, and the shards of labels that belong to it."""
    problems: list[Problem] = []
    if cache.elsewhere is None:
        shard = PictureShard(cache.layout, number)
        pictures = _check_pictures(Report(cache.files, shard.remedy, problems), cache, shard)
    else:
        pictures = _pictures_elsewhere(cache, cache.elsewhere, number)
    for labels in cache.label_sets:
        label_shard = LabelShard(labels.layout, number)
        # An unfinished set has no receipt for some shards yet.
        if labels.manifest is not None or cache.files.has(label_shard.receipt):
            report = Report(cache.files, label_shard.remedy)
            _check_labels(report, cache, labels, label_shard, pictures)
            if not report.problems:
                _check_rescored(report, cache, labels, label_shard)
            problems += report.problems
    return problems


def _check_pictures(report: Report, cache: CacheUnderTest, shard: PictureShard) -> Rows | None:
    """Check a shard of pictures; returns its index, None where it can't be trusted."""
    receipt = report.record(shard.receipt, PicturesReceipt.read)
    if receipt is None:
        return None
    plan, number, summary = cache.plan, shard.number, receipt.summary
    report.add_all(shard.receipt, _pictures_receipt_problems(receipt, cache, number))
    rows = _read_rows(report, shard, summary, summary.samples)
    if rows is not None and report.add_all(shard.index, picture_row_problems(rows, number, plan)):
        rows = None
    quarantined = _check_quarantine(report, shard, receipt)
    if rows is None:
        _check_tar(report, shard, summary, None)
        return None
    if not quarantined.isdisjoint(rows["sample"].tolist()):
        report.add(shard.quarantine, "it names samples that the shard holds")
    hashed = _hashed_pictures(cache, len(rows), number)
    members = picture_members(rows, plan)
    _check_tar(report, shard, summary, members, lambda chunks: sidecar_problems(chunks, rows, plan, hashed))
    return rows


def _pictures_elsewhere(cache: CacheUnderTest, elsewhere: CacheManifest, number: int) -> Rows | None:
    """The index of a shard of pictures in another cache; None where it isn't the one that the manifest names."""
    assert elsewhere.pictures_in is not None
    shard = PictureShard(CacheLayout(open_place(elsewhere.pictures_in), elsewhere.plan.dataset), number)
    try:
        return shard.rows(cache.summaries[number].index) if number in cache.summaries else None
    except (OSError, CorruptCacheError):
        return None


def _check_labels(
    report: Report, cache: CacheUnderTest, labels: LabelSetUnderTest, shard: LabelShard, pictures: Rows | None
) -> None:
    """Check a shard of labels; without the index of its pictures, no more than its hashes and its own index."""
    receipt = report.record(shard.receipt, LabelsReceipt.read)
    if receipt is None:
        return
    number, summary = shard.number, receipt.summary
    report.add_all(shard.receipt, _labels_receipt_problems(receipt, labels, number, pictures))
    rows = _read_rows(report, shard, summary, summary.views)
    if rows is not None and report.add_all(shard.index, view_row_problems(rows, number, summary, labels.spec)):
        rows = None
    if rows is None or pictures is None:
        _check_tar(report, shard, summary, None)
        return
    shown = ShardPictures.of_rows(pictures, cache.plan)
    if labels.spec.views.has_boxes and cache.boxes is not None:
        shown = replace(shown, boxes=boxes_of_samples(cache.boxes, cache.plan, number, pictures["sample"]))
    sampled = None if cache.is_thorough else sampled_regions(summary.regions, seed=cache.plan.seed, shard=number)
    members = Members(view_names(rows), rows["offset"], rows["size"])
    _check_tar(report, shard, summary, members, lambda chunks: views_problems(chunks, rows, shown, labels, sampled))


def _check_rescored(report: Report, cache: CacheUnderTest, labels: LabelSetUnderTest, shard: LabelShard) -> None:
    source = embeddings_behind(labels, cache.label_sets)
    if source is None:
        return
    rich = LabelShard(source.layout, shard.number)
    if cache.files.has(rich.tar) and cache.files.has(rich.index):
        report = report.advising(f"delete {shard.receipt} and run the same `rescore` again")
        report.add_all(shard.tar, rescored_problems(labels, source, shard.number, seed=cache.plan.seed))


def _read_rows(report: Report, shard: PictureShard | LabelShard, summary: ShardSummary, count: int) -> Rows | None:
    """An index of so many rows whose hash is right and whose claims are modest, or None and a problem."""

    def read() -> Rows:
        # A few bytes of parquet can promise any size.
        metadata = pq.read_metadata(parquet_source(shard.index))
        if metadata.num_rows != count:
            raise CorruptCacheError(f"it has {metadata.num_rows:,} rows, the receipt says {count:,}")
        unpacked = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
        if count > summary.tar.bytes // _MIN_MEMBER_BYTES or unpacked > MAX_INDEX_BYTES:
            raise CorruptCacheError(f"it has {count:,} rows of {unpacked:,} bytes, too many for its tar")
        return shard.raw_rows()

    if not report.has_hash(shard.index, summary.index, said_by="the receipt"):
        return None
    return report.attempt(shard.index, read)


def _check_tar(
    report: Report,
    shard: PictureShard | LabelShard,
    summary: ShardSummary,
    members: Members | None,
    problems_of: Callable[[Iterator[Chunk]], Iterator[str]] = lambda _: iter(()),
) -> None:
    """Hash a tar and look at its members in one pass; where the hash is wrong, that alone is said.

    Without the members of its index, where that can't be trusted, the hash alone is checked.
    """
    if problem := report.files.size_problem(shard.tar, summary.tar, said_by="the receipt"):
        report.add(shard.tar, problem)
        return
    messages: list[str] = []
    with report.files.open(shard.tar) as reader:
        if members is not None:
            messages = first_messages(problems_of(tar_chunks(reader, members, file_bytes=summary.tar.bytes)))
        reader.drain()
    problem = reader.problem(summary.tar, said_by="the receipt")
    report.add(shard.tar, *([problem] if problem else messages))


def _hashed_pictures(cache: CacheUnderTest, samples: int, shard: int) -> Container[int]:
    if cache.is_thorough or samples <= SAMPLED_PICTURES:
        return range(samples)
    rng = np.random.default_rng([cache.plan.seed, shard])
    return frozenset(rng.choice(samples, SAMPLED_PICTURES, replace=False).tolist())


def _check_quarantine(report: Report, shard: PictureShard, receipt: PicturesReceipt) -> set[int]:
    path = shard.quarantine
    if receipt.quarantine is None:
        if report.files.has(path):
            report.add(path, "the receipt knows no such file")
        return set()
    if not report.has_hash(path, receipt.quarantine, said_by="the receipt"):
        return set()
    return report.attempt(path, lambda: quarantined_samples(path, receipt, shard.number)) or set()


def _pictures_receipt_problems(receipt: PicturesReceipt, cache: CacheUnderTest, shard: int) -> Iterator[str]:
    summary, planned = receipt.summary, cache.plan.shard_samples(shard)
    if receipt.fingerprint != cache.plan.fingerprint:
        yield "it belongs to another plan"
    yield from _summary_problems(summary, cache.summaries.get(shard), shard)
    if summary.samples + summary.quarantined != planned:
        yield f"{summary.samples} samples and {summary.quarantined} in quarantine are not the {planned} of the plan"
    if summary.views or summary.regions:
        yield "it counts views, but pictures have none"
    if (receipt.quarantine is None) != (summary.quarantined == 0):
        yield f"it counts {summary.quarantined} samples in quarantine, but its quarantine file says otherwise"


def _labels_receipt_problems(
    receipt: LabelsReceipt, labels: LabelSetUnderTest, shard: int, pictures: Rows | None
) -> Iterator[str]:
    if receipt.fingerprint != labels.spec.fingerprint:
        yield "it belongs to another spec"
    yield from _summary_problems(receipt.summary, labels.summaries.get(shard), shard)
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
