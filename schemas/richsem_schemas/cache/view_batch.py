"""Views side by side, and what they may show: what checks of many views at once are made of."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.cache.codec import LabelledView, embeddings_of
from richsem_schemas.cache.index import Rows
from richsem_schemas.cache.manifest import Plan
from richsem_schemas.cache.soft_labels import TopKSoftLabels
from richsem_schemas.cache.view import VIEW_KINDS


@dataclass(frozen=True, eq=False)
class BoxRows:
    """The classes of the annotated boxes of S pictures, M in all.

    Attributes:
        offsets: [S + 1]; picture i has the boxes from `offsets[i]` up to `offsets[i + 1]`.
        rows: [M], of the vocabulary.
    """

    offsets: NDArray[np.int64]
    rows: NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class ShardPictures:
    """The good pictures of one shard, by ascending sample, which its views may show.

    Attributes:
        samples: [S] positions in the shard.
        hw: [S, 2] height and width, pixels.
        category_ids: [S] image-level labels.
        classes: rows of the vocabulary that `category_id` counts.
        boxes: rows of the vocabulary of their annotated boxes; None where they aren't known.
    """

    samples: NDArray[np.int64]
    hw: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    classes: int
    boxes: BoxRows | None = None

    @classmethod
    def of_rows(cls, rows: Rows, plan: Plan) -> "ShardPictures":
        """From a shard's picture index."""
        return cls(
            rows["sample"].astype(np.int64),
            np.stack([rows["height"], rows["width"]], axis=1).astype(np.int64),
            rows["category_id"].astype(np.int64),
            len(plan.vocabulary.class_names),
        )


@dataclass(frozen=True, eq=False)
class ViewBatch:
    """Views side by side, for checks of many at once: V views, T tiles, R regions.

    Attributes:
        names: V members, for messages.
        kinds: [V] positions in `VIEW_KINDS`.
        canvas_hw: [V, 2] pixels.
        first_tile: [V] where each view's tiles begin.
        tiles: [T] of `TILE_DTYPE`.
        tile_owner: [T] the view of each tile.
        boxes_xyxy_px: [R, 4] on the canvas.
        region_tiles: [R] position of each region's tile among its view's.
        category_ids: [R] hard labels.
        annotations: [R] which of its picture's boxes each region is, `NO_ANNOTATION` for none.
        noise_scales: [R] how far that box was noised, half sides.
        region_owner: [R] the view of each region.
        labels: of the R regions.
        embeddings: [R, D] float32, or float16 as stored; None where none are stored.
    """

    names: Sequence[str]
    kinds: NDArray[np.int64]
    canvas_hw: NDArray[np.int64]
    first_tile: NDArray[np.int64]
    tiles: NDArray[np.void]
    tile_owner: NDArray[np.int64]
    boxes_xyxy_px: NDArray[np.float32]
    region_tiles: NDArray[np.int32]
    category_ids: NDArray[np.int32]
    annotations: NDArray[np.int32]
    noise_scales: NDArray[np.float32]
    region_owner: NDArray[np.int64]
    labels: TopKSoftLabels
    embeddings: NDArray[np.floating] | None

    @classmethod
    def of(cls, named: Sequence[tuple[str, LabelledView]]) -> "ViewBatch":
        """From one or more views with the names of their members."""
        views = [labelled.view for _, labelled in named]
        embeddings = [labelled.embeddings for _, labelled in named if labelled.embeddings is not None]
        tiles_V = np.array([len(view.tiles) for view in views])
        regions = np.concatenate([view.regions for view in views])
        return cls(
            [name for name, _ in named],
            np.array([VIEW_KINDS.index(view.kind) for view in views]),
            np.array([view.canvas_hw for view in views], np.int64),
            np.cumsum(tiles_V) - tiles_V,
            np.concatenate([view.tiles for view in views]),
            np.repeat(np.arange(len(views)), tiles_V),
            regions["box_xyxy_px"],
            regions["tile"],
            regions["category_id"],
            regions["annotation"],
            regions["noise_scale"],
            np.repeat(np.arange(len(views)), [len(view.regions) for view in views]),
            TopKSoftLabels.joined([labelled.labels for _, labelled in named]),
            np.concatenate(embeddings) if len(embeddings) == len(named) else None,
        )

    @classmethod
    def of_records(cls, names: Sequence[str], kinds: NDArray[np.int64], records_V: NDArray[np.void]) -> "ViewBatch":
        """From records of one shape, as `unpack_alike` gives them."""
        regions = records_V["regions"]
        views, most_regions = regions.shape
        tiles = records_V["tiles"].shape[1]
        is_float16 = "embedding" in (regions.dtype.names or ()) and regions.dtype["embedding"].base == np.float16
        embeddings = regions["embedding"] if is_float16 else embeddings_of(regions)
        return cls(
            names,
            kinds,
            records_V["canvas_hw"].astype(np.int64),
            np.arange(views) * tiles,
            records_V["tiles"].reshape(-1),
            np.repeat(np.arange(views), tiles),
            regions["box_xyxy_px"].reshape(-1, 4),
            regions["tile"].reshape(-1),
            regions["category_id"].reshape(-1),
            regions["annotation"].reshape(-1),
            regions["noise_scale"].reshape(-1),
            np.repeat(np.arange(views), most_regions),
            TopKSoftLabels.of_regions(regions),
            None if embeddings is None else embeddings.reshape(-1, embeddings.shape[-1]),
        )

    def bad_views(self, bad_V: NDArray[np.bool_], what: str) -> Iterator[str]:
        """A message where a view breaks a rule; it names the first that does."""
        yield from _told(bad_V, np.arange(len(self.names)), self.names, what)

    def bad_tiles(self, bad_T: NDArray[np.bool_], what: str) -> Iterator[str]:
        """The same of tiles."""
        yield from _told(bad_T, self.tile_owner, self.names, what)

    def bad_regions(self, bad_R: NDArray[np.bool_], what: str) -> Iterator[str]:
        """The same of regions."""
        yield from _told(bad_R, self.region_owner, self.names, what)


def _told(bad: NDArray[np.bool_], owner: NDArray[np.int64], names: Sequence[str], what: str) -> Iterator[str]:
    if bad.any():
        more = int(bad.sum()) - 1
        yield f"{names[owner[np.argmax(bad)]]}: {what}" + (f" ({more} more such)" if more else "")
