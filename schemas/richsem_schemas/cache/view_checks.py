"""Whether the values of packed views make sense: geometry, soft labels, embeddings. Pure functions over batches."""

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.cache.codec import LabelledView
from richsem_schemas.cache.index import Rows, view_names
from richsem_schemas.cache.layout import BLOCK_SAMPLES
from richsem_schemas.cache.manifest import LabelSpec
from richsem_schemas.cache.soft_labels import TopKSoftLabels, class_log_probs
from richsem_schemas.cache.text_bank import TextBank
from richsem_schemas.cache.view import JITTERS_OF, NO_ANNOTATION, VIEW_KINDS, ViewKind
from richsem_schemas.cache.view_batch import BoxRows, ShardPictures, ViewBatch
from richsem_schemas.errors import CorruptCacheError
from richsem_schemas.pictures.decode import MAX_PICTURE_PIXELS
from richsem_schemas.pictures.limits import MAX_PICTURE_SIDE

SOURCE_TOLERANCE_PX = 0.01
"""How far float32 rounding may move a source rectangle past its picture."""

MASS_TOLERANCE = 1e-3
"""How far the probabilities of a soft label and its rest may sum from one."""

NORM_TOLERANCE = 1e-2
"""How far the norm of a stored embedding may lie from one."""

LOG_PROB_TOLERANCE = 1e-4
"""Beyond two float16 steps, how far a stored log-probability may lie from the one its embedding gives."""

_MINUS_ZERO, _MINUS_INFINITY, _MAGNITUDE = 0x8000, 0xFC00, 0x7FFF
"""Bits of float16."""

_REGIONS_IN_CACHE = 64
"""Whose embeddings a processor keeps at hand while it works on them."""

_WITH_BOXES = [kind in {*JITTERS_OF, *JITTERS_OF.values()} for kind in VIEW_KINDS]
_NOISED = [kind in JITTERS_OF.values() for kind in VIEW_KINDS]
_WHOLE = [kind in {"whole", JITTERS_OF["whole"]} for kind in VIEW_KINDS]
_TILES = [4 if kind == "mosaic" else 1 for kind in VIEW_KINDS]
_MOST_REGIONS: dict[ViewKind, int] = {"crop": 1, "mosaic": 4}


def view_problems(batch: ViewBatch, pictures: ShardPictures, spec: LabelSpec) -> Iterator[str]:
    """Say what is wrong with views; one message a rule, naming the first view that breaks it."""
    yield from geometry_problems(batch, pictures)
    is_noised_R = np.array(_NOISED)[batch.kinds[batch.region_owner]]
    if is_noised_R.any():
        known_R = np.isin(batch.noise_scales, np.array(spec.views.noise_scales, np.float32))
        yield from batch.bad_regions(is_noised_R & ~known_R, "a region's noise_scale is none of the spec's")
    yield from batch.bad_regions(
        ~_have_known_classes(batch.labels, spec.text.classes),
        f"a soft label has class ids outside of 0..{spec.text.classes - 1}",
    )
    ascending_RK = np.sort(batch.labels.class_ids, axis=1)
    twice_R = np.asarray((ascending_RK[:, 1:] == ascending_RK[:, :-1]).any(axis=1))
    yield from batch.bad_regions(twice_R, "a soft label has a class twice")
    yield from _probability_problems(batch)
    if batch.embeddings is not None:
        yield from batch.bad_regions(~_have_unit_norm(batch.embeddings), "an embedding has not the norm 1")


def require_sound_views(rows: Rows, views: Sequence[LabelledView], pictures: ShardPictures, spec: LabelSpec) -> None:
    """Check views that were read of a shard by what its index and the spec say of them.

    Raises:
        CorruptCacheError: a view breaks a rule of views, or is another than they say; names the first.
    """
    names, top_k = view_names(rows), spec.record_layout.region_dtype()["class_ids"].shape[0]
    for name, view, tiles, regions in zip(names, views, rows["tiles"], rows["regions"], strict=True):
        if (len(view.view.tiles), len(view.view.regions)) != (tiles, regions):
            raise CorruptCacheError(f"{name}: has other tiles or regions than its index says")
        if (view.embeddings is None) != (spec.embeddings == "none"):
            raise CorruptCacheError(f"{name}: its embeddings are not those of the spec, {spec.embeddings}")
        if view.embeddings is not None and view.embeddings.shape[1] != spec.teacher.embed_dim:
            raise CorruptCacheError(f"{name}: its embeddings have another width than the spec says")
        if view.labels.class_ids.shape[1] != top_k:
            raise CorruptCacheError(f"{name}: has another number of classes than the spec's top_k, {top_k}")
    for problem in view_problems(ViewBatch.of(list(zip(names, views, strict=True))), pictures, spec) if views else ():
        raise CorruptCacheError(problem)


def geometry_problems(batch: ViewBatch, pictures: ShardPictures) -> Iterator[str]:
    """The part of `view_problems` that `render_view` relies on: canvas, tiles, boxes, categories."""
    yield from chain(_canvas_problems(batch), _tile_problems(batch, pictures), _region_problems(batch, pictures))


def _have_known_classes(labels: TopKSoftLabels, classes: int) -> NDArray[np.bool_]:
    return np.asarray(((labels.class_ids >= 0) & (labels.class_ids < classes)).all(axis=1))


def _have_unit_norm(embeddings_RD: NDArray[np.floating]) -> NDArray[np.bool_]:
    with np.errstate(all="ignore"):
        squared_R = np.empty(len(embeddings_RD), np.float32)
        for first in range(0, len(embeddings_RD), _REGIONS_IN_CACHE):
            some = embeddings_RD[first : first + _REGIONS_IN_CACHE]
            some = _magnitudes(some) if some.dtype == np.float16 else some
            np.einsum("rd,rd->r", some, some, out=squared_R[first : first + _REGIONS_IN_CACHE])
        return np.asarray(np.abs(np.sqrt(squared_R) - 1) <= NORM_TOLERANCE)


def _magnitudes(values: NDArray[np.float16]) -> NDArray[np.float32]:
    """Absolute values of float16 numbers; what is infinite or no number becomes 65536 or more.

    Their bits, moved to where a float32 has them, are a number 2**112 times too small. NumPy's own conversion takes
    twice as long, which is half of what a view's checks take.
    """
    bits = values.view(np.uint16).astype(np.uint32)
    bits &= _MAGNITUDE
    bits <<= 13
    small = bits.view(np.float32)
    small *= np.float32(2.0**112)
    return np.asarray(small)


def _canvas_problems(batch: ViewBatch) -> Iterator[str]:
    sides_V2 = batch.canvas_hw
    bad_V = ((sides_V2 < 1) | (sides_V2 > MAX_PICTURE_SIDE)).any(axis=1) | (sides_V2.prod(axis=1) > MAX_PICTURE_PIXELS)
    yield from batch.bad_views(bad_V, "its canvas has no area, or too much")
    views = len(batch.names)
    tiles_V = np.bincount(batch.tile_owner, minlength=views)
    regions_V = np.bincount(batch.region_owner, minlength=views)
    expected_V = np.array(_TILES)[batch.kinds]
    yield from batch.bad_views(tiles_V != expected_V, "it has another number of tiles than its kind")
    most_V = np.array([_MOST_REGIONS.get(kind, np.inf) for kind in VIEW_KINDS])[batch.kinds]
    yield from batch.bad_views(regions_V > most_V, "it has more regions than its kind")


def _tile_problems(batch: ViewBatch, pictures: ShardPictures) -> Iterator[str]:
    tiles = batch.tiles
    samples_T = tiles["sample"].astype(np.int64)
    row_T, known_T = _rows_of(samples_T, pictures.samples)
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
        all_T = (x1 <= 0) & (y1 <= 0) & (x2 >= width) & (y2 >= height)
        all_T &= (tiles["paste_xyxy_px"][:, 2:] == batch.canvas_hw[batch.tile_owner, ::-1]).all(axis=1)
        is_whole_T = np.array(_WHOLE)[batch.kinds[batch.tile_owner]]
        bad_T = known_T & is_whole_T & ~(all_T & (tiles["flip"] == 0))
        yield from batch.bad_tiles(bad_T, "it doesn't show the whole of its picture as it is")
    has_boxes_T = np.array(_WITH_BOXES)[batch.kinds[batch.tile_owner]]
    bad_T = has_boxes_T & (tiles["paste_xyxy_px"][:, :2] != 0).any(axis=1)
    yield from batch.bad_tiles(bad_T, "its tile isn't in the upper left corner of the canvas")
    inside_T = _inside_canvas(tiles["paste_xyxy_px"], batch.canvas_hw[batch.tile_owner])
    yield from batch.bad_tiles(~inside_T, "a tile is pasted outside of the canvas, or without area")
    yield from batch.bad_tiles((tiles["flip"] < 0) | (tiles["flip"] > 1), "a tile's flip is neither 0 nor 1")


def _region_problems(batch: ViewBatch, pictures: ShardPictures) -> Iterator[str]:
    owner_R = batch.region_owner
    inside_R = _inside_canvas(batch.boxes_xyxy_px, batch.canvas_hw[owner_R])
    yield from batch.bad_regions(~inside_R, "a region's box leaves the canvas, or has no area")
    categories_R = batch.category_ids.astype(np.int64)
    bad_R = (categories_R < 0) | (categories_R >= pictures.classes)
    yield from batch.bad_regions(bad_R, f"a category_id is outside of 0..{pictures.classes - 1}")
    tiles_V = np.bincount(batch.tile_owner, minlength=len(batch.names))
    has_tile_R = (batch.region_tiles >= 0) & (batch.region_tiles < tiles_V[owner_R])
    yield from batch.bad_regions(~has_tile_R, "a region names a tile that the view has not")
    leaves_R = np.zeros(len(owner_R), np.bool_)
    leaves_R[has_tile_R] = ~_inside(
        batch.boxes_xyxy_px[has_tile_R], batch.tiles["paste_xyxy_px"][_tiles_of(batch, has_tile_R)]
    )
    yield from batch.bad_regions(inside_R & leaves_R, "a region's box leaves its tile")
    # The boxes of a detection picture carry labels of their own.
    checked_R = has_tile_R & ~np.array(_WITH_BOXES)[batch.kinds[owner_R]]
    row_R, known_R = _rows_of(_samples_of(batch, checked_R), pictures.samples)
    differs_R = np.zeros(len(owner_R), np.bool_)
    if len(pictures.samples):
        differs_R[checked_R] = known_R & (pictures.category_ids[row_R] != categories_R[checked_R])
    yield from batch.bad_regions(differs_R, "a region's category_id is not its picture's")
    yield from _annotation_problems(batch, pictures, has_tile_R)


def _annotation_problems(batch: ViewBatch, pictures: ShardPictures, has_tile_R: NDArray[np.bool_]) -> Iterator[str]:
    kinds_R, annotations_R, scales_R = batch.kinds[batch.region_owner], batch.annotations, batch.noise_scales
    is_box_R, is_noised_R = np.array(_WITH_BOXES)[kinds_R], np.array(_NOISED)[kinds_R]
    bad_R = np.where(is_box_R, annotations_R < 0, annotations_R != NO_ANNOTATION)
    yield from batch.bad_regions(bad_R, "a region's annotation is not one that its kind of view has")
    fits_R = np.where(is_noised_R, scales_R > 0, scales_R == 0) & np.isfinite(scales_R)
    yield from batch.bad_regions(~fits_R, "a region's noise_scale is not one that its kind of view has")
    if pictures.boxes is None:
        return
    yield from _listed_box_problems(batch, pictures.samples, pictures.boxes, has_tile_R & is_box_R & ~bad_R)


def _listed_box_problems(
    batch: ViewBatch, samples: NDArray[np.int64], boxes: BoxRows, chosen_R: NDArray[np.bool_]
) -> Iterator[str]:
    chosen = np.flatnonzero(chosen_R)
    row, is_known = _rows_of(_samples_of(batch, chosen_R), samples)
    chosen, row = chosen[is_known], row[is_known]
    is_there = batch.annotations[chosen] < np.diff(boxes.offsets)[row]
    bad_R = np.zeros(len(chosen_R), np.bool_)
    bad_R[chosen] = ~is_there
    yield from batch.bad_regions(bad_R, "a region's annotation is one that its picture has not")
    chosen, row = chosen[is_there], row[is_there]
    bad_R[:] = False
    bad_R[chosen] = boxes.rows[boxes.offsets[row] + batch.annotations[chosen]] != batch.category_ids[chosen]
    yield from batch.bad_regions(bad_R, "a region's category_id is not that of its annotation")


def _tiles_of(batch: ViewBatch, chosen_R: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The tiles of chosen regions, which must be there."""
    return np.asarray(batch.first_tile[batch.region_owner[chosen_R]] + batch.region_tiles[chosen_R])


def _samples_of(batch: ViewBatch, chosen_R: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.asarray(batch.tiles["sample"][_tiles_of(batch, chosen_R)].astype(np.int64))


def _rows_of(samples: NDArray[np.int64], among: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Row of each sample among the pictures', and whether it is there; rows are valid indexes in any case."""
    if not len(among):
        return np.zeros(len(samples), np.int64), np.zeros(len(samples), np.bool_)
    rows = np.minimum(np.searchsorted(among, samples), len(among) - 1)
    return rows, among[rows] == samples


def _inside_canvas(boxes_xyxy: NDArray[np.number], canvas_hw: NDArray[np.int64]) -> NDArray[np.bool_]:
    whole_xyxy = np.zeros((len(canvas_hw), 4), np.int64)
    whole_xyxy[:, 2:] = canvas_hw[:, ::-1]
    return _inside(boxes_xyxy, whole_xyxy)


def _inside(boxes_xyxy: NDArray[np.number], room_xyxy: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Whether boxes have an area and lie in the rooms beside them."""
    x1, y1, x2, y2 = boxes_xyxy.astype(np.float64).T
    left, top, right, bottom = room_xyxy.T
    return np.asarray((x1 >= left) & (y1 >= top) & (x1 < x2) & (y1 < y2) & (x2 <= right) & (y2 <= bottom))


def _probability_problems(batch: ViewBatch) -> Iterator[str]:
    log_probs_RK = batch.labels.log_probs
    # Zero or negative, and finite: by their bits, since converting all of them costs more than all else here.
    bits_RK = log_probs_RK.view(np.uint16)
    valid_R = np.asarray((((bits_RK >= _MINUS_ZERO) & (bits_RK < _MINUS_INFINITY)) | (bits_RK == 0)).all(axis=1))
    yield from batch.bad_regions(~valid_R, "a log-probability is above 0 or no number")
    with np.errstate(all="ignore"):
        mass_R = np.exp(log_probs_RK.astype(np.float64)).sum(axis=1) + np.exp(batch.labels.log_rest.astype(np.float64))
        sums_R = np.abs(mass_R - 1) <= MASS_TOLERANCE
    yield from batch.bad_regions(valid_R & are_unsorted(log_probs_RK), "a soft label is not sorted by probability")
    yield from batch.bad_regions(valid_R & ~sums_R, f"a soft label and its rest don't sum to 1 within {MASS_TOLERANCE}")


def are_unsorted(log_probs_RK: NDArray[np.float16]) -> NDArray[np.bool_]:
    """Whether a label's [R, K] log-probabilities rise by more than rounding can make them.

    `top_k_soft_labels` hands rounding errors on, so one of two neighbours may lie a float16 step too low and the next a
    step too high.
    """
    # The bits of numbers of one sign count steps, so a rise shows as a fall of more than two; the size of a step is
    # looked at only there.
    steps_RK = (log_probs_RK.view(np.uint16) & _MAGNITUDE).astype(np.int16)
    may_rise_R = np.asarray((steps_RK[:, 1:] < steps_RK[:, :-1] - 2).any(axis=1))
    wide_MK = log_probs_RK[may_rise_R].astype(np.float64)
    unsorted_R = np.zeros(len(log_probs_RK), np.bool_)
    with np.errstate(all="ignore"):
        unsorted_R[may_rise_R] = (np.diff(wide_MK, axis=1) > 2 * _float16_step(wide_MK[:, :-1])).any(axis=1)
    return unsorted_R


def _float16_step(values: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(all="ignore"):
        return np.spacing(np.abs(values).astype(np.float16)).astype(np.float64)


def mismatched_labels(labels: TopKSoftLabels, embeddings_RD: NDArray[np.float32], text: TextBank) -> NDArray[np.bool_]:
    """Whether each of R soft labels is another than the one its embedding and the text bank give.

    Tighter than a bound on probabilities: labels were computed from the stored embedding in float64, so the logarithms
    agree but for their own rounding to float16. Labels that `view_problems` finds broken are not judged.
    """
    is_sound_R = _have_known_classes(labels, len(text.features)) & _have_unit_norm(embeddings_RD)
    differs_R = np.zeros(len(is_sound_R), np.bool_)
    if is_sound_R.any():
        differs_R[is_sound_R] = _differ(labels[is_sound_R], embeddings_RD[is_sound_R], text)
    return differs_R


def _differ(labels: TopKSoftLabels, embeddings_RD: NDArray[np.floating], text: TextBank) -> NDArray[np.bool_]:
    class_ids_RK = labels.class_ids.astype(np.int64)
    with np.errstate(all="ignore"):
        again_RC = class_log_probs(embeddings_RD, text.features, logit_scale=text.logit_scale)
        kept_RK = np.take_along_axis(again_RC, class_ids_RK, axis=1)
        tolerance_RK = 2 * _float16_step(kept_RK) + LOG_PROB_TOLERANCE
        differs_R = ~(np.abs(labels.log_probs.astype(np.float64) - kept_RK) <= tolerance_RK).all(axis=1)
        np.put_along_axis(again_RC, class_ids_RK, -np.inf, axis=1)
        differs_R |= ~(again_RC.max(axis=1) <= kept_RK.min(axis=1) + LOG_PROB_TOLERANCE)
        rest_R = np.exp(again_RC).sum(axis=1)
        return differs_R | ~(np.abs(np.exp(labels.log_rest.astype(np.float64)) - rest_R) <= MASS_TOLERANCE)
