"""One shard, from its plan to its receipt: read, decode, draw views, render, encode, pack, write.

The same task runs in this process or in a Ray actor. Decoding and rendering happen in threads ahead of the network,
packing in threads behind it; everything that decides bytes happens in order.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from richsem_prep.shard.loaded_pictures import LoadedPicture, PictureKeeper, load_cached, load_originals
from richsem_prep.shard.plan import planned_entries
from richsem_prep.shard.progress import Progress, ShardResult
from richsem_prep.shard.stage_clock import StageClock
from richsem_prep.sources.entry import PictureBoxes
from richsem_prep.teacher.batches import PreparedView
from richsem_prep.teacher.region_encoder import RegionEncoder
from richsem_schemas.cache.codec import pack_view, stored_embeddings
from richsem_schemas.cache.index import VIEW_ROW
from richsem_schemas.cache.layout import BLOCK_SAMPLES, CacheLayout, sample_key
from richsem_schemas.cache.manifest import Environment, LabelSpec, LabelsReceipt, Plan
from richsem_schemas.cache.recipes import AnnotatedPicture, block_views
from richsem_schemas.cache.render import render_view
from richsem_schemas.cache.shard import LabelShard, PictureShard
from richsem_schemas.cache.shard_writer import ShardWriter
from richsem_schemas.cache.soft_labels import TopKSoftLabels, top_k_soft_labels, unit_log_probs, unit_rows
from richsem_schemas.cache.text_bank import TextBank
from richsem_schemas.cache.view import View
from richsem_schemas.errors import EmbeddingError
from richsem_schemas.io.ordered_map import MAX_THREADS, ordered_map
from richsem_schemas.io.places import Place

_LOOKAHEAD_BATCHES = 2
"""Rendered views that may wait for the network, in its batches."""

_RANKED_AT_ONCE = 64
"""Regions that are packed together: enough that NumPy's loops outweigh Python's, few enough for many threads."""

_PACKED_AHEAD = 2 * MAX_THREADS
"""Packed pieces that may wait to be written."""

_FINITE_REMEDIES = {
    "fp16": "the teacher's numbers leave its range: begin the set anew with --overwrite --precision bf16 or fp32",
    "bf16": "begin the set anew with --overwrite --precision fp32, or get the teacher's weights again",
    "fp32": "the teacher's weights are damaged: get them again, or name another --teacher",
}
"""By precision, what to do about embeddings that are not finite."""


@dataclass(frozen=True, eq=False)
class ShardInputs:
    """Cache, label set and teacher's text of a run, the same for all shards.

    Attributes:
        root: where originals lie; None where the cache already holds every picture.
        decode_threads: threads ahead of the network.
        pictures: the cache that holds the pictures, where labels alone are made; None is this one.
    """

    layout: CacheLayout
    label_set: str
    plan: Plan
    spec: LabelSpec
    text: TextBank
    root: Place | None
    decode_threads: int
    environment: Environment
    pictures: CacheLayout | None = None

    @cached_property
    def text_units(self) -> NDArray[np.float64]:
        """The text's features [C, D], each of norm 1."""
        return unit_rows(self.text.features)


@dataclass(frozen=True, eq=False)
class BlockViews:
    """The views of a block, and what stays known of its pictures once all are rendered: their names by sample."""

    names: dict[int, str]
    views: list[View]


@dataclass(frozen=True, eq=False)
class Block:
    """The good ones of 64 planned samples, and the views that show them."""

    pictures: dict[int, LoadedPicture]
    shown: BlockViews


Features = list[NDArray[np.float32]]
"""Embeddings [R, D] of some views."""


def run_shard(number: int, inputs: ShardInputs, encoder: RegionEncoder, progress: Progress) -> ShardResult:
    """Make one shard of pictures, unless it is there, and one of labels; each with its receipt last.

    Raises:
        OSError: reading or writing failed; the shard can be tried again.
        EmbeddingError: the teacher gave embeddings that are not finite; nothing of the shard is written.
    """
    shard = PictureShard(inputs.pictures or inputs.layout, number)
    labels = LabelShard(inputs.layout.label_set(inputs.label_set), number)
    clock = StageClock()
    with ThreadPoolExecutor(inputs.decode_threads) as pool:
        task = LabelTask(labels, inputs, encoder, progress, clock, pool)
        if shard.receipt.is_file():
            boxes = cached_boxes(shard, inputs)
            receipt = task.write(load_cached(shard, boxes, inputs.root, clock, pool))
            pictures = shard.read_receipt().summary
        else:
            assert inputs.root is not None
            entries = planned_entries(inputs.layout, inputs.plan, number)
            keeper = PictureKeeper(shard, inputs.plan, entries, progress)
            loaded = load_originals(entries, inputs.root, inputs.plan.max_side, clock, pool)
            with ShardWriter(shard) as writer:
                receipt = task.write(keeper.keep(loaded, writer, clock))
                pictures = keeper.finish(writer, clock)
    receipt.write(labels.receipt)
    return ShardResult(receipt, pictures.quarantined, pictures.tar.bytes, clock.rounded())


def cached_boxes(shard: PictureShard, inputs: ShardInputs) -> dict[int, PictureBoxes | None]:
    """The annotated boxes of a shard's pictures by sample; none where views show no boxes."""
    if not inputs.spec.views.has_boxes:
        return {}
    entries = planned_entries(shard.layout, inputs.plan, shard.number)
    return {sample: entry.boxes for sample, entry in enumerate(entries)}


@dataclass(frozen=True, eq=False)
class LabelTask:
    """From the pictures of a shard to its labels; each step is a function of the step before."""

    shard: LabelShard
    inputs: ShardInputs
    encoder: RegionEncoder
    progress: Progress
    clock: StageClock
    pool: Executor

    def write(self, pictures: Iterable[LoadedPicture]) -> LabelsReceipt:
        """Draw, render, encode and pack all views; returns the receipt that makes them count, not yet written."""
        samples = 0
        rows: list[tuple] = []
        with ShardWriter(self.shard) as writer:
            for block, packed in self.packed(self.encoded(self.blocks(pictures))):
                samples += len(block.names)
                with self.clock("write"):
                    rows += self.write_block(block, packed, writer)
            with self.clock("write"):
                summary = writer.finish(np.array(rows, VIEW_ROW), samples=samples)
        return LabelsReceipt(
            spec_fingerprint=self.inputs.spec.fingerprint,
            summary=summary,
            seconds=self.clock.rounded(),
            environment=self.inputs.environment,
        )

    def blocks(self, pictures: Iterable[LoadedPicture]) -> Iterator[Block]:
        """Draw the views of each block as its pictures come in."""
        for number, group in groupby(pictures, key=lambda picture: picture.sample // BLOCK_SAMPLES):
            block = {picture.sample: picture for picture in group}
            views = block_views(
                [_annotated(picture) for picture in block.values()],
                self.inputs.spec.views,
                seed=self.inputs.plan.seed,
                shard=self.shard.number,
                first_sample=number * BLOCK_SAMPLES,
            )
            names = {sample: picture.name for sample, picture in block.items()}
            yield Block(block, BlockViews(names, list(views)))

    def encoded(self, blocks: Iterable[Block]) -> Iterator[tuple[BlockViews, Features]]:
        """Blocks with the embeddings of all their views, in order; one stream, whatever blocks there are."""
        shown = ((block, view) for block in blocks for view in block.shown.views)
        prepared = ordered_map(
            self.pool,
            self.prepare,
            shown,
            ahead=_LOOKAHEAD_BATCHES,
            weigh=lambda each: self.encoder.batches_of(each[1]),
        )
        waited = self.clock.each("wait", prepared, not_in="encode")
        encoded = self.clock.each("encode", self.encoder.encode(waited))
        for block, group in groupby(encoded, key=lambda item: item[0][0]):
            features = []
            for (_, view), features_RD in group:
                self.require_finite(features_RD, view, block)
                features.append(features_RD)
                self.progress.views += 1
            self.progress.samples += len(block.names)
            yield block, features

    def prepare(self, shown: tuple[Block, View]) -> tuple[tuple[BlockViews, View], PreparedView]:
        """Render a view, and make of it what the network takes; its pictures are let go."""
        block, view = shown
        with self.clock("render"):
            pictures = {sample: block.pictures[sample].picture() for sample in view.tiles["sample"].tolist()}
            prepared = self.encoder.prepare(render_view(view, pictures), view.regions["box_xyxy_px"])
            return (block.shown, view), prepared

    def require_finite(self, features_RD: NDArray[np.float32], view: View, block: BlockViews) -> None:
        """Check the embeddings of a view.

        Raises:
            EmbeddingError: some are not finite; names view and pictures.
        """
        is_finite_R = np.isfinite(features_RD).all(axis=1)
        if is_finite_R.all():
            return
        shown = view.tiles["sample"][np.unique(view.regions["tile"][~is_finite_R])]
        names = ", ".join(sorted({block.names[int(sample)] for sample in shown}))
        key = sample_key(self.shard.number, int(view.tiles["sample"][0]))
        precision = self.inputs.spec.precision
        raise EmbeddingError(
            f"{self.inputs.layout.shard_name(self.shard.number)}: {precision} embeddings of {key}.{view.member} "
            f"({names}) are not finite, so nothing of the shard is written; {_FINITE_REMEDIES[precision]}"
        )

    def packed(self, encoded: Iterable[tuple[BlockViews, Features]]) -> Iterator[tuple[BlockViews, list[bytes]]]:
        """Blocks with all their views as they stand in the tar, packed in threads while the network goes on."""
        pieces = (
            (block, piece)
            for block, features in encoded
            for piece in _pieces(list(zip(block.views, features, strict=True)))
        )
        packed = ordered_map(self.pool, lambda piece: (piece[0], self.pack(piece[1])), pieces, ahead=_PACKED_AHEAD)
        for block, group in groupby(packed, key=lambda piece: piece[0]):
            yield block, [view for _, views in group for view in views]

    def pack(self, encoded: list[tuple[View, NDArray[np.float32]]]) -> list[bytes]:
        """Views with their embeddings [R, D] and the soft labels that these give, as they stand in the tar."""
        spec = self.inputs.spec
        with self.clock("write"):
            stored = stored_embeddings(np.concatenate([features_RD for _, features_RD in encoded]), spec.embeddings)
            labels = self.soft_labels(stored)
            ends = np.cumsum([len(view.regions) for view, _ in encoded]).tolist()
            return [
                pack_view(view, features_RD, labels[end - len(view.regions) : end], spec.record_layout)
                for (view, features_RD), end in zip(encoded, ends, strict=True)
            ]

    def soft_labels(self, stored_RD: NDArray[np.float32]) -> TopKSoftLabels:
        """What embeddings as they are stored give, a bounded number of them at a time."""
        text_units_CD, logit_scale = self.inputs.text_units, self.inputs.text.logit_scale
        parts = [stored_RD[start : start + _RANKED_AT_ONCE] for start in range(0, len(stored_RD), _RANKED_AT_ONCE)]
        ranked = (
            unit_log_probs(unit_rows(part), text_units_CD, logit_scale=logit_scale) for part in parts or [stored_RD]
        )
        return TopKSoftLabels.joined([top_k_soft_labels(each, top_k=self.inputs.spec.top_k) for each in ranked])

    def write_block(self, block: BlockViews, packed: list[bytes], writer: ShardWriter) -> list[tuple]:
        """Append a block's views to the tar, grouped by the sample that anchors them; returns index rows."""
        members: dict[int, list[tuple[View, bytes]]] = {}
        for view, data in zip(block.views, packed, strict=True):
            members.setdefault(int(view.tiles["sample"][0]), []).append((view, data))
        rows = []
        for sample in sorted(members):
            key = sample_key(self.shard.number, sample)
            offsets = writer.add(key, {view.member: data for view, data in members[sample]})
            rows += [
                (key, sample, v.kind, v.pass_index, len(v.tiles), len(v.regions), offsets[v.member], len(data))
                for v, data in sorted(members[sample], key=lambda item: item[0].member)
            ]
        return rows


def _pieces(
    encoded: list[tuple[View, NDArray[np.float32]]],
) -> Iterator[list[tuple[View, NDArray[np.float32]]]]:
    """Cut the views of a block into pieces of about `_RANKED_AT_ONCE` regions."""
    starts = np.cumsum([0, *(len(view.regions) for view, _ in encoded[:-1])])
    for _, group in groupby(range(len(encoded)), key=lambda n: starts[n] // _RANKED_AT_ONCE):
        yield [encoded[n] for n in group]


def _annotated(picture: LoadedPicture) -> AnnotatedPicture:
    if picture.boxes is None:
        return AnnotatedPicture(picture.sample, picture.hw, picture.category_id)
    boxes_xyxy_px = picture.boxes.in_picture(picture.hw)
    return AnnotatedPicture(picture.sample, picture.hw, picture.category_id, boxes_xyxy_px, picture.boxes.rows)
