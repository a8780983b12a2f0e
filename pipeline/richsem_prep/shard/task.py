"""One shard, from its plan to its receipt: read, decode, draw views, render, encode, pack, write.

The same task runs in this process or in a Ray actor. Decoding and rendering happen in threads ahead of the network;
everything that decides bytes happens in order.
"""

import io
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from richsem_prep.shard.plan import planned_entries
from richsem_prep.shard.progress import Progress
from richsem_prep.shard.writer import ShardTar, open_tar, write_index
from richsem_prep.sources import PictureBoxes, SourceEntry, read_entry
from richsem_prep.teacher.region_encoder import PreparedView, RegionEncoder
from richsem_schemas.cache.codec import pack_view, stored_embeddings
from richsem_schemas.cache.index import PICTURE_COLUMNS, VIEW_COLUMNS, PictureRow
from richsem_schemas.cache.layout import BLOCK_SAMPLES, CacheLayout, sample_key
from richsem_schemas.cache.manifest import Environment, LabelSpec, LabelsReceipt, PicturesReceipt, Plan, ShardSummary
from richsem_schemas.cache.reader import picture_rows, read_pictures
from richsem_schemas.cache.recipes import Sample, block_views
from richsem_schemas.cache.render import render_view
from richsem_schemas.cache.soft_labels import class_log_probs, top_k_soft_labels
from richsem_schemas.cache.text_bank import TextBank
from richsem_schemas.cache.view import View
from richsem_schemas.errors import CorruptCacheError, EmbeddingError, PictureError
from richsem_schemas.io.canonical_json import canonical_json
from richsem_schemas.io.files import FileHash, hash_bytes, hashed_file, read_file
from richsem_schemas.io.ordered_map import ordered_map
from richsem_schemas.io.places import Place
from richsem_schemas.pictures.decode import decode_picture, picture_extension

STAGES = ("read", "decode", "render", "encode", "write", "wait")
"""Stages whose seconds are counted; read, decode and render run in threads, `wait` is the network's for them."""

_KEPT_PIXELS = 4 * 2**20
"""Larger pictures are decoded again for each view rather than held, so that a block's memory is bounded."""

_JPEG_QUALITY = 95

_LOOKAHEAD = 16
"""Rendered views that may wait for the network."""


_FINITE_REMEDIES = {
    "fp16": "the teacher's numbers leave its range: begin the set anew with --overwrite --precision bf16 or fp32",
    "bf16": "begin the set anew with --overwrite --precision fp32, or get the teacher's weights again",
    "fp32": "the teacher's weights are damaged: get them again, or name another --teacher",
}
"""By precision, what to do about embeddings that are not finite."""


@dataclass(frozen=True, eq=False)
class ShardInputs:
    """What is the same for all shards of a run.

    Attributes:
        layout: the cache.
        labels: name of the label set.
        plan: of the cache.
        spec: of the label set.
        text: its text bank.
        root: where originals lie; None where the cache already holds every picture.
        decode_threads: threads ahead of the network.
        environment: recorded with each shard.
        pictures: the cache that holds the pictures, where labels alone are made; None is this one.
    """

    layout: CacheLayout
    labels: str
    plan: Plan
    spec: LabelSpec
    text: TextBank
    root: Place | None
    decode_threads: int
    environment: Environment
    pictures: CacheLayout | None = None

    @property
    def picture_layout(self) -> CacheLayout:
        """The cache that holds the pictures."""
        return self.pictures or self.layout


@dataclass(frozen=True)
class ShardResult:
    """What came of a shard, for the summary.

    Attributes:
        receipt: of its labels.
        quarantined: samples left out.
        picture_bytes: bytes of the pictures' tar.
        seconds: by stage, thread-seconds for those in threads.
    """

    receipt: LabelsReceipt
    quarantined: int
    picture_bytes: int
    seconds: dict[str, float]


@dataclass(frozen=True, eq=False, slots=True)
class LoadedPicture:
    """A good sample: its bytes as they are cached, and its pixels unless they are too many to hold."""

    sample: int
    name: str
    category_id: int
    entry: SourceEntry | None
    data: bytes
    extension: str
    hw: tuple[int, int]
    pixels: Image.Image | None
    boxes: PictureBoxes | None

    def picture(self) -> Image.Image:
        """The decoded picture."""
        return self.pixels if self.pixels is not None else decode_picture(self.data)


@dataclass(frozen=True, slots=True)
class BadPicture:
    """A sample that is quarantined."""

    sample: int
    name: str
    reason: str


@dataclass(eq=False)
class _Block:
    """64 planned samples on their way through."""

    pictures: dict[int, LoadedPicture]
    views: list[View]
    features: list[NDArray[np.float32]] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every view has met the teacher."""
        return len(self.features) == len(self.views)


class StageClock:
    """Seconds by stage, summed over threads."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._lock = Lock()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count the block's seconds."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - start)

    def add(self, stage: str, seconds: float) -> None:
        """Count seconds that were measured elsewhere."""
        with self._lock:
            self.seconds[stage] += seconds

    def rounded(self) -> dict[str, float]:
        """For receipts."""
        return {stage: round(self.seconds[stage], 3) for stage in STAGES}


def run_shard(shard: int, inputs: ShardInputs, encoder: RegionEncoder, progress: Progress) -> ShardResult:
    """Make one shard of pictures, unless it is there, and one of labels; each with its receipt last.

    Raises:
        OSError: reading or writing failed; the shard can be tried again.
        EmbeddingError: the teacher gave embeddings that are not finite; nothing of the shard is written.
    """
    clock = StageClock()
    layout = inputs.layout
    with ThreadPoolExecutor(inputs.decode_threads) as pool:
        task = _ShardTask(shard, inputs, encoder, progress, clock, pool)
        if inputs.picture_layout.pictures_receipt(shard).is_file():
            receipt = task.write_labels(task.load_cached())
        else:
            with _keep_pictures(shard, inputs, progress, clock) as keep:
                receipt = task.write_labels(keep(task.load_originals()))
    receipt.write(layout.label_set(inputs.labels).receipt(shard))
    pictures = PicturesReceipt.read(inputs.picture_layout.pictures_receipt(shard)).summary
    return ShardResult(receipt, pictures.quarantined, pictures.tar.bytes, clock.rounded())


@dataclass(frozen=True, eq=False)
class _ShardTask:
    """The stages of one shard."""

    shard: int
    inputs: ShardInputs
    encoder: RegionEncoder
    progress: Progress
    clock: StageClock
    pool: ThreadPoolExecutor

    def load_originals(self) -> Iterator[LoadedPicture | BadPicture]:
        """Read and decode the raw pictures of the shard, in order."""
        entries = planned_entries(self.inputs.layout, self.inputs.plan, self.shard)
        return ordered_map(self.pool, self._load_original, list(enumerate(entries)), ahead=BLOCK_SAMPLES)

    def _load_original(self, numbered: tuple[int, SourceEntry]) -> LoadedPicture | BadPicture:
        sample, entry = numbered
        assert self.inputs.root is not None
        try:
            with self.clock("read"):
                data = read_entry(self.inputs.root, entry)
            with self.clock("decode"):
                extension = picture_extension(data)
                picture = decode_picture(data)
                _require_annotated_size(entry, picture)
                if self.inputs.plan.max_side and max(picture.size) > self.inputs.plan.max_side:
                    data, extension = shrunk(picture, self.inputs.plan.max_side), "jpg"
                    picture = decode_picture(data)
        except PictureError as error:
            return BadPicture(sample, entry.name, str(error))
        return _loaded(sample, entry.name, entry.category_id, entry, data, extension, picture, entry.boxes)

    def load_cached(self) -> Iterator[LoadedPicture]:
        """Read and decode the shard's cached pictures, in order."""
        self._require_intact_index()
        rows = picture_rows(self.inputs.picture_layout, self.shard)
        boxes: dict[int, PictureBoxes | None] = {}
        if self.inputs.spec.views.has_boxes:
            entries = planned_entries(self.inputs.picture_layout, self.inputs.plan, self.shard)
            boxes = {sample: entry.boxes for sample, entry in enumerate(entries)}
        return ordered_map(
            self.pool, lambda row: self._load_cached(row, boxes.get(row.sample)), rows, ahead=BLOCK_SAMPLES
        )

    def _require_intact_index(self) -> None:
        layout = self.inputs.picture_layout
        index, receipt = layout.pictures_index(self.shard), layout.pictures_receipt(self.shard)
        if hash_bytes(read_file(index)) != PicturesReceipt.read(receipt).summary.index:
            raise CorruptCacheError(
                f"{index}: its bytes don't match {receipt}; delete that receipt and run the same command again, "
                "which makes the shard anew"
            )

    def _load_cached(self, row: PictureRow, boxes: PictureBoxes | None) -> LoadedPicture:
        with self.clock("read"):
            (stored,) = read_pictures(self.inputs.picture_layout, self.shard, [row], root=self.inputs.root)
        with self.clock("decode"):
            picture = decode_picture(stored.data)
        return _loaded(row.sample, row.name, row.category_id, None, stored.data, row.extension, picture, boxes)

    def write_labels(self, loaded: Iterator[LoadedPicture]) -> LabelsReceipt:
        """Draw, render, encode and pack all views; returns the receipt that makes them count."""
        labels = self.inputs.layout.label_set(self.inputs.labels)
        rows: list[tuple] = []
        samples: set[int] = set()
        with open_tar(labels.tar(self.shard)) as (tar, file):
            for block in self._encoded_blocks(loaded):
                with self.clock("write"):
                    samples.update(block.pictures)
                    rows += self._pack_block(block, tar)
        with self.clock("write"):
            index = write_index(labels.index(self.shard), rows, VIEW_COLUMNS)
        summary = ShardSummary(
            shard=self.shard,
            samples=len(samples),
            views=len(rows),
            regions=sum(row[5] for row in rows),
            tar=file.hash(),
            index=index,
        )
        return LabelsReceipt(
            spec_fingerprint=self.inputs.spec.fingerprint,
            summary=summary,
            seconds=self.clock.rounded(),
            environment=self.inputs.environment,
        )

    def _encoded_blocks(self, loaded: Iterator[LoadedPicture]) -> Iterator[_Block]:
        """Blocks with the features of all their views, in order."""
        under_way: deque[_Block] = deque()
        waited = 0.0

        def prepared_views() -> Iterator[PreparedView]:
            nonlocal waited
            source = ordered_map(self.pool, self._prepare, self._views(loaded, under_way), ahead=_LOOKAHEAD)
            while True:
                start = time.perf_counter()
                prepared = next(source, None)
                waited += time.perf_counter() - start
                if prepared is None:
                    return
                yield prepared

        features = self.encoder.encode(prepared_views())
        while True:
            start, waited = time.perf_counter(), 0.0
            view_features = next(features, None)
            self.clock.add("wait", waited)
            self.clock.add("encode", time.perf_counter() - start - waited)
            if view_features is None:
                break
            self._hand_over(view_features, under_way)
            while under_way and under_way[0].complete:
                yield under_way.popleft()
        yield from under_way

    def _hand_over(self, features_RD: NDArray[np.float32], under_way: deque[_Block]) -> None:
        block = next(block for block in under_way if not block.complete)
        self._require_finite(features_RD, block)
        block.features.append(features_RD)
        self.progress.views += 1

    def _require_finite(self, features_RD: NDArray[np.float32], block: _Block) -> None:
        """Check the embeddings of a block's next view."""
        is_finite_R = np.isfinite(features_RD).all(axis=1)
        if is_finite_R.all():
            return
        view = block.views[len(block.features)]
        shown = view.tiles["sample"][np.unique(view.regions["tile"][~is_finite_R])]
        names = ", ".join(sorted({block.pictures[int(sample)].name for sample in shown}))
        key = sample_key(self.shard, int(view.tiles["sample"][0]))
        precision = self.inputs.spec.precision
        raise EmbeddingError(
            f"{self.inputs.layout.shard_name(self.shard)}: {precision} embeddings of {key}.{view.member} ({names}) are "
            f"not finite, so nothing of the shard is written; {_FINITE_REMEDIES[precision]}"
        )

    def _views(
        self, loaded: Iterator[LoadedPicture], under_way: deque[_Block]
    ) -> Iterator[tuple[View, dict[int, LoadedPicture]]]:
        """Views of each block as its pictures come in."""
        for number, group in groupby(loaded, key=lambda picture: picture.sample // BLOCK_SAMPLES):
            pictures = {picture.sample: picture for picture in group}
            samples = [_sample(picture) for picture in pictures.values()]
            views = list(
                block_views(
                    samples,
                    self.inputs.spec.views,
                    seed=self.inputs.plan.seed,
                    shard=self.shard,
                    first_sample=number * BLOCK_SAMPLES,
                )
            )
            under_way.append(_Block(pictures, views))
            for view in views:
                yield view, pictures

    def _prepare(self, item: tuple[View, dict[int, LoadedPicture]]) -> PreparedView:
        view, pictures = item
        with self.clock("render"):
            shown = {int(sample): pictures[int(sample)].picture() for sample in view.tiles["sample"]}
            return self.encoder.prepare(render_view(view, shown), view.regions["box_xyxy_px"])

    def _pack_block(self, block: _Block, tar: ShardTar) -> list[tuple]:
        """Append a block's views to the tar, grouped by the sample that anchors them; returns index rows."""
        spec, text = self.inputs.spec, self.inputs.text
        self.progress.samples += len(block.pictures)
        if not block.views:
            return []
        stored = stored_embeddings(np.concatenate(block.features), spec.embeddings)
        log_probs = class_log_probs(stored, text.features, logit_scale=text.logit_scale)
        rows = []
        members: dict[int, list[tuple[View, bytes]]] = {}
        start = 0
        for view, features in zip(block.views, block.features, strict=True):
            part = slice(start, start + len(view.regions))
            start = part.stop
            labels = top_k_soft_labels(log_probs[part], top_k=spec.top_k)
            packed = pack_view(view, features, labels, spec.record_layout)
            members.setdefault(int(view.tiles["sample"][0]), []).append((view, packed))
        for sample in sorted(members):
            key = sample_key(self.shard, sample)
            offsets = tar.add(key, {view.member: packed for view, packed in members[sample]})
            rows += [
                (key, sample, v.kind, v.pass_index, len(v.tiles), len(v.regions), offsets[v.member], len(packed))
                for v, packed in sorted(members[sample], key=lambda item: item[0].member)
            ]
        return rows


def _loaded(
    sample: int,
    name: str,
    category_id: int,
    entry: SourceEntry | None,
    data: bytes,
    extension: str,
    picture: Image.Image,
    boxes: PictureBoxes | None,
) -> LoadedPicture:
    pixels = picture if picture.width * picture.height <= _KEPT_PIXELS else None
    hw = (picture.height, picture.width)
    return LoadedPicture(sample, name, category_id, entry, data, extension, hw, pixels, boxes)


def _require_annotated_size(entry: SourceEntry, picture: Image.Image) -> None:
    """Check that a picture is what its boxes were drawn on.

    Raises:
        PictureError: it has another size.
    """
    annotated_hw = entry.boxes.hw if entry.boxes is not None else None
    if annotated_hw not in (None, (picture.height, picture.width)):
        height, width = annotated_hw
        raise PictureError(
            f"is {picture.height} high and {picture.width} wide, its annotations say {height} and {width}; boxes hold "
            "for pictures of the annotated size, upright as EXIF has it"
        )


def _sample(picture: LoadedPicture) -> Sample:
    if picture.boxes is None:
        return Sample(picture.sample, picture.hw, picture.category_id)
    boxes_xyxy_px = picture.boxes.in_picture(picture.hw)
    return Sample(picture.sample, picture.hw, picture.category_id, boxes_xyxy_px, picture.boxes.rows)


def shrunk(picture: Image.Image, max_side: int) -> bytes:
    """The picture as a JPEG whose longer side is `max_side`."""
    ratio = max_side / max(picture.size)
    size = (max(round(picture.width * ratio), 1), max(round(picture.height * ratio), 1))
    buffer = io.BytesIO()
    picture.resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


Keep = Callable[[Iterator[LoadedPicture | BadPicture]], Iterator[LoadedPicture]]


@contextmanager
def _keep_pictures(shard: int, inputs: ShardInputs, progress: Progress, clock: StageClock) -> Iterator[Keep]:
    """A filter that writes the good pictures that pass through it to a shard, and sets the bad ones aside."""
    layout = inputs.layout
    rows: list[tuple] = []
    bad: list[BadPicture] = []
    with open_tar(layout.pictures_tar(shard)) as (tar, file):

        def keep(loaded: Iterator[LoadedPicture | BadPicture]) -> Iterator[LoadedPicture]:
            for item in loaded:
                if isinstance(item, BadPicture):
                    bad.append(item)
                    progress.quarantined += 1
                    progress.samples += 1
                else:
                    with clock("write"):
                        rows.append(_write_picture(shard, item, inputs.plan, tar))
                    yield item

        yield keep
    PicturesReceipt(
        plan_fingerprint=inputs.plan.fingerprint,
        summary=ShardSummary(
            shard=shard,
            samples=len(rows),
            quarantined=len(bad),
            tar=file.hash(),
            index=write_index(layout.pictures_index(shard), rows, PICTURE_COLUMNS),
        ),
        quarantine=_write_quarantine(shard, layout, bad),
        seconds={stage: seconds for stage, seconds in clock.rounded().items() if stage in {"read", "decode"}},
    ).write(layout.pictures_receipt(shard))


def _write_picture(shard: int, picture: LoadedPicture, plan: Plan, tar: ShardTar) -> tuple:
    key = sample_key(shard, picture.sample)
    sidecar: dict[str, Any] = {
        "name": picture.name,
        "category_id": picture.category_id,
        "category": plan.vocabulary.class_names[picture.category_id],
        "height": picture.hw[0],
        "width": picture.hw[1],
        "sha256": hash_bytes(picture.data).sha256,
    }
    copied = plan.pictures == "copy"
    assert picture.entry is not None
    sidecar |= annotated_fields(picture.entry)
    if not copied:
        sidecar["original"] = picture.entry.original.to_json()
    json_data = canonical_json(sidecar)
    members = {"json": json_data} | ({picture.extension: picture.data} if copied else {})
    offsets = tar.add(key, members)
    offset = offsets[picture.extension] if copied else -1
    return (
        key, picture.sample, picture.category_id, picture.name, picture.extension, *picture.hw,
        offset, len(picture.data), offsets["json"], len(json_data),
    )  # fmt: skip


def annotated_fields(entry: SourceEntry) -> dict[str, Any]:
    """What KEY.json says beside the class: `boxes` with `boxes_hw`, and `caption`; only where the source has them."""
    fields: dict[str, Any] = {} if entry.caption is None else {"caption": entry.caption}
    if entry.boxes is not None:
        fields["boxes"] = [
            # The shortest spelling that gives the same float32 back.
            [*(float(str(number)) for number in box_xyxy), int(row)]
            for box_xyxy, row in zip(entry.boxes.boxes_xyxy, entry.boxes.rows, strict=True)
        ]
        fields["boxes_hw"] = entry.boxes.hw
    return fields


def _write_quarantine(shard: int, layout: CacheLayout, bad: list[BadPicture]) -> FileHash | None:
    if not bad:
        layout.quarantine(shard).unlink(missing_ok=True)
        return None
    with hashed_file(layout.quarantine(shard)) as file:
        for item in bad:
            key = sample_key(shard, item.sample)
            file.write_line({"key": key, "sample": item.sample, "name": item.name, "reason": item.reason})
    return file.hash()
