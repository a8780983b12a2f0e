"""`richsem-prep audit`: show random regions of a cache to the live teacher again, and compare."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from richsem_prep.executors.worker import Worker
from richsem_prep.explore.page import unreadable
from richsem_prep.teacher.region_encoder import PreparedView, RegionEncoder
from richsem_prep.teacher.settings import Precision, WorkerSettings
from richsem_schemas.cache.codec import LabelledView
from richsem_schemas.cache.index import ViewRow
from richsem_schemas.cache.layout import LabelSetLayout
from richsem_schemas.cache.manifest import AuditRecord, LabelManifest, LabelSpec, Spread, require_same
from richsem_schemas.cache.reader import Cache, picture_rows, read_pictures, read_views, view_rows
from richsem_schemas.cache.render import render_view
from richsem_schemas.cache.soft_labels import TopKSoftLabels, class_log_probs
from richsem_schemas.cache.text_bank import TextBank
from richsem_schemas.cache.values import Embeddings
from richsem_schemas.cache.view_checks import ShardPictures, ViewBatch, view_problems
from richsem_schemas.errors import CorruptCacheError, RichSemError
from richsem_schemas.io.places import Place, open_place
from richsem_schemas.pictures.decode import decode_picture

MIN_COSINE: dict[Embeddings, float] = {"float16": 0.999, "int8": 0.99, "none": 0.0}
MAX_KL = 0.05
"""Bounds where the user names none. docs/trust.md has what they were chosen by."""

_LEAST_LOG_PROB = -1e4


@dataclass(frozen=True)
class AuditRequest:
    """What the user asks for.

    Attributes:
        teacher: as `--teacher` takes it.
        regions: how many to show to the teacher again; all where the set has fewer.
        seed: of the choice.
        min_cosine: fail below; None is the default for the set's embeddings.
        max_kl: fail above, nats; likewise.
        device: as torch writes it; None is the first CUDA device if there is one.
        root: where originals lie, for caches that refer to them; None is where the plan says.
    """

    teacher: str
    regions: int
    seed: int
    min_cosine: float | None
    max_kl: float | None
    device: str | None
    root: Place | None


@dataclass(eq=False)
class _Found:
    """What was measured so far, a value a region."""

    cosines: list[float] = field(default_factory=list)
    kls: list[float] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    views: int = 0


def audit(cache: Cache, labels: str, request: AuditRequest, *, on_progress: Callable[[int, int], None]) -> AuditRecord:
    """Recompute random regions of a label set from the cached pictures, compare, and record the outcome.

    Args:
        cache: a finished cache.
        labels: name of a finished label set.
        request: what to do.
        on_progress: called with regions done and regions in all.

    Raises:
        ManifestMismatchError: the teacher is another one; names the fields that differ.
        CorruptCacheError: a file that is needed is damaged.
    """
    manifest = cache.label_sets[labels]
    spec, label_set = manifest.spec, cache.labels_layout.label_set(labels)
    if not manifest.regions:
        raise RichSemError(
            f"label set {labels!r} of {cache.labels_layout.out} has no regions; there is nothing to audit"
        )
    worker = _same_teacher(label_set, spec, request)
    chosen = _choose(manifest, request)
    total = sum(map(len, chosen.values()))
    found = _Found()
    live_views = _Live(cache, labels, cache.text_bank(labels), request.root, worker.encoder)
    for shard, positions in chosen.items():
        try:
            for seen in live_views.of_shard(shard, positions):
                _compare(seen, live_views.text, found, temperature=spec.temperature)
                on_progress(len(found.kls), total)
        except OSError as error:
            raise CorruptCacheError(unreadable(cache, error)) from error
    record = _record(manifest, request, found, shards=len(chosen), worker=worker)
    record.write(label_set.audits / f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}.json")
    return record


def _same_teacher(label_set: LabelSetLayout, spec: LabelSpec, request: AuditRequest) -> Worker:
    """A worker with the teacher that made the label set, seeing views as it did.

    Raises:
        ManifestMismatchError: it is another one.
    """
    worker = Worker(
        WorkerSettings(
            teacher=request.teacher,
            region_encoder=spec.region_encoder.kind,
            teacher_size=spec.region_encoder.teacher_size,
            device=request.device,
            precision=None,
            decode_threads=1,
        )
    )
    identity = worker.describe().teacher
    remedy = "Audit with the teacher that made the set; for another one make a label set of its own"
    # A file may have moved: the weights' hash says whether it is the same.
    require_same(label_set.spec, spec.teacher, identity, ignore=frozenset({"name"}), remedy=remedy)
    return worker


def _choose(manifest: LabelManifest, request: AuditRequest) -> dict[int, NDArray[np.int64]]:
    """Ascending positions of the chosen regions by shard."""
    ends = np.cumsum([summary.regions for summary in manifest.shards])
    count = min(request.regions, int(ends[-1]))
    places = np.sort(np.random.default_rng(request.seed).choice(int(ends[-1]), count, replace=False))
    numbers = np.searchsorted(ends, places, side="right")
    return {
        manifest.shards[number].shard: places[numbers == number] - (ends[number] - manifest.shards[number].regions)
        for number in np.unique(numbers).tolist()
    }


@dataclass(frozen=True, eq=False)
class _Seen:
    """A view as it stands in the cache, the chosen ones of its regions, and its embeddings [R, D] of those."""

    row: ViewRow
    stored: LabelledView
    regions: NDArray[np.int64]
    live: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class _Live:
    """Shows views to the live teacher."""

    cache: Cache
    labels: str
    text: TextBank
    root: Place | None
    encoder: RegionEncoder

    def of_shard(self, shard: int, positions: NDArray[np.int64]) -> Iterator[_Seen]:
        """The views that hold the chosen regions of a shard, in order."""
        rows = view_rows(self.cache.labels_layout, self.labels, shard)
        ends = np.cumsum([row.regions for row in rows])
        owners = np.searchsorted(ends, positions, side="right")
        if not len(ends) or owners.max() >= len(rows):
            path = self.cache.labels_layout.label_set(self.labels).index(shard)
            raise CorruptCacheError(f"{path}: has fewer regions than the manifest says; {self._remedy}")
        wanted = {
            int(owner): positions[owners == owner] - (ends[owner] - rows[owner].regions) for owner in np.unique(owners)
        }
        under_way: deque[tuple[ViewRow, LabelledView, NDArray[np.int64]]] = deque()
        prepared = self._prepared(shard, [(rows[owner], regions) for owner, regions in wanted.items()], under_way)
        for features_RD in self.encoder.encode(prepared):
            row, stored, regions = under_way.popleft()
            yield _Seen(row, stored, regions, features_RD[regions])

    def _prepared(
        self,
        shard: int,
        wanted: Sequence[tuple[ViewRow, NDArray[np.int64]]],
        under_way: deque[tuple[ViewRow, LabelledView, NDArray[np.int64]]],
    ) -> Iterator[PreparedView]:
        layout = self.cache.layout
        pictures = picture_rows(layout, shard)
        by_sample = {row.sample: row for row in pictures}
        known = ShardPictures.of(pictures, self.cache.manifest.plan)
        views = read_views(self.cache.labels_layout, self.labels, shard, [row for row, _ in wanted])
        for (row, regions), stored in zip(wanted, views, strict=True):
            self._require_sound(shard, row, stored, known)
            samples = dict.fromkeys(stored.view.tiles["sample"].tolist())
            originals = read_pictures(layout, shard, [by_sample[sample] for sample in samples], root=self._root)
            shown = {item.row.sample: decode_picture(item.data) for item in originals}
            under_way.append((row, stored, regions))
            yield self.encoder.prepare(render_view(stored.view, shown), stored.view.regions["box_xyxy_px"])

    def _require_sound(self, shard: int, row: ViewRow, stored: LabelledView, pictures: ShardPictures) -> None:
        spec = self.cache.label_sets[self.labels].spec
        problems = list(view_problems(ViewBatch.of([(f"{row.key}.{row.member}", stored)]), pictures, spec))
        if len(stored.view.regions) != row.regions:
            problems.append(f"{row.key}.{row.member}: has other regions than the index says")
        if problems:
            path = self.cache.labels_layout.label_set(self.labels).tar(shard)
            raise CorruptCacheError(f"{path}: {problems[0]}; {self._remedy}")

    @property
    def _root(self) -> Place | None:
        said = self.cache.manifest.plan.root
        return self.root or (open_place(said) if said else None)

    @property
    def _remedy(self) -> str:
        return f"run `richsem-prep verify {self.cache.labels_layout.out}`"


def _compare(seen: _Seen, text: TextBank, found: _Found, *, temperature: float) -> None:
    chosen, labels = seen.regions, seen.stored.labels
    kept = TopKSoftLabels(labels.class_ids[chosen], labels.log_probs[chosen], labels.log_rest[chosen])
    if not np.isfinite(seen.live).all():
        number = int(chosen[np.flatnonzero(~np.isfinite(seen.live).all(axis=1))[0]])
        raise RichSemError(
            f"the live teacher's embedding of {seen.row.key}.{seen.row.member}, region {number}, holds numbers that "
            "are not finite: it can't say the same; see whether the device or its driver is broken (--device cpu)"
        )
    live_RC = class_log_probs(seen.live, text.features, logit_scale=text.logit_scale / temperature)
    found.kls += kl_from_live(live_RC, kept).tolist()
    if seen.stored.embeddings is not None:
        found.cosines += cosines(seen.stored.embeddings[chosen], seen.live).tolist()
    found.names += [f"{seen.row.key}.{seen.row.member}, region {number}" for number in chosen.tolist()]
    found.views += 1


def cosines(stored_RD: NDArray[np.float32], live_RD: NDArray[np.float32]) -> NDArray[np.float64]:
    """[R] cosines of two embeddings each; 0 where one has no length."""
    a, b = stored_RD.astype(np.float64), live_RD.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny))


def kl_from_live(live_log_probs_RC: NDArray[np.float64], stored: TopKSoftLabels) -> NDArray[np.float64]:
    """[R] KL(live ‖ stored) in nats, over the K stored classes and one more that holds all others.

    With the rest as one class it is a lower bound of the KL over all classes. Stored probabilities sum to one within
    1e-3 only, so what they have more or less is added, which keeps the KL from falling below 0.
    """
    class_ids_RK = stored.class_ids.astype(np.int64)
    live_RK = np.take_along_axis(live_log_probs_RC, class_ids_RK, axis=1)
    left_out_RC = np.exp(live_log_probs_RC)
    np.put_along_axis(left_out_RC, class_ids_RK, 0.0, axis=1)
    rest_R1 = left_out_RC.sum(axis=1, keepdims=True)
    live = np.concatenate([np.exp(live_RK), rest_R1], axis=1)
    with np.errstate(divide="ignore"):
        log_live = np.concatenate([live_RK, np.log(rest_R1)], axis=1)
    log_stored = np.concatenate([stored.log_probs, stored.log_rest[:, None]], axis=1, dtype=np.float64)
    # Where a side is empty its logarithm is -inf; 0 log 0 is 0.
    differences = np.maximum(log_live, _LEAST_LOG_PROB) - np.maximum(log_stored, _LEAST_LOG_PROB)
    return np.asarray((live * differences + np.exp(log_stored) - live).sum(axis=1))


def _record(
    manifest: LabelManifest, request: AuditRequest, found: _Found, *, shards: int, worker: Worker
) -> AuditRecord:
    kind = manifest.spec.embeddings
    min_cosine = MIN_COSINE[kind] if request.min_cosine is None else request.min_cosine
    max_kl = MAX_KL if request.max_kl is None else request.max_kl
    description = worker.describe()
    precision: Precision = description.precision
    return AuditRecord(
        labels=manifest.name,
        spec_fingerprint=manifest.fingerprint,
        at=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        seed=request.seed,
        regions=len(found.kls),
        views=found.views,
        shards=shards,
        precision=precision,
        environment=description.environment,
        cosine=spread(found.cosines) if found.cosines else None,
        kl=spread(found.kls),
        worst=found.names[int(np.argmax(found.kls))],
        min_cosine=min_cosine,
        max_kl=max_kl,
        passed=max(found.kls) <= max_kl and min(found.cosines, default=1.0) >= min_cosine,
    )


def spread(values: Sequence[float]) -> Spread:
    """How one or more values are spread."""
    array = np.array(values, np.float64)
    low, middle, high = np.percentile(array, (1, 50, 99)).tolist()
    return Spread(
        lowest=float(array.min()), percentile_1=low, median=middle, mean=float(array.mean()), percentile_99=high,
        highest=float(array.max()),
    )  # fmt: skip
