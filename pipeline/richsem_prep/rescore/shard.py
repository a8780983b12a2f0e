"""One shard of labels made anew from the embeddings of another: same views, same keys, no teacher, no picture."""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.cache.alike_views import AlikeViews, ShardViews
from richsem_schemas.cache.codec import npy_header
from richsem_schemas.cache.index import member_names, view_names
from richsem_schemas.cache.layout import LabelSetLayout
from richsem_schemas.cache.manifest import Environment, LabelSpec, LabelsReceipt, ShardSummary
from richsem_schemas.cache.shard import LabelShard
from richsem_schemas.cache.shard_writer import ShardWriter
from richsem_schemas.cache.soft_labels import TopKSoftLabels, class_log_probs, top_k_soft_labels
from richsem_schemas.cache.text_bank import TextBank
from richsem_schemas.cache.view import REGION_DTYPE
from richsem_schemas.errors import EmbeddingError

_REGIONS_AT_ONCE = 1024
"""Bounds the memory of one thread: so many rows of float64 probabilities."""


@dataclass(frozen=True, eq=False)
class Rescoring:
    """Source and target of a run, the same for all shards."""

    source: LabelSetLayout
    source_spec: LabelSpec
    target: LabelSetLayout
    spec: LabelSpec
    text: TextBank


def rescore_shard(shard: int, rescoring: Rescoring) -> LabelsReceipt:
    """Make one shard; its receipt last.

    Raises:
        CorruptCacheError: the source's shard is damaged.
        EmbeddingError: it holds embeddings that are not finite.
    """
    began = time.perf_counter()
    source = LabelShard(rescoring.source, shard).views_alike(rescoring.source_spec)
    read = time.perf_counter()
    packed = rescored_views(source, rescoring.spec, rescoring.text)
    scored = time.perf_counter()
    target = LabelShard(rescoring.target, shard)
    summary = _write_shard(target, source, packed)
    seconds = {"read": read - began, "score": scored - read, "write": time.perf_counter() - scored}
    receipt = LabelsReceipt(
        spec_fingerprint=rescoring.spec.fingerprint,
        summary=summary,
        seconds={stage: round(value, 3) for stage, value in seconds.items()},
        environment=Environment(device="cpu", torch_threads=1, versions={"numpy": np.__version__}),
    )
    receipt.write(target.receipt)
    return receipt


def rescored_views(source: ShardViews, spec: LabelSpec, text: TextBank) -> list[bytes]:
    """The packed views of a shard, in the order of its index, with labels alone."""
    packed: list[bytes] = [b""] * len(source.rows)
    for group in source.groups:
        for part in group.parts(_REGIONS_AT_ONCE):
            embeddings_RD = part.embeddings()
            _require_finite(embeddings_RD, part, source)
            labels = embedding_labels(embeddings_RD, spec, text)
            for number, data in zip(part.numbers.tolist(), _pack(part, labels, spec), strict=True):
                packed[number] = data
    return packed


def _require_finite(embeddings_RD: NDArray[np.float32], views: AlikeViews, source: ShardViews) -> None:
    is_finite_V = np.isfinite(embeddings_RD).reshape(len(views.numbers), -1).all(axis=1)
    if is_finite_V.all():
        return
    (bad,) = view_names(source.rows[views.numbers[~is_finite_V][:1]])
    raise EmbeddingError(
        f"shard {source.receipt.summary.shard}: the embeddings of {bad} are not finite; make the set that they come "
        f"from anew with `richsem-prep shard --overwrite` and another --precision than {source.spec.precision}"
    )


def embedding_labels(embeddings_RD: NDArray[np.float32], spec: LabelSpec, text: TextBank) -> TopKSoftLabels:
    """The soft labels that stored embeddings give with a text bank, at the spec's temperature and top-k."""
    scale = text.logit_scale / spec.temperature
    return top_k_soft_labels(class_log_probs(embeddings_RD, text.features, logit_scale=scale), top_k=spec.top_k)


def _pack(views: AlikeViews, labels: TopKSoftLabels, spec: LabelSpec) -> list[bytes]:
    dtype = spec.record_layout.record_dtype(views.tiles, views.regions)
    records: NDArray[np.void] = np.zeros(len(views.records), dtype)
    records["canvas_hw"], records["tiles"] = views.records["canvas_hw"], views.records["tiles"]
    regions = records["regions"]
    for name in REGION_DTYPE.names or ():
        regions[name] = views.records["regions"][name]
    for name in ("class_ids", "log_probs", "log_rest"):
        regions[name] = getattr(labels, name).reshape(regions[name].shape)
    header = npy_header(dtype)
    return [header + record.tobytes() for record in records]


def _write_shard(target: LabelShard, source: ShardViews, packed: list[bytes]) -> ShardSummary:
    rows = source.rows.copy()
    members: dict[str, dict[str, bytes]] = {}
    for key, member, data in zip(rows["key"].tolist(), member_names(rows), packed, strict=True):
        members.setdefault(key, {})[member] = data
    with ShardWriter(target) as writer:
        offsets = {key: writer.add(key, views) for key, views in members.items()}
        rows["offset"] = [
            offsets[key][member] for key, member in zip(rows["key"].tolist(), member_names(rows), strict=True)
        ]
        rows["size"] = [len(data) for data in packed]
        return writer.finish(rows, samples=source.receipt.summary.samples)
