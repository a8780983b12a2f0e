"""`richsem-prep inspect`: what a label set is, what it weighs, and what its soft labels say."""

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from richsem_prep.explore.audit_records import audit_line, last_audit
from richsem_schemas.cache.layout import CacheLayout
from richsem_schemas.cache.manifest import AuditRecord, LabelManifest, LabelSpec, Plan, ViewsSpec
from richsem_schemas.cache.quarantine import read_quarantine
from richsem_schemas.cache.reader import Cache
from richsem_schemas.cache.shard import LabelShard
from richsem_schemas.cache.soft_labels import TopKSoftLabels
from richsem_schemas.cache.view import JITTERS_OF
from richsem_schemas.errors import CorruptCacheError
from richsem_schemas.io.places import Place, RemotePath, map_small_files
from richsem_schemas.io.words import printable_text, readable_bytes
from richsem_schemas.vocabularies.vocabulary import NO_LABEL, NONE_NAME

CLASSES_SHOWN = 10
REASONS_SHOWN = 10
PROJECTED_PICTURES = 1_000_000

_FINGERPRINT_DIGITS = 12


@dataclass(frozen=True)
class ClassCount:
    """How many regions carry a class as their hard label."""

    name: str
    regions: int


@dataclass(frozen=True)
class CacheStatistics:
    """Figures of one label set and its pictures.

    Attributes:
        samples: good pictures.
        views: by kind.
        total_bytes: of every file in OUT, other label sets included.
        mean_entropy: nats, mean over regions, of the kept classes with the rest as one more class; 0 without regions.
        mean_captured_mass: mean over regions of the kept classes' probability.
        labelled_regions: regions with a hard label.
        judged_regions: of those, the ones whose class the text bank has, by name.
        agreeing_regions: of those, the ones whose most probable class it is.
        class_counts: regions by hard label, most frequent first, ties by the vocabulary's order; "none" left out.
        quarantined: reasons and their counts, most frequent first.
        seconds: by stage, summed over the set's shards.
        last_audit: of the set as it is; None where there was none.
    """

    label_set: str
    plan: Plan
    spec: LabelSpec
    samples: int
    views: dict[str, int]
    regions: dict[str, int]
    picture_bytes: int
    label_bytes: int
    index_bytes: int
    total_bytes: int
    mean_entropy: float
    mean_captured_mass: float
    labelled_regions: int
    judged_regions: int
    agreeing_regions: int
    class_counts: tuple[ClassCount, ...]
    quarantined: tuple[tuple[str, int], ...]
    seconds: dict[str, float]
    last_audit: AuditRecord | None

    @property
    def bytes_a_region(self) -> float:
        """Of the tars of labels."""
        return self.label_bytes / max(sum(self.regions.values()), 1)

    @property
    def bytes_a_picture(self) -> float:
        """Of the tars of pictures."""
        return self.picture_bytes / max(self.samples, 1)

    @property
    def projected_bytes(self) -> float:
        """Of pictures, this label set and their indexes, for a million pictures."""
        return (self.picture_bytes + self.label_bytes + self.index_bytes) / max(self.samples, 1) * PROJECTED_PICTURES

    @property
    def top1_agreement(self) -> float | None:
        """Share of judged regions whose most probable class is their hard label; None without such regions."""
        return self.agreeing_regions / self.judged_regions if self.judged_regions else None


def inspect_label_set(cache: Cache, name: str) -> CacheStatistics:
    """Read every view of a label set and count.

    Raises:
        CorruptCacheError: a file is missing or damaged.
    """
    manifest, layout, plan = cache.label_sets[name], cache.labels_layout, cache.manifest.plan
    counts = _Counts(_text_rows(plan, cache.text_bank(name).class_names))
    for summary in manifest.shards:
        _count_shard(counts, cache.label_shard(name, summary.shard), manifest.spec)
    regions = max(sum(counts.regions.values()), 1)
    pictures = cache.manifest.shards
    return CacheStatistics(
        label_set=name,
        plan=plan,
        spec=manifest.spec,
        samples=cache.manifest.samples,
        views=dict(counts.views),
        regions=dict(counts.regions),
        picture_bytes=cache.manifest.bytes,
        label_bytes=manifest.bytes,
        index_bytes=sum(shard.index.bytes for shard in (*pictures, *manifest.shards)),
        total_bytes=_bytes_below(layout.out),
        mean_entropy=counts.entropy / regions,
        mean_captured_mass=counts.mass / regions,
        labelled_regions=int(counts.by_class[NO_LABEL + 1 :].sum()),
        judged_regions=int(counts.by_class[counts.text_row_C >= 0].sum()),
        agreeing_regions=counts.agreeing,
        class_counts=_class_counts(plan, counts.by_class),
        quarantined=tuple(_quarantine_reasons(cache.layout, len(pictures)).most_common()),
        seconds=_stage_seconds(cache, manifest),
        last_audit=last_audit(layout.label_set(name), manifest.fingerprint),
    )


def _text_rows(plan: Plan, class_names: tuple[str, ...]) -> NDArray[np.int64]:
    """[C] row of the text bank of each class of the plan, by name; -1 for "none", and where it has no such class."""
    rows = {name: row for row, name in enumerate(class_names)}
    text_row_C = np.array([rows.get(name, -1) for name in plan.vocabulary.class_names], np.int64)
    text_row_C[NO_LABEL] = -1
    return text_row_C


class _Counts:
    def __init__(self, text_row_C: NDArray[np.int64]) -> None:
        self.text_row_C = text_row_C
        self.views: Counter[str] = Counter()
        self.regions: Counter[str] = Counter()
        self.by_class: NDArray[np.int64] = np.zeros(len(text_row_C), np.int64)
        self.agreeing = 0
        self.entropy = 0.0
        self.mass = 0.0


def _count_shard(counts: _Counts, shard: LabelShard, spec: LabelSpec) -> None:
    views = shard.views_alike(spec)
    rows, regions = views.rows, views.regions()
    counts.views.update(rows["kind"].tolist())
    for kind in np.unique(rows["kind"]):
        counts.regions[kind] += int(rows["regions"][rows["kind"] == kind].sum())
    category_ids = regions["category_id"]
    if len(category_ids) and not (category_ids.min() >= 0 and category_ids.max() < len(counts.by_class)):
        raise CorruptCacheError(f"{shard.tar}: a category_id is not in the vocabulary; {shard.remedy}")
    labels = TopKSoftLabels.of_regions(regions)
    counts.by_class += np.bincount(category_ids, minlength=len(counts.by_class))
    counts.agreeing += int((labels.class_ids[:, 0] == counts.text_row_C[category_ids]).sum())
    counts.entropy += float(label_entropies(labels).sum())
    counts.mass += float(np.exp(labels.log_probs.astype(np.float64)).sum())


def label_entropies(labels: TopKSoftLabels) -> NDArray[np.float64]:
    """[R] entropies in nats of the kept classes, with the rest as one more class: a lower bound of the full one."""
    log_probs = np.concatenate([labels.log_probs, labels.log_rest[:, None]], axis=1).astype(np.float64)
    probs = np.exp(log_probs)
    # p log p is 0 at p = 0, where log p is -inf.
    return -np.where(probs > 0, probs * np.where(probs > 0, log_probs, 0.0), 0.0).sum(axis=1)


def _class_counts(plan: Plan, by_class: NDArray[np.int64]) -> tuple[ClassCount, ...]:
    counts = zip(plan.vocabulary.class_names[NO_LABEL + 1 :], by_class[NO_LABEL + 1 :].tolist(), strict=True)
    return tuple(sorted((ClassCount(name, regions) for name, regions in counts), key=lambda item: -item.regions))


def _quarantine_reasons(layout: CacheLayout, shards: int) -> Counter[str]:
    reasons: Counter[str] = Counter()
    of_shards = map(layout.quarantine, range(shards))
    for found in map_small_files(layout.out, _reasons, (layout.listing_quarantine, *of_shards)):
        reasons.update(found)
    return reasons


def _reasons(path: Place) -> Counter[str]:
    try:
        return Counter(record["reason"] for record in read_quarantine(path))
    except FileNotFoundError:
        return Counter()


def _stage_seconds(cache: Cache, manifest: LabelManifest) -> dict[str, float]:
    """From the receipts of the labels; where a shard's pictures were made with them, those seconds are among them."""
    total: Counter[str] = Counter()
    shards = [cache.label_shard(manifest.name, summary.shard) for summary in manifest.shards]
    for receipt in map_small_files(cache.labels_layout.out, LabelShard.read_receipt, shards):
        total.update(receipt.seconds)
    return dict(total)


def _bytes_below(folder: Place) -> int:
    """Bytes of the regular files below a folder; links are not followed."""
    if isinstance(folder, RemotePath):
        return sum(folder.sizes_below().values())
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            status = os.lstat(os.path.join(parent, name))
            total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total


def statistics_table(statistics: CacheStatistics) -> Table:
    """All figures, in sections: identity, sizes, labels, classes, trouble."""
    table = Table(title=f"label set {statistics.label_set}", show_header=False, title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for section in (_identity_rows, _size_rows, _label_rows, _class_rows, _trouble_rows):
        for name, value in section(statistics):
            table.add_row(name, Text(printable_text(value)))
        table.add_section()
    return table


def _identity_rows(statistics: CacheStatistics) -> Iterator[tuple[str, str]]:
    plan, spec = statistics.plan, statistics.spec
    size = "the view's own size" if spec.region_encoder.teacher_size is None else f"{spec.region_encoder.teacher_size}"
    limit = f" of {plan.listed:,} listed" if plan.samples != plan.listed else ""
    yield "dataset", f"{plan.dataset}, {len(plan.vocabulary.class_names) - 1:,} classes of {plan.vocabulary.name}"
    shards = f"{plan.shards:,} shard{'s' * (plan.shards > 1)} of {plan.samples_per_shard:,}"
    yield "plan", f"{plan.samples:,} samples{limit} in {shards}"
    yield "seed", f"{plan.seed}"
    yield "pictures", "copied" if plan.pictures == "copy" else f"referenced, in {plan.root}"
    yield "teacher", f"{spec.teacher.name}, weights {spec.teacher.weights_sha256[:_FINGERPRINT_DIGITS]}"
    yield "region encoder", f"{spec.region_encoder.kind}, teacher size {size}, {spec.precision}"
    yield "text", f"{spec.text.classes:,} names ({spec.text.names}) in {spec.text.templates} templates"
    if spec.text.vocabulary != plan.vocabulary.name:
        yield "vocabulary of the text", spec.text.vocabulary
    if spec.temperature != 1:
        yield "temperature", f"{spec.temperature:g}"
    if spec.rescored_from is not None:
        yield "rescored from", f"labels {spec.rescored_from[:_FINGERPRINT_DIGITS]}"
    plan_shown, labels_shown = plan.fingerprint[:_FINGERPRINT_DIGITS], spec.fingerprint[:_FINGERPRINT_DIGITS]
    yield "fingerprints", f"plan {plan_shown}, labels {labels_shown}"


def _size_rows(statistics: CacheStatistics) -> Iterator[tuple[str, str]]:
    yield "pictures", f"{statistics.samples:,}: {readable_bytes(statistics.picture_bytes)}"
    yield "labels", readable_bytes(statistics.label_bytes)
    yield "index", readable_bytes(statistics.index_bytes)
    yield "everything in OUT", readable_bytes(statistics.total_bytes)
    yield "bytes a picture", f"{statistics.bytes_a_picture:,.0f}"
    yield "bytes a region", f"{statistics.bytes_a_region:,.0f} of labels"
    yield "for 1 million pictures", f"{readable_bytes(statistics.projected_bytes)} of pictures, labels and index"


def _noise(views: ViewsSpec) -> str:
    scales = " and ".join(f"{scale:g}" for scale in views.noise_scales)
    return f"{views.jitters} noised cop{'ies' if views.jitters > 1 else 'y'} of each box at {scales} half sides"


def _label_rows(statistics: CacheStatistics) -> Iterator[tuple[str, str]]:
    spec, regions = statistics.spec, sum(statistics.regions.values())
    has_none = spec.embeddings == "none"
    embeddings = "no embeddings" if has_none else f"embeddings of {spec.teacher.embed_dim} x {spec.embeddings}"
    yield "stored a region", f"top {spec.top_k} of {spec.text.classes:,} classes; {embeddings}"
    for kind, views in sorted(statistics.views.items()):
        passes = spec.views.passes[kind]
        shown = f"{passes} pass{'es' * (passes != 1)}: {views:,} views"
        noise = f", {_noise(spec.views)}" if kind in JITTERS_OF.values() else ""
        yield f"{kind} views", f"{shown}, {statistics.regions[kind]:,} regions{noise}"
    if regions:
        rest = f"top {spec.top_k} with the rest as one bucket"
        yield "label entropy", f"{statistics.mean_entropy:.3f} nats, mean over regions; {rest}"
        yield "captured mass", f"{statistics.mean_captured_mass:.1%}, mean over regions, in the top {spec.top_k}"
    if statistics.top1_agreement is not None:
        judged = f"{statistics.judged_regions:,} labelled regions"
        judged += " whose class the text has" * (statistics.judged_regions != statistics.labelled_regions)
        yield "top-1 is the hard label", f"{statistics.top1_agreement:.1%} of {judged}"


def _class_rows(statistics: CacheStatistics) -> Iterator[tuple[str, str]]:
    present = [item for item in statistics.class_counts if item.regions]
    unlabelled = sum(statistics.regions.values()) - statistics.labelled_regions
    yield "classes with regions", f"{len(present):,} of {len(statistics.class_counts):,}"
    yield "classes without", f"{len(statistics.class_counts) - len(present):,}"
    yield "regions without a label", f"{unlabelled:,} (category {NONE_NAME})"
    if present:
        yield "most frequent", _shown(present[:CLASSES_SHOWN])
        yield "least frequent", _shown(present[::-1][:CLASSES_SHOWN])


def _shown(counts: list[ClassCount]) -> str:
    return ", ".join(f"{item.name} {item.regions:,}" for item in counts)


def _trouble_rows(statistics: CacheStatistics) -> Iterator[tuple[str, str]]:
    yield "quarantined", f"{sum(count for _, count in statistics.quarantined):,}"
    for reason, count in statistics.quarantined[:REASONS_SHOWN]:
        yield f"  {count:,} time{'s' * (count > 1)}", reason
    if (more := len(statistics.quarantined) - REASONS_SHOWN) > 0:
        yield "  and", f"{more:,} other reasons"
    yield "last audit", audit_line(statistics.last_audit) if statistics.last_audit else "none"
    seconds = ", ".join(f"{stage} {value:,.1f}" for stage, value in statistics.seconds.items())
    yield "seconds by stage", f"{seconds}; summed over shards and threads"
