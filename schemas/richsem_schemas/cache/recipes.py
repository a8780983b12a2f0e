"""The views of a cache: which pictures they show and where. Pure functions of sizes and a generator."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.cache.geometry import (
    MIN_VISIBLE_PX,
    Crop,
    draw_crop,
    draw_scaled,
    fit,
    resized_hw,
    source_of_part,
    uncut,
    visible_boxes,
)
from richsem_schemas.cache.manifest import ViewGeometry, ViewsSpec
from richsem_schemas.cache.view import JITTERS_OF, NO_ANNOTATION, REGION_DTYPE, TILE_DTYPE, VIEW_KINDS, View, ViewKind

QUADRANTS = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Row and column of each picture of a mosaic, in the order of its tiles."""

PICTURES_PER_MOSAIC = len(QUADRANTS)


@dataclass(frozen=True, slots=True)
class AnnotatedPicture:
    """A picture by its size and labels, which is all that views need to know.

    Attributes:
        sample: position in the shard.
        hw: height and width, pixels.
        category_id: its image-level label, 0 for none.
        boxes_xyxy_px: float32 [G, 4], its annotated boxes; None for a picture that is no detection data.
        rows: int [G], rows of the vocabulary, of its boxes.
    """

    sample: int
    hw: tuple[int, int]
    category_id: int
    boxes_xyxy_px: NDArray[np.float32] | None = None
    rows: NDArray[np.integer] | None = None


def block_views(
    block: Sequence[AnnotatedPicture], views: ViewsSpec, *, seed: int, shard: int, first_sample: int
) -> Iterator[View]:
    """All views of one block: the passes of crops, of mosaics, of windows and of wholes, these with their jitters.

    Each pass shows every picture once. Random numbers are keyed by what is drawn, so no view depends on another.

    The block may have fewer pictures than planned, or none; `first_sample` is the planned position of its first.
    """
    for pass_index in range(views.crops):
        for picture in block:
            yield crop_view(picture, pass_index, views.of_crops, _rng(seed, "crop", pass_index, shard, picture.sample))
    for pass_index in range(views.mosaics):
        rng = _rng(seed, "mosaic", pass_index, shard, first_sample)
        for group in mosaic_groups(len(block), rng):
            yield mosaic_view([block[index] for index in group], pass_index, views.geometry, rng)
    for pass_index in range(views.windows):
        for picture in block:
            rng = _rng(seed, "window", pass_index, shard, picture.sample)
            window = window_view(picture, pass_index, views.geometry, rng)
            yield from _with_jitters(window, views, seed=seed, shard=shard)
    for picture in block if views.whole else ():
        yield from _with_jitters(whole_view(picture, views.geometry), views, seed=seed, shard=shard)


def _with_jitters(view: View, views: ViewsSpec, *, seed: int, shard: int) -> Iterator[View]:
    yield view
    if views.jitters:
        rng = _rng(seed, JITTERS_OF[view.kind], view.pass_index, shard, int(view.tiles["sample"][0]))
        yield jitter_view(view, views.jitters, views.noise_scales, rng)


def _rng(seed: int, kind: ViewKind, pass_index: int, shard: int, sample: int) -> np.random.Generator:
    return np.random.default_rng([seed, VIEW_KINDS.index(kind), pass_index, shard, sample])


def mosaic_groups(count: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """Deal `count` pictures into fours, each once; the last four borrows what it lacks from the first ones.

    Fewer than four pictures repeat.
    """
    order = rng.permutation(count)
    padded = np.resize(order, -(-count // PICTURES_PER_MOSAIC) * PICTURES_PER_MOSAIC) if count else order
    return [tuple(four) for four in padded.reshape(-1, PICTURES_PER_MOSAIC).tolist()]


def crop_view(picture: AnnotatedPicture, pass_index: int, geometry: ViewGeometry, rng: np.random.Generator) -> View:
    """A picture as the detection augmentation shows it, with one region: the whole canvas."""
    crop = _drawn(picture, geometry, rng)
    tiles = _one_tile(picture, crop)
    regions = np.array([(tiles["paste_xyxy_px"][0], 0, picture.category_id, NO_ANNOTATION, 0)], REGION_DTYPE)
    return View("crop", pass_index, crop.out_hw, tiles, regions)


def mosaic_view(
    pictures: Sequence[AnnotatedPicture], pass_index: int, geometry: ViewGeometry, rng: np.random.Generator
) -> View:
    """Four pictures, each with a crop of its own, whose inner corners meet at a random centre, cut by the canvas.

    A region each, with the picture's image-level label.

    Source:
        The reference: each picture augmented, fitted into 640, the centre drawn in 0.5..1.5 x 640 of a 1280 canvas.
    """
    side = geometry.mosaic_tile
    centre_y, centre_x = (int(value) for value in rng.uniform(0.5 * side, 1.5 * side, 2))
    tiles: NDArray[np.void] = np.zeros(PICTURES_PER_MOSAIC, TILE_DTYPE)
    regions: NDArray[np.void] = np.zeros(PICTURES_PER_MOSAIC, REGION_DTYPE)
    for index, (picture, (row, column)) in enumerate(zip(pictures, QUADRANTS, strict=True)):
        crop = fit(draw_crop(picture.hw, geometry, rng), side)
        height, width = crop.out_hw
        left = centre_x if column else centre_x - width
        top = centre_y if row else centre_y - height
        paste = (max(left, 0), max(top, 0), min(left + width, 2 * side), min(top + height, 2 * side))
        visible = (paste[0] - left, paste[1] - top, paste[2] - left, paste[3] - top)
        tiles[index] = (picture.sample, source_of_part(crop, visible), paste, crop.flip)
        regions[index] = (paste, index, picture.category_id, NO_ANNOTATION, 0)
    return View("mosaic", pass_index, (2 * side, 2 * side), tiles, regions)


def window_view(picture: AnnotatedPicture, pass_index: int, geometry: ViewGeometry, rng: np.random.Generator) -> View:
    """A detection picture as the detection augmentation shows it, with a region for each box of which a part is seen.

    Boxes are clipped to what is shown and keep their order; none may be left.
    """
    crop, jitter = _drawn(picture, geometry, rng), geometry.scale_jitter
    canvas_hw = crop.out_hw if jitter is None else (jitter.side, jitter.side)
    return box_view("window", pass_index, picture, crop, canvas_hw)


def whole_view(picture: AnnotatedPicture, geometry: ViewGeometry) -> View:
    """A detection picture as evaluation shows it, with a region for each of its boxes."""
    out_hw = resized_hw(picture.hw, geometry.whole_short_side, geometry.whole_longest_side)
    return box_view("whole", 0, picture, uncut(picture.hw, out_hw), out_hw)


def box_view(
    kind: ViewKind, pass_index: int, picture: AnnotatedPicture, crop: Crop, canvas_hw: tuple[int, int]
) -> View:
    """A crop of a detection picture in the upper left corner of a canvas, with a region for each box that it shows."""
    assert picture.boxes_xyxy_px is not None
    assert picture.rows is not None
    boxes_xyxy_px, kept = visible_boxes(picture.boxes_xyxy_px, crop)
    regions = _box_regions(boxes_xyxy_px, picture.rows[kept], kept, 0)
    return View(kind, pass_index, canvas_hw, _one_tile(picture, crop), regions)


def jitter_view(view: View, copies: int, noise_scales: Sequence[float], rng: np.random.Generator) -> View:
    """The canvas and tile of a window or whole view, with noised copies of each of its boxes, box by box.

    So many copies of each box at each noise scale, in turn: each corner moves by at most so many half sides of the box.

    Source:
        Zhang et al. 2022, DINO (arXiv 2203.03605), the noise of positive denoising queries.
    """
    each = copies * len(noise_scales)
    scales_R = np.tile(np.repeat(noise_scales, copies), len(view.regions))
    boxes_xyxy_px = np.repeat(view.regions["box_xyxy_px"].astype(np.float64), each, axis=0)
    half_sides = (boxes_xyxy_px[:, 2:] - boxes_xyxy_px[:, :2]) / 2
    shift = rng.uniform(-1, 1, boxes_xyxy_px.shape) * scales_R[:, None] * np.tile(half_sides, 2)
    width, height = view.tiles["paste_xyxy_px"][0, 2:].tolist()
    noised = np.clip(boxes_xyxy_px + shift, 0, [width, height, width, height])
    # Noise may leave nothing of a sliver at the border.
    is_lost = (noised[:, 2:] - noised[:, :2] < MIN_VISIBLE_PX).any(axis=1)
    noised[is_lost] = boxes_xyxy_px[is_lost]
    rows, annotations = (np.repeat(view.regions[name], each) for name in ("category_id", "annotation"))
    regions = _box_regions(noised, rows, annotations, scales_R)
    return View(JITTERS_OF[view.kind], view.pass_index, view.canvas_hw, view.tiles, regions)


def _drawn(picture: AnnotatedPicture, geometry: ViewGeometry, rng: np.random.Generator) -> Crop:
    if geometry.scale_jitter is None:
        return draw_crop(picture.hw, geometry, rng)
    return draw_scaled(picture.hw, geometry.scale_jitter, rng)


def _one_tile(picture: AnnotatedPicture, crop: Crop) -> NDArray[np.void]:
    height, width = crop.out_hw
    return np.array([(picture.sample, crop.source_xyxy_px, (0, 0, width, height), crop.flip)], TILE_DTYPE)


def _box_regions(
    boxes_xyxy_px: NDArray[np.floating],
    rows: NDArray[np.integer],
    annotations: NDArray[np.integer],
    noise_scales: NDArray[np.floating] | float,
) -> NDArray[np.void]:
    regions: NDArray[np.void] = np.zeros(len(boxes_xyxy_px), REGION_DTYPE)
    regions["box_xyxy_px"] = boxes_xyxy_px
    regions["category_id"] = rows
    regions["annotation"] = annotations
    regions["noise_scale"] = noise_scales
    return regions
