"""Reading single views of a cache by their place in the order of the lanes.

A cache is untrusted and its disk may fail in the middle of an epoch, so whatever is read is checked first: indexes and
label shards against the hashes of the manifests, pictures against theirs, views against the rules of views. All that
can go wrong becomes one error that names the shard, the reason and the remedy.
"""

import stat
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

# Reading an index imports it, which takes a while: better once, before worker processes are forked, than in each.
import pyarrow.dataset  # noqa: F401
from numpy.typing import NDArray
from PIL import Image

from richsem_schemas.cache.codec import LabelledView
from richsem_schemas.cache.index import PictureRow, ViewRow
from richsem_schemas.cache.layout import BLOCK_SAMPLES, CacheLayout, sample_key
from richsem_schemas.cache.manifest import LabelSpec, Plan
from richsem_schemas.cache.reader import (
    picture_rows,
    read_pictures,
    read_pictures_span,
    read_views,
    read_views_span,
)
from richsem_schemas.cache.reader import view_rows as read_view_rows
from richsem_schemas.cache.span import Span
from richsem_schemas.cache.view import ViewKind
from richsem_schemas.cache.view_batch import ShardPictures, ViewBatch
from richsem_schemas.cache.view_checks import view_problems
from richsem_schemas.errors import CorruptCacheError, RichSemError
from richsem_schemas.io.files import FileHash, file_sha256
from richsem_schemas.io.places import Place
from richsem_schemas.pictures.decode import decode_picture
from richsem_train.data.cache.lanes import ViewPlace, block_order, view_order
from richsem_train.data.cache.local import forget

SPARE_SHARDS = 16
"""Indexes that a reader keeps beyond one a lane, for the end of a round; about 1 MB each."""


class DamagedViewError(CorruptCacheError):
    """A view can't be read; names its shard, the reason and the remedy."""


@dataclass(frozen=True, eq=False)
class ShardFiles:
    """What the manifests say of the files of all shards; a few arrays, so that many shards cost little memory.

    Attributes:
        samples: int64 [S].
        pass_views: int64 [S], views of the kind in one pass.
        hashes: by family of files, uint8 [S, 32], SHA-256.
        sizes: by family of files, int64 [S], bytes.
    """

    samples: NDArray[np.int64]
    pass_views: NDArray[np.int64]
    hashes: dict[str, NDArray[np.uint8]]
    sizes: dict[str, NDArray[np.int64]]

    def hash(self, family: str, shard: int) -> FileHash:
        """Size and hash of one file."""
        return FileHash(bytes=int(self.sizes[family][shard]), sha256=self.hashes[family][shard].tobytes().hex())


@dataclass(frozen=True, eq=False)
class ViewSource:
    """Which views to read.

    Attributes:
        layout: of the pictures.
        labels_layout: of the label set, which may lie apart.
        labels: name of the label set.
        kind: of the views.
        passes: how many of that kind are stored.
        plan: of the cache.
        spec: of the label set.
        files: of all shards.
        root: where the originals lie, for caches that refer to them.
        section: of the config that names the cache, for messages.
    """

    layout: CacheLayout
    labels_layout: CacheLayout
    labels: str
    kind: ViewKind
    passes: int
    plan: Plan
    spec: LabelSpec
    files: ShardFiles
    root: Place | None
    section: str = "extra"


@dataclass(frozen=True, eq=False)
class ReadView:
    """A view and what is needed to render it.

    Attributes:
        name: key and member, for messages.
        labelled: the view and its labels.
        pictures: decoded, by sample.
        all_passes: the views of the same sample in all passes, where the reader was asked for them.
    """

    name: str
    labelled: LabelledView
    pictures: dict[int, Image.Image]
    all_passes: tuple[LabelledView, ...] = ()


@dataclass(frozen=True, eq=False)
class _Shard:
    """A shard's indexes: pictures by block, views by pass and block."""

    pictures: dict[int, list[PictureRow]]
    views: list[dict[int, list[ViewRow]]]


@dataclass(frozen=True, eq=False)
class _BlockOrder:
    """The blocks of a shard in the order of a round, and the position of each one's first view."""

    blocks: NDArray[np.int64]
    starts: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Block:
    """A block in memory: its views of some passes, each in the order of the round, and its pictures undecoded."""

    names: list[str]
    passes: list[list[LabelledView]]
    rows: dict[int, PictureRow]
    span: Span | None

    @property
    def bytes(self) -> int:
        views = [view for views in self.passes for view in views]
        embeddings = sum(v.embeddings.nbytes for v in views if v.embeddings is not None)
        labels = sum(v.labels.class_ids.nbytes * 2 for v in views)
        return embeddings + labels + 4096 * len(views) + (len(self.span.data) if self.span else 0)


class ViewReader:
    """Reads views by their place; keeps the blocks and indexes that lanes are in the middle of.

    Opens nothing before the first view is asked for, so it may be handed to worker processes.

    Args:
        source: which views.
        seed: of the run.
        lanes: how many it reads at a time.
        block_bytes: most bytes of blocks that are kept.
        whole_blocks: read the pictures of a block at once; otherwise each when it is needed, for lanes whose blocks
            wouldn't fit in `block_bytes` all together.
        all_passes: read the views of all passes with each; a view of every sample is a must.
    """

    def __init__(
        self,
        source: ViewSource,
        *,
        seed: int,
        lanes: int,
        block_bytes: int,
        whole_blocks: bool = True,
        all_passes: bool = False,
    ) -> None:
        self.source = source
        self._all_passes = all_passes
        self._seed = seed
        self._whole_blocks = whole_blocks
        self._shards: Recent[_Shard] = Recent(lanes + SPARE_SHARDS, lambda _: 1)
        self._orders: Recent[_BlockOrder] = Recent(lanes + SPARE_SHARDS, lambda _: 1)
        self._blocks: Recent[_Block] = Recent(block_bytes, lambda block: block.bytes)
        self.blocks_read = 0

    def read(self, place: ViewPlace) -> ReadView:
        """Read one view and decode its pictures.

        Raises:
            DamagedViewError: it can't be read, or is not what was written.
        """
        try:
            return self._read(place)
        except (RichSemError, OSError) as error:
            raise damaged_view(self.source, place.shard, error) from error

    def _read(self, place: ViewPlace) -> ReadView:
        shard = self._shards.get(place.shard, lambda: self._read_shard(place.shard))
        order = self._orders.get((place.round, place.shard), lambda: self._block_order(place, shard))
        slot = int(np.searchsorted(order.starts, place.position, side="right")) - 1
        number = int(order.blocks[slot])
        block = self._blocks.get((place.round, place.shard, number), lambda: self._read_block(place, shard, number))
        index = place.position - int(order.starts[slot])
        views = [views[index] for views in block.passes]
        labelled = views[place.pass_index if self._all_passes else 0]
        samples = sorted({int(sample) for sample in labelled.view.tiles["sample"]})
        rows = [block.rows[sample] for sample in samples]
        pictures = decode_pictures(self.source, place.shard, rows, block.span)
        return ReadView(block.names[index], labelled, pictures, tuple(views) if self._all_passes else ())

    def _block_order(self, place: ViewPlace, shard: _Shard) -> _BlockOrder:
        rows = shard.views[place.pass_index]
        order = block_order(len(rows), seed=self._seed, round_=place.round, shard=place.shard)
        blocks = np.array(sorted(rows), np.int64)[order]
        counts = np.array([len(rows[block]) for block in blocks.tolist()], np.int64)
        return _BlockOrder(blocks, np.cumsum(counts) - counts)

    def _read_shard(self, shard: int) -> _Shard:
        """Check the files of a shard and read its indexes."""
        source = self.source
        require_hash(source.labels_layout.label_set(source.labels).tar(shard), source.files.hash("labels", shard))
        pictures, views = read_indexes(source, shard)
        return _Shard(_by_block(pictures), [_by_block(rows) for rows in views])

    def _read_block(self, place: ViewPlace, shard: _Shard, number: int) -> _Block:
        self.blocks_read += 1
        source = self.source
        pictures = shard.pictures.get(number, [])
        passes = range(source.passes) if self._all_passes else [place.pass_index]
        listed = [shard.views[each].get(number, []) for each in passes]
        if any([row.sample for row in rows] != [row.sample for row in listed[0]] for rows in listed):
            raise CorruptCacheError(f"its index has other samples in one pass than in another, in block {number}")
        order = view_order(len(listed[0]), seed=self._seed, round_=place.round, shard=place.shard, block=number)
        ordered = [[rows[index] for index in order.tolist()] for rows in listed]
        together = [row for rows in ordered for row in rows]
        labels_span = read_views_span(source.labels_layout, source.labels, place.shard, together)
        views = list(read_views(source.labels_layout, source.labels, place.shard, together, span=labels_span))
        check_views(source, together, views, pictures)
        span = None
        if self._whole_blocks and source.plan.pictures == "copy":
            span = read_pictures_span(source.layout, place.shard, pictures)
        names = [view_name(row) for row in ordered[passes.index(place.pass_index)]]
        by_pass = [views[first : first + len(order)] for first in range(0, len(views), len(order))]
        return _Block(names, by_pass, {row.sample: row for row in pictures}, span)


def read_indexes(source: ViewSource, shard: int) -> tuple[list[PictureRow], list[list[ViewRow]]]:
    """Check a shard's indexes and read them: its pictures, and its views of the source's kind by pass.

    Raises:
        CorruptCacheError: they aren't those of the manifests, or pictures and views don't fit each other.
    """
    labels = source.labels_layout.label_set(source.labels)
    _require_size(source.layout.pictures_tar(shard), source.files.hash("pictures", shard))
    _require_size(labels.tar(shard), source.files.hash("labels", shard))
    require_hash(source.layout.pictures_index(shard), source.files.hash("pictures_index", shard))
    require_hash(labels.index(shard), source.files.hash("labels_index", shard))
    pictures = picture_rows(source.layout, shard)
    views: list[list[ViewRow]] = [[] for _ in range(source.passes)]
    for row in read_view_rows(source.labels_layout, source.labels, shard):
        if row.kind == source.kind and 0 <= row.pass_index < source.passes:
            views[row.pass_index].append(row)
    for rows in views:
        _check_rows(source.files, shard, pictures, rows)
    return pictures, views


def _check_rows(files: ShardFiles, shard: int, pictures: list[PictureRow], views: list[ViewRow]) -> None:
    """Pictures and views are joined by their keys, and all are there."""
    for what, rows, expected in (
        ("pictures", pictures, int(files.samples[shard])),
        ("views of the pass", views, int(files.pass_views[shard])),
    ):
        if len(rows) != expected:
            raise CorruptCacheError(f"its index has {len(rows)} {what}, its manifest says {expected}")
        wrong = next((row for row in rows if row.key != sample_key(shard, row.sample)), None)
        if wrong is not None:
            raise CorruptCacheError(f"its index calls sample {wrong.sample} {wrong.key!r}")
    known = {row.sample for row in pictures}
    if len(known) != len(pictures):
        raise CorruptCacheError("its index has a sample twice")
    if stranger := next((row for row in views if row.sample not in known), None):
        raise CorruptCacheError(f"it has labels of {stranger.key} but no picture")


def check_views(
    source: ViewSource, rows: Sequence[ViewRow], views: Sequence[LabelledView], pictures: Sequence[PictureRow]
) -> None:
    """Check what was read of a shard by what its index and the spec say of it.

    Args:
        source: which views.
        rows: of the views.
        views: as unpacked.
        pictures: all that they may show.

    Raises:
        CorruptCacheError: a view breaks a rule of views, or is another than they say.
    """
    spec = source.spec
    expected = spec.record_layout.region_dtype()["class_ids"].shape[0]
    names = [view_name(row) for row in rows]
    for name, row, labelled in zip(names, rows, views, strict=True):
        if (len(labelled.view.tiles), len(labelled.view.regions)) != (row.tiles, row.regions):
            raise CorruptCacheError(f"{name}: has other tiles or regions than its index says")
        if (labelled.embeddings is None) != (spec.embeddings == "none"):
            raise CorruptCacheError(f"{name}: its embeddings are not those of the spec, {spec.embeddings}")
        if labelled.embeddings is not None and labelled.embeddings.shape[1] != spec.teacher.embed_dim:
            raise CorruptCacheError(f"{name}: its embeddings have another width than the spec says")
        if labelled.labels.class_ids.shape[1] != expected:
            raise CorruptCacheError(f"{name}: has another number of classes than the spec's top_k, {expected}")
    named = list(zip(names, views, strict=True))
    problem = next(view_problems(ViewBatch.of(named), ShardPictures.of(pictures, source.plan), spec), None)
    if problem is not None:
        raise CorruptCacheError(problem)


def decode_pictures(
    source: ViewSource, shard: int, rows: Sequence[PictureRow], span: Span | None
) -> dict[int, Image.Image]:
    """Read and decode samples of a shard, by sample.

    Raises:
        RichSemError, OSError: one can't be read, or is not the one that was cached.
    """
    pictures = {}
    try:
        stored_pictures = list(read_pictures(source.layout, shard, rows, root=source.root, span=span))
    except RichSemError:
        if source.root is not None:
            forget(*(source.root / row.name for row in rows if row.offset < 0))
        raise
    for stored in stored_pictures:
        picture = decode_picture(stored.data)
        if (picture.height, picture.width) != (stored.row.height, stored.row.width):
            raise CorruptCacheError(
                f"the picture of {stored.row.key} is {picture.height} high and {picture.width} wide, its index "
                f"says {stored.row.height} and {stored.row.width}"
            )
        pictures[stored.row.sample] = picture
    return pictures


def view_name(row: ViewRow) -> str:
    """What messages call a view."""
    return f"{row.key}.{row.member}"


def damaged_view(source: ViewSource, shard: int, error: Exception) -> DamagedViewError:
    """The error that names shard, reason and remedy; what is kept of the shard on this machine is forgotten."""
    layout, label_set = source.layout, source.labels_layout.label_set(source.labels)
    forget(layout.pictures_tar(shard), layout.pictures_index(shard), label_set.tar(shard), label_set.index(shard))
    return DamagedViewError(
        f"shard {layout.shard_name(shard)} of {layout.out} (label set {source.labels!r}) is damaged: {error}. "
        f"See what else is with `richsem-prep verify {layout.out}`; restore the shard or make it anew, or go on "
        f"without it by {source.section}.on_damage=skip"
    )


def _by_block(rows: Sequence["_Row"]) -> dict[int, list["_Row"]]:
    blocks: dict[int, list[_Row]] = {}
    for row in sorted(rows, key=lambda row: row.sample):
        blocks.setdefault(row.sample // BLOCK_SAMPLES, []).append(row)
    return blocks


def _require_size(path: Place, expected: FileHash) -> None:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size != expected.bytes:
        raise CorruptCacheError(f"{path} has {status.st_size:,} bytes, its manifest says {expected.bytes:,}")


def require_hash(path: Place, expected: FileHash) -> None:
    """Check a file by its hash.

    Raises:
        CorruptCacheError: it is another one.
    """
    _require_size(path, expected)
    if file_sha256(path) != expected.sha256:
        raise CorruptCacheError(f"{path}: its bytes are not those that its manifest has the hash of")


_Row = TypeVar("_Row", PictureRow, ViewRow)
_Value = TypeVar("_Value")


class Recent(Generic[_Value]):
    """What was used last, up to a size; failures are remembered as well, so that a bad disk is not asked again."""

    def __init__(self, limit: int, size: Callable[[_Value], int]) -> None:
        self._limit = limit
        self._size = size
        self._used = 0
        self._items: OrderedDict[Hashable, tuple[int, _Value | Exception]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], _Value]) -> _Value:
        """The value under a key, made if need be."""
        if key in self._items:
            self._items.move_to_end(key)
        else:
            self._add(key, make)
        value = self._items[key][1]
        if isinstance(value, Exception):
            raise value.with_traceback(None)
        return value

    def _add(self, key: Hashable, make: Callable[[], _Value]) -> None:
        value: _Value | Exception
        try:
            value = make()
            size = self._size(value)
        except (RichSemError, OSError) as error:
            # Without the traceback, which would hold on to a half-read block.
            value, size = error.with_traceback(None), 1
        self._items[key] = size, value
        self._used += size
        # The newest stays even where it alone is too large.
        while self._used > self._limit and len(self._items) > 1:
            _, (freed, _) = self._items.popitem(last=False)
            self._used -= freed
