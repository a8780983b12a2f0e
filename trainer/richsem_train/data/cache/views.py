"""Where the views of a cache are read from, shard by shard.

A cache is untrusted and its disk may fail in the middle of an epoch, so whatever is read is checked first: indexes
against the hashes of the manifests, pictures against theirs, views against the rules of views. All that can go wrong
becomes one error that names the shard, the reason and the remedy.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

# Reading an index imports it and, where there is one, pandas, which takes a while: better once, before worker processes
# are forked, than in each.
import pyarrow.dataset  # noqa: F401
from numpy.typing import NDArray
from PIL import Image

from richsem_schemas.cache.codec import LabelledView
from richsem_schemas.cache.index import Rows
from richsem_schemas.cache.layout import CacheLayout, sample_key
from richsem_schemas.cache.manifest import LabelSpec, Plan, ShardSummary
from richsem_schemas.cache.shard import LabelShard, PictureShard
from richsem_schemas.cache.span import Span
from richsem_schemas.cache.view import ViewKind
from richsem_schemas.errors import CorruptCacheError, RichSemError
from richsem_schemas.io.files import FileHash
from richsem_schemas.io.places import Place
from richsem_schemas.pictures.decode import decode_picture
from richsem_train.data.cache.local import forget
from richsem_train.data.damage import DamagedViewError

SUMMARY_ROW = np.dtype(
    [
        ("samples", "<i8"), ("views", "<i8"), ("regions", "<i8"),
        ("tar_bytes", "<i8"), ("tar_sha256", "V32"), ("index_bytes", "<i8"), ("index_sha256", "V32"),
    ]
)  # fmt: skip
"""A `ShardSummary`; in arrays, so that many shards cost each worker little memory."""


def packed_summaries(summaries: Iterable[ShardSummary]) -> NDArray[np.void]:
    """Summaries of all shards, [S] of `SUMMARY_ROW`."""
    return np.array(
        [
            (
                each.samples, each.views, each.regions,
                each.tar.bytes, bytes.fromhex(each.tar.sha256), each.index.bytes, bytes.fromhex(each.index.sha256),
            )
            for each in summaries
        ],
        SUMMARY_ROW,
    )  # fmt: skip


def _summary(rows: NDArray[np.void], shard: int) -> ShardSummary:
    row = rows[shard]
    tar, index = (
        FileHash(bytes=int(row[f"{file}_bytes"]), sha256=row[f"{file}_sha256"].tobytes().hex())
        for file in ("tar", "index")
    )
    samples, views, regions = (int(row[name]) for name in ("samples", "views", "regions"))
    return ShardSummary(shard=shard, samples=samples, views=views, regions=regions, tar=tar, index=index)


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """Where the pictures of a shard and its views of one kind lie.

    Attributes:
        pictures: [N] of `PICTURE_ROW`, by ascending sample.
        views: [passes, V] of `VIEW_ROW`, each pass by ascending sample.
    """

    pictures: Rows
    views: Rows


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

    @property
    def only_picture(self) -> Image.Image:
        """The picture of a view of one tile."""
        return self.pictures[int(self.labelled.view.tiles[0]["sample"])]


@dataclass(frozen=True, eq=False)
class ViewSource:
    """Which views to read.

    Attributes:
        layout: of the pictures.
        labels_layout: of the label set, which may lie apart.
        label_set: its name.
        kind: of the views.
        passes: how many of that kind are stored.
        plan: of the cache.
        spec: of the label set.
        picture_summaries: of all S shards of pictures, [S] of `SUMMARY_ROW`.
        label_summaries: of all shards of labels.
        pass_views: int64 [S], views of the kind in one pass.
        root: where the originals lie, for caches that refer to them.
        section: of the config that names the cache, for messages.
    """

    layout: CacheLayout
    labels_layout: CacheLayout
    label_set: str
    kind: ViewKind
    passes: int
    plan: Plan
    spec: LabelSpec
    picture_summaries: NDArray[np.void]
    label_summaries: NDArray[np.void]
    pass_views: NDArray[np.int64]
    root: Place | None
    section: str = "extra"

    def picture_shard(self, shard: int) -> PictureShard:
        """A shard of pictures."""
        return PictureShard(self.layout, shard)

    def label_shard(self, shard: int) -> LabelShard:
        """A shard of labels."""
        return LabelShard(self.labels_layout.label_set(self.label_set), shard)

    def read_index(self, shard: int, *, check_labels: bool) -> ShardIndex:
        """Read a shard's indexes, and check them by the manifests and by each other.

        Raises:
            CorruptCacheError: they aren't those of the manifests, or pictures and views don't fit each other.
        """
        pictures, labels = self.picture_shard(shard), self.label_shard(shard)
        of_pictures, of_labels = _summary(self.picture_summaries, shard), _summary(self.label_summaries, shard)
        pictures.require_sizes(of_pictures)
        if check_labels:
            labels.check_bytes(of_labels)
        else:
            labels.require_sizes(of_labels)
        picture_rows, view_rows = pictures.rows(of_pictures.index), labels.rows(of_labels.index)
        views = view_rows[(view_rows["kind"] == self.kind) & (view_rows["pass"] < self.passes)]
        self._check_rows(shard, picture_rows, views)
        return ShardIndex(
            picture_rows[np.argsort(picture_rows["sample"])],
            views[np.lexsort((views["sample"], views["pass"]))].reshape(self.passes, -1),
        )

    def _check_rows(self, shard: int, pictures: Rows, views: Rows) -> None:
        """Pictures and views are of this shard, joined by their keys, and all are there."""
        passes = np.bincount(views["pass"], minlength=self.passes)
        for what, found, expected in (
            ("pictures", len(pictures), int(self.picture_summaries["samples"][shard])),
            *(("views of the pass", int(count), int(self.pass_views[shard])) for count in passes),
        ):
            if found != expected:
                raise CorruptCacheError(f"its index has {found} {what}, its manifest says {expected}")
        for row in (*pictures[:1], *views[:1]):
            if row["key"] != sample_key(shard, int(row["sample"])):
                raise CorruptCacheError(f"its index calls sample {row['sample']} {row['key']!r}")
        strangers = views["key"][~np.isin(views["sample"], pictures["sample"])]
        if len(strangers):
            raise CorruptCacheError(f"it has labels of {strangers[0]} but no picture")

    def decode(self, shard: PictureShard, rows: Rows, *, span: Span | None) -> dict[int, Image.Image]:
        """Read and decode pictures of a shard, by sample.

        Raises:
            RichSemError, OSError: one can't be read, or is not the one that was cached.
        """
        try:
            stored = list(shard.pictures(rows, root=self.root, span=span))
        except RichSemError:
            if self.root is not None:
                forget(*(self.root / row["name"] for row in rows if row["offset"] < 0))
            raise
        return {int(each.row["sample"]): _decoded(each.data, each.row) for each in stored}

    def damaged(self, shard: int, error: Exception) -> DamagedViewError:
        """The error that names shard, reason and remedy; what is kept of the shard on this machine is forgotten."""
        layout, pictures, labels = self.layout, self.picture_shard(shard), self.label_shard(shard)
        forget(pictures.tar, pictures.index, labels.tar, labels.index)
        return DamagedViewError(
            f"shard {layout.shard_name(shard)} of {layout.out} (label set {self.label_set!r}) is damaged: {error}. "
            f"See what else is with `richsem-prep verify {layout.out}`; restore the shard or make it anew, or go on "
            f"without it by {self.section}.on_damage=skip"
        )


def _decoded(data: bytes, row: np.void) -> Image.Image:
    picture = decode_picture(data)
    if (picture.height, picture.width) != (row["height"], row["width"]):
        raise CorruptCacheError(
            f"the picture of {row['key']} is {picture.height} high and {picture.width} wide, its index says "
            f"{row['height']} and {row['width']}"
        )
    return picture
