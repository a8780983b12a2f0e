"""Whether the values of packed views make sense: geometry, soft labels, embeddings. Pure functions over batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.codec import LabelledView
from richsem_schemas.index import PictureRow
from richsem_schemas.layout import BLOCK_SAMPLES
from richsem_schemas.manifest import LabelSpec, Plan
from richsem_schemas.picture import MAX_PICTURE_PIXELS
from richsem_schemas.soft_labels import class_log_probs
from richsem_schemas.text_bank import TextBank

MAX_CANVAS_SIDE = 2**16
"""Longest side of a canvas, pixels; its area is bounded by `MAX_PICTURE_PIXELS`."""

SOURCE_TOLERANCE_PX = 0.01
"""How far float32 rounding may move a source rectangle past its picture."""

MASS_TOLERANCE = 1e-3
"""How far the probabilities of a soft label and its rest may sum from one."""

NORM_TOLERANCE = 1e-2
"""How far the norm of a stored embedding may lie from one."""

LOG_PROB_TOLERANCE = 1e-4
"""Beyond two float16 steps, how far a stored log-probability may lie from the one its embedding gives."""

_TILES = {"crop": 1, "mosaic": 4, "window": 1}
_MOST_REGIONS = {"crop": 1, "mosaic": 4}


@dataclass(frozen=True, eq=False)
class ShardPictures:
    """What views may show: the good pictures of one shard, by ascending sample.

    Attributes:
        samples: [S] positions in the shard.
        hw: [S, 2] height and width, pixels.
        category_ids: [S] image-level labels.
        classes: rows of the vocabulary that `category_id` counts.
    """

    samples: NDArray[np.int64]
    hw: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    classes: int

    @classmethod
    def of(cls, rows: Sequence[PictureRow], plan: Plan) -> "ShardPictures":
        """From a shard's picture index."""
        return cls(
            np.array([row.sample for row in rows], np.int64),
            np.array([(row.height, row.width) for row in rows], np.int64).reshape(-1, 2),
            np.array([row.category_id for row in rows], np.int64),
            len(plan.vocabulary.class_names),
        )


@dataclass(frozen=True, eq=False)
class _Batch:
    """Views side by side: V views, T tiles, R regions; `owner` is the view of each tile and region."""

    names: list[str]
    kinds: list[str]
    canvas_hw: NDArray[np.int64]
    first_tile: NDArray[np.int64]
    tiles: NDArray[np.void]
    tile_owner: NDArray[np.int64]
    regions: NDArray[np.void]
    region_owner: NDArray[np.int64]

    @classmethod
    def of(cls, named: Sequence[tuple[str, LabelledView]]) -> "_Batch":
        views = [labelled.view for _, labelled in named]
        tiles = np.array([len(view.tiles) for view in views])
        regions = np.array([len(view.regions) for view in views])
        return cls(
            [name for name, _ in named],
            [view.kind for view in views],
            np.array([view.canvas_hw for view in views], np.int64),
            np.cumsum(tiles) - tiles,
            np.concatenate([view.tiles for view in views]),
            np.repeat(np.arange(len(views)), tiles),
            np.concatenate([view.regions for view in views]),
            np.repeat(np.arange(len(views)), regions),
        )

    def bad_views(self, bad_V: NDArray[np.bool_], what: str) -> Iterator[str]:
        yield from _told(bad_V, np.arange(len(self.names)), self.names, what)

    def bad_tiles(self, bad_T: NDArray[np.bool_], what: str) -> Iterator[str]:
        yield from _told(bad_T, self.tile_owner, self.names, what)

    def bad_regions(self, bad_R: NDArray[np.bool_], what: str) -> Iterator[str]:
        yield from _told(bad_R, self.region_owner, self.names, what)


def _told(bad: NDArray[np.bool_], owner: NDArray[np.int64], names: list[str], what: str) -> Iterator[str]:
    if bad.any():
        more = int(bad.sum()) - 1
        yield f"{names[owner[np.argmax(bad)]]}: {what}" + (f" ({more} more such)" if more else "")


def view_problems(
    named: Sequence[tuple[str, LabelledView]], pictures: ShardPictures, spec: LabelSpec, text: TextBank | None
) -> Iterator[str]:
    """Say what is wrong with a batch of views; one message a rule, naming the first view that breaks it.

    Args:
        named: views with the names of their members.
        pictures: of the shard.
        spec: of the label set.
        text: its text bank; None leaves out what needs it.
    """
    if not named:
        return
    batch = _Batch.of(named)
    yield from geometry_problems(named, pictures)
    kept = [labelled.labels for _, labelled in named]
    class_ids_RK = np.concatenate([labels.class_ids for labels in kept]).astype(np.int64)
    log_probs_RK = np.concatenate([labels.log_probs for labels in kept]).astype(np.float64)
    log_rest_R = np.concatenate([labels.log_rest for labels in kept]).astype(np.float64)
    in_range_R = np.asarray(((class_ids_RK >= 0) & (class_ids_RK < spec.text.classes)).all(axis=1))
    yield from batch.bad_regions(~in_range_R, f"a soft label has class ids outside of 0..{spec.text.classes - 1}")
    ascending = np.sort(class_ids_RK, axis=1)
    twice_R = np.asarray((np.diff(ascending, axis=1) == 0).any(axis=1))
    yield from batch.bad_regions(twice_R, "a soft label has a class twice")
    yield from _probability_problems(batch, log_probs_RK, log_rest_R)
    embeddings = [labelled.embeddings for _, labelled in named if labelled.embeddings is not None]
    if len(embeddings) != len(named):
        return
    embeddings_RD = np.concatenate(embeddings).astype(np.float64)
    with np.errstate(all="ignore"):
        is_unit_R = np.abs(np.linalg.norm(embeddings_RD, axis=1) - 1) <= NORM_TOLERANCE
    yield from batch.bad_regions(~is_unit_R, "an embedding has not the norm 1")
    good_R = is_unit_R & in_range_R
    if text is not None and good_R.any():
        differs_R = np.zeros(len(good_R), np.bool_)
        differs_R[good_R] = _differs(
            class_ids_RK[good_R], log_probs_RK[good_R], log_rest_R[good_R], embeddings_RD[good_R], text
        )
        yield from batch.bad_regions(differs_R, "a soft label is not the one that its embedding and the text bank give")


def geometry_problems(named: Sequence[tuple[str, LabelledView]], pictures: ShardPictures) -> Iterator[str]:
    """The part of `view_problems` that `render_view` relies on: canvas, tiles, boxes, categories."""
    batch = _Batch.of(named)
    yield from chain(_canvas_problems(batch), _tile_problems(batch, pictures), _region_problems(batch, pictures))


def _canvas_problems(batch: _Batch) -> Iterator[str]:
    sides_V2 = batch.canvas_hw
    bad_V = ((sides_V2 < 1) | (sides_V2 > MAX_CANVAS_SIDE)).any(axis=1) | (sides_V2.prod(axis=1) > MAX_PICTURE_PIXELS)
    yield from batch.bad_views(bad_V, "its canvas has no area, or too much")
    views = len(batch.names)
    tiles_V = np.bincount(batch.tile_owner, minlength=views)
    regions_V = np.bincount(batch.region_owner, minlength=views)
    expected_V = np.array([_TILES[kind] for kind in batch.kinds])
    yield from batch.bad_views(tiles_V != expected_V, "it has another number of tiles than its kind")
    most_V = np.array([_MOST_REGIONS.get(kind, np.inf) for kind in batch.kinds])
    yield from batch.bad_views(regions_V > most_V, "it has more regions than its kind")


def _tile_problems(batch: _Batch, pictures: ShardPictures) -> Iterator[str]:
    tiles = batch.tiles
    samples_T = tiles["sample"].astype(np.int64)
    row_T, known_T = _rows_of(samples_T, pictures)
    yield from batch.bad_tiles(~known_T, "a tile shows a sample that the shard has not")
    if not len(tiles):
        return
    anchor_T = samples_T[np.minimum(batch.first_tile, len(tiles) - 1)][batch.tile_owner]
    bad_T = samples_T // BLOCK_SAMPLES != anchor_T // BLOCK_SAMPLES
    yield from batch.bad_tiles(bad_T, f"its tiles come from several blocks of {BLOCK_SAMPLES}")
    x1, y1, x2, y2 = tiles["source_xyxy_px"].astype(np.float64).T
    if len(pictures.samples):
        height, width = pictures.hw[row_T].T
        inside_T = (x1 >= -SOURCE_TOLERANCE_PX) & (y1 >= -SOURCE_TOLERANCE_PX) & (x1 <= x2) & (y1 <= y2)
        inside_T &= (x2 <= width + SOURCE_TOLERANCE_PX) & (y2 <= height + SOURCE_TOLERANCE_PX)
        yield from batch.bad_tiles(known_T & ~inside_T, "a source rectangle leaves its picture")
    inside_T = _inside_canvas(tiles["paste_xyxy_px"], batch.canvas_hw[batch.tile_owner])
    yield from batch.bad_tiles(~inside_T, "a tile is pasted outside of the canvas, or without area")
    yield from batch.bad_tiles((tiles["flip"] < 0) | (tiles["flip"] > 1), "a tile's flip is neither 0 nor 1")


def _region_problems(batch: _Batch, pictures: ShardPictures) -> Iterator[str]:
    regions, owner_R = batch.regions, batch.region_owner
    inside_R = _inside_canvas(regions["box_xyxy_px"], batch.canvas_hw[owner_R])
    yield from batch.bad_regions(~inside_R, "a region's box leaves the canvas, or has no area")
    categories_R = regions["category_id"].astype(np.int64)
    bad_R = (categories_R < 0) | (categories_R >= pictures.classes)
    yield from batch.bad_regions(bad_R, f"a category_id is outside of 0..{pictures.classes - 1}")
    tiles_V = np.bincount(batch.tile_owner, minlength=len(batch.names))
    has_tile_R = (regions["tile"] >= 0) & (regions["tile"] < tiles_V[owner_R])
    yield from batch.bad_regions(~has_tile_R, "a region names a tile that the view has not")
    # The boxes of a window carry labels of their own.
    checked_R = has_tile_R & np.array([batch.kinds[view] != "window" for view in owner_R.tolist()], np.bool_)
    tile_R = batch.first_tile[owner_R[checked_R]] + regions["tile"][checked_R]
    row_R, known_R = _rows_of(batch.tiles["sample"][tile_R].astype(np.int64), pictures)
    differs_R = np.zeros(len(regions), np.bool_)
    if len(pictures.samples):
        differs_R[checked_R] = known_R & (pictures.category_ids[row_R] != categories_R[checked_R])
    yield from batch.bad_regions(differs_R, "a region's category_id is not its picture's")


def _rows_of(samples: NDArray[np.int64], pictures: ShardPictures) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Row of each sample among the pictures, and whether it is there; rows are valid indexes in any case."""
    if not len(pictures.samples):
        return np.zeros(len(samples), np.int64), np.zeros(len(samples), np.bool_)
    rows = np.minimum(np.searchsorted(pictures.samples, samples), len(pictures.samples) - 1)
    return rows, pictures.samples[rows] == samples


def _inside_canvas(boxes_xyxy: NDArray[np.number], canvas_hw: NDArray[np.int64]) -> NDArray[np.bool_]:
    x1, y1, x2, y2 = boxes_xyxy.astype(np.float64).T
    height, width = canvas_hw.T
    return np.asarray((x1 >= 0) & (y1 >= 0) & (x1 < x2) & (y1 < y2) & (x2 <= width) & (y2 <= height))


def _probability_problems(
    batch: _Batch, log_probs_RK: NDArray[np.float64], log_rest_R: NDArray[np.float64]
) -> Iterator[str]:
    valid_R = np.asarray((np.isfinite(log_probs_RK) & (log_probs_RK <= 0)).all(axis=1))
    yield from batch.bad_regions(~valid_R, "a log-probability is above 0 or no number")
    with np.errstate(all="ignore"):
        mass_R = np.exp(log_probs_RK).sum(axis=1) + np.exp(log_rest_R)
        sums_R = np.abs(mass_R - 1) <= MASS_TOLERANCE
    yield from batch.bad_regions(valid_R & are_unsorted(log_probs_RK), "a soft label is not sorted by probability")
    yield from batch.bad_regions(valid_R & ~sums_R, f"a soft label and its rest don't sum to 1 within {MASS_TOLERANCE}")


def are_unsorted(log_probs_RK: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether a label's [R, K] log-probabilities rise by more than rounding can make them.

    `top_k_soft_labels` hands rounding errors on, so one of two neighbours may lie a float16 step too low and the next a
    step too high.
    """
    with np.errstate(all="ignore"):
        return np.asarray((np.diff(log_probs_RK, axis=1) > 2 * _float16_step(log_probs_RK[:, :-1])).any(axis=1))


def _float16_step(values: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(all="ignore"):
        return np.spacing(np.abs(values).astype(np.float16)).astype(np.float64)


def _differs(
    class_ids_RK: NDArray[np.int64],
    log_probs_RK: NDArray[np.float64],
    log_rest_R: NDArray[np.float64],
    embeddings_RD: NDArray[np.float64],
    text: TextBank,
) -> NDArray[np.bool_]:
    """Whether a soft label is another than the one its embedding gives.

    Tighter than a bound on probabilities: labels were computed from the stored embedding in float64, so the logarithms
    agree but for their own rounding to float16.
    """
    with np.errstate(all="ignore"):
        again_RC = class_log_probs(embeddings_RD, text.features, logit_scale=text.logit_scale)
        kept_RK = np.take_along_axis(again_RC, class_ids_RK, axis=1)
        tolerance_RK = 2 * _float16_step(kept_RK) + LOG_PROB_TOLERANCE
        differs_R = ~(np.abs(log_probs_RK - kept_RK) <= tolerance_RK).all(axis=1)
        np.put_along_axis(again_RC, class_ids_RK, -np.inf, axis=1)
        differs_R |= ~(again_RC.max(axis=1) <= kept_RK.min(axis=1) + LOG_PROB_TOLERANCE)
        rest_R = np.exp(again_RC).sum(axis=1)
        return differs_R | ~(np.abs(np.exp(log_rest_R) - rest_R) <= MASS_TOLERANCE)
