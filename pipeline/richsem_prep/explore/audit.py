"""`richsem-prep audit`: show random regions of a cache to the live teacher again, and compare."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import ArrayLike, NDArray

from richsem_prep.executors.worker import Worker
from richsem_prep.explore.audit_request import AuditRequest
from richsem_prep.explore.page import unreadable
from richsem_prep.teacher.batches import PreparedView
from richsem_prep.teacher.region_encoder import RegionEncoder
from richsem_prep.teacher.worker_settings import WorkerSettings
from richsem_schemas.cache.codec import LabelledView
from richsem_schemas.cache.field_types import Embeddings
from richsem_schemas.cache.index import view_names
from richsem_schemas.cache.layout import LabelSetLayout
from richsem_schemas.cache.manifest import AuditRecord, LabelManifest, LabelSpec, Spread
from richsem_schemas.cache.reader import Cache
from richsem_schemas.cache.record import require_same
from richsem_schemas.cache.render import render_view
from richsem_schemas.cache.soft_labels import TopKSoftLabels, class_log_probs
from richsem_schemas.cache.text_bank import TextBank
from richsem_schemas.cache.view_batch import ShardPictures
from richsem_schemas.errors import CorruptCacheError, RichSemError
from richsem_schemas.io.places import Place
from richsem_schemas.pictures.decode import decode_picture

MIN_COSINE: dict[Embeddings, float] = {"float16": 0.999, "int8": 0.99, "none": 0.0}
MAX_KL = 0.05
"""Bounds where the user names none. docs/trust.md has what they were chosen by."""

_LEAST_LOG_PROB = -1e4


@dataclass(frozen=True, eq=False)
class _AuditedView:
    name: str
    stored: LabelledView
    regions: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Agreement:
    """How far the chosen regions of a view are from what the live teacher says of them, and their names.

    Attributes:
        cosines: [R] of embeddings; empty where none are stored.
        kls: [R] nats.
        names: R.
    """

    cosines: NDArray[np.float64]
    kls: NDArray[np.float64]
    names: list[str]


def audit(
    cache: Cache,
    label_set: str,
    request: AuditRequest,
    *,
    device: str | None,
    root: Place | None,
    on_progress: Callable[[int, int], None],
) -> AuditRecord:
    """Recompute random regions of a label set from the cached pictures, compare, and record the outcome.

    Raises:
        ManifestMismatchError: the teacher is another one; names the fields that differ.
        CorruptCacheError: a file that is needed is damaged.
    """
    manifest = cache.label_sets[label_set]
    spec, layout = manifest.spec, cache.labels_layout.label_set(label_set)
    if not manifest.regions:
        raise RichSemError(
            f"label set {label_set!r} of {cache.labels_layout.out} has no regions; there is nothing to audit"
        )
    worker = _same_teacher(layout, spec, request.teacher, device)
    chosen = _choose(manifest, request)
    done, total, text = 0, sum(map(len, chosen.values())), cache.text_bank(label_set)
    found: list[_Agreement] = []
    for shard, positions in chosen.items():
        try:
            views = _audited_views(cache, manifest, shard, positions)
            prepared = _prepared(cache, shard, views, worker.encoder, root or cache.originals_root)
            for view, live_RD in worker.encoder.encode(prepared):
                found.append(_agreement(view, live_RD[view.regions], text, temperature=spec.temperature))
                done += len(view.regions)
                on_progress(done, total)
        except OSError as error:
            raise CorruptCacheError(unreadable(cache, error)) from error
    record = _record(manifest, request, found, shards=len(chosen), worker=worker)
    record.write(layout.audits / f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}.json")
    return record


def _same_teacher(label_set: LabelSetLayout, spec: LabelSpec, teacher: str, device: str | None) -> Worker:
    """A worker with the teacher that made the label set, seeing views as it did."""
    worker = Worker(
        WorkerSettings(
            teacher=teacher,
            region_encoder=spec.region_encoder.kind,
            teacher_size=spec.region_encoder.teacher_size,
            device=device,
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
    count = min(request.samples, int(ends[-1]))
    places = np.sort(np.random.default_rng(request.seed).choice(int(ends[-1]), count, replace=False))
    numbers = np.searchsorted(ends, places, side="right")
    return {
        manifest.shards[number].shard: places[numbers == number] - (ends[number] - manifest.shards[number].regions)
        for number in np.unique(numbers).tolist()
    }


def _audited_views(
    cache: Cache, manifest: LabelManifest, number: int, positions: NDArray[np.int64]
) -> list[_AuditedView]:
    """The views that hold the chosen regions of a shard, in order, checked."""
    shard, pictures = cache.label_shard(manifest.name, number), cache.picture_shard(number)
    rows = shard.rows()
    ends = np.cumsum(rows["regions"], dtype=np.int64)
    if not len(ends) or positions[-1] >= ends[-1]:
        raise CorruptCacheError(f"{shard.index}: has fewer regions than the manifest says; {shard.remedy}")
    owners = np.searchsorted(ends, positions, side="right")
    wanted = np.unique(owners)
    known = ShardPictures.of_rows(pictures.rows(), cache.manifest.plan)
    views = shard.sound_views(rows[wanted], known, manifest.spec)
    first = ends - rows["regions"]
    return [
        _AuditedView(name, view, positions[owners == owner] - first[owner])
        for owner, name, view in zip(wanted, view_names(rows[wanted]), views, strict=True)
    ]


def _prepared(
    cache: Cache, number: int, views: Iterable[_AuditedView], encoder: RegionEncoder, root: Place | None
) -> Iterator[tuple[_AuditedView, PreparedView]]:
    shard = cache.picture_shard(number)
    rows = shard.rows()
    for audited in views:
        view = audited.stored.view
        shown = shard.shown_by(view, rows, root=root)
        pictures = {sample: decode_picture(picture.data) for sample, picture in shown.items()}
        yield audited, encoder.prepare(render_view(view, pictures), view.regions["box_xyxy_px"])


def _agreement(view: _AuditedView, live_RD: NDArray[np.float32], text: TextBank, *, temperature: float) -> _Agreement:
    chosen, labels, embeddings = view.regions, view.stored.labels, view.stored.embeddings
    names = [f"{view.name}, region {number}" for number in chosen.tolist()]
    is_finite_R = np.isfinite(live_RD).all(axis=1)
    if not is_finite_R.all():
        raise RichSemError(
            f"the live teacher's embedding of {names[int(np.argmin(is_finite_R))]}, holds numbers that are not "
            "finite: it can't say the same; see whether the device or its driver is broken (--device cpu)"
        )
    live_RC = class_log_probs(live_RD, text.features, logit_scale=text.logit_scale / temperature)
    similar = np.zeros(0) if embeddings is None else cosines(embeddings[chosen], live_RD)
    return _Agreement(similar, kl_from_live(live_RC, labels[chosen]), names)


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
    manifest: LabelManifest, request: AuditRequest, found: Sequence[_Agreement], *, shards: int, worker: Worker
) -> AuditRecord:
    min_cosine = MIN_COSINE[manifest.spec.embeddings] if request.min_cosine is None else request.min_cosine
    max_kl = MAX_KL if request.max_kl is None else request.max_kl
    cosines_R = np.concatenate([view.cosines for view in found])
    kls_R = np.concatenate([view.kls for view in found])
    names = [name for view in found for name in view.names]
    description = worker.describe()
    return AuditRecord(
        label_set=manifest.name,
        spec_fingerprint=manifest.fingerprint,
        at=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        seed=request.seed,
        regions=len(kls_R),
        views=len(found),
        shards=shards,
        precision=description.precision,
        environment=description.environment,
        cosine=spread(cosines_R) if len(cosines_R) else None,
        kl=spread(kls_R),
        worst=names[int(np.argmax(kls_R))],
        min_cosine=min_cosine,
        max_kl=max_kl,
        passed=bool(kls_R.max() <= max_kl and cosines_R.min(initial=1.0) >= min_cosine),
    )


def spread(values: ArrayLike) -> Spread:
    """How one or more values are spread."""
    array = np.asarray(values, np.float64)
    low, middle, high = np.percentile(array, (1, 50, 99)).tolist()
    return Spread(
        lowest=float(array.min()), percentile_1=low, median=middle, mean=float(array.mean()), percentile_99=high,
        highest=float(array.max()),
    )  # fmt: skip
