"""The geometry of views: where each picture is cut, mirrored and pasted. Pure functions of sizes and a generator."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.manifest import ViewGeometry, ViewsSpec
from richsem_schemas.view import NO_ANNOTATION, REGION_DTYPE, TILE_DTYPE, VIEW_KINDS, View, ViewKind

_CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Quadrants (row, column) of a mosaic, in the order of its tiles."""

MIN_VISIBLE_PX = 1e-3
"""Boxes with a thinner part inside a window are not visible in it: float32 can't tell whether they touch it at all."""

BOX_NOISE = 1.0
"""Each corner of a jittered box moves by at most half of the box's side times this, as in DINO's denoising."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What geometry needs to know of a picture.

    Attributes:
        sample: position in the shard.
        hw: height and width, pixels.
        category_id: its image-level label, 0 for none.
        boxes_xyxy_px: float32 [G, 4], its annotated boxes; None for a picture that is no detection data.
        rows: int32 [G], rows of the vocabulary, of its boxes.
    """

    sample: int
    hw: tuple[int, int]
    category_id: int
    boxes_xyxy_px: NDArray[np.float32] | None = None
    rows: NDArray[np.int32] | None = None


@dataclass(frozen=True, slots=True)
class Crop:
    """A rectangle of a picture, mirrored or not, resized to `out_hw` pixels."""

    source_xyxy_px: tuple[float, float, float, float]
    out_hw: tuple[int, int]
    flip: bool


def block_views(
    block: Sequence[Sample], views: ViewsSpec, *, seed: int, shard: int, first_sample: int
) -> Iterator[View]:
    """All views of one block: the passes of crops, of mosaics, of windows, each with its jitter view.

    Each pass shows every picture once. Random numbers are keyed by what is drawn, so no view depends on another.

    Args:
        block: its good samples; may be fewer than planned where some were quarantined, or none.
        views: how many passes of each kind, and their geometry.
        seed: of the cache.
        shard: number of the shard.
        first_sample: planned position of the block's first sample.
    """
    for pass_index in range(views.crops):
        for sample in block:
            yield crop_view(sample, pass_index, views.geometry, _rng(seed, "crop", pass_index, shard, sample.sample))
    for pass_index in range(views.mosaics):
        rng = _rng(seed, "mosaic", pass_index, shard, first_sample)
        for group in mosaic_groups(len(block), rng):
            yield mosaic_view([block[index] for index in group], pass_index, views.geometry, rng)
    for pass_index in range(views.windows):
        for sample in block:
            rng = _rng(seed, "window", pass_index, shard, sample.sample)
            window = window_view(sample, pass_index, views.geometry, rng)
            yield window
            if views.jitters:
                yield jitter_view(window, views.jitters, _rng(seed, "jitter", pass_index, shard, sample.sample))


def _rng(seed: int, kind: ViewKind, pass_index: int, shard: int, sample: int) -> np.random.Generator:
    return np.random.default_rng([seed, VIEW_KINDS.index(kind), pass_index, shard, sample])


def mosaic_groups(count: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """Deal `count` pictures into fours, each once; the last four borrows what it lacks from the first ones.

    Fewer than four pictures repeat.
    """
    order = rng.permutation(count)
    padded = np.resize(order, -(-count // 4) * 4) if count else order
    return [tuple(int(index) for index in four) for four in padded.reshape(-1, 4)]


def crop_view(sample: Sample, pass_index: int, geometry: ViewGeometry, rng: np.random.Generator) -> View:
    """A picture as the detection augmentation shows it, with one region: the whole canvas."""
    crop = draw_crop(sample.hw, geometry, rng)
    height, width = crop.out_hw
    whole = (0, 0, width, height)
    tiles = np.array([(sample.sample, crop.source_xyxy_px, whole, crop.flip)], TILE_DTYPE)
    regions = np.array([(whole, 0, sample.category_id, NO_ANNOTATION, 0)], REGION_DTYPE)
    return View("crop", pass_index, crop.out_hw, tiles, regions)


def mosaic_view(samples: Sequence[Sample], pass_index: int, geometry: ViewGeometry, rng: np.random.Generator) -> View:
    """Four pictures whose inner corners meet at a random centre, clipped by the canvas.

    Source:
        The reference: each picture augmented, fitted into 640, the centre drawn in 0.5..1.5 x 640 of a 1280 canvas.
    """
    side = geometry.mosaic_tile
    centre_y, centre_x = (int(value) for value in rng.uniform(0.5 * side, 1.5 * side, 2))
    tiles: NDArray[np.void] = np.zeros(4, TILE_DTYPE)
    regions: NDArray[np.void] = np.zeros(4, REGION_DTYPE)
    for index, (sample, (row, column)) in enumerate(zip(samples, _CORNERS, strict=True)):
        crop = fit(draw_crop(sample.hw, geometry, rng), side)
        height, width = crop.out_hw
        left = centre_x if column else centre_x - width
        top = centre_y if row else centre_y - height
        paste = (max(left, 0), max(top, 0), min(left + width, 2 * side), min(top + height, 2 * side))
        visible = (paste[0] - left, paste[1] - top, paste[2] - left, paste[3] - top)
        tiles[index] = (sample.sample, source_of_part(crop, visible), paste, crop.flip)
        regions[index] = (paste, index, sample.category_id, NO_ANNOTATION, 0)
    return View("mosaic", pass_index, (2 * side, 2 * side), tiles, regions)


def window_view(sample: Sample, pass_index: int, geometry: ViewGeometry, rng: np.random.Generator) -> View:
    """A detection picture as the detection augmentation shows it, with a region for each box of which a part is seen.

    Boxes are clipped to the canvas and keep their order; none may be left.
    """
    assert sample.boxes_xyxy_px is not None
    assert sample.rows is not None
    crop = draw_crop(sample.hw, geometry, rng)
    height, width = crop.out_hw
    tiles = np.array([(sample.sample, crop.source_xyxy_px, (0, 0, width, height), crop.flip)], TILE_DTYPE)
    boxes_xyxy_px, kept = visible_boxes(sample.boxes_xyxy_px, crop)
    return View("window", pass_index, crop.out_hw, tiles, _box_regions(boxes_xyxy_px, sample.rows[kept], kept, 0))


def visible_boxes(boxes_xyxy_px: NDArray[np.float32], crop: Crop) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Boxes of a picture as a crop shows them.

    Args:
        boxes_xyxy_px: [G, 4], in pixels of the picture.
        crop: what is shown of it.

    Returns:
        Boxes in pixels of the crop, clipped to it, float32 [K, 4]; and int64 [K], which of the G boxes they are.
    """
    x1, y1, x2, y2 = crop.source_xyxy_px
    height, width = crop.out_hw
    scale = np.array([width / (x2 - x1), height / (y2 - y1)] * 2)
    shown = (boxes_xyxy_px.astype(np.float64) - [x1, y1, x1, y1]) * scale
    if crop.flip:
        shown[:, [0, 2]] = width - shown[:, [2, 0]]
    clipped = np.clip(shown, 0, [width, height, width, height])
    kept = np.flatnonzero((clipped[:, 2:] - clipped[:, :2] >= MIN_VISIBLE_PX).all(axis=1))
    return clipped[kept].astype(np.float32), kept


def jitter_view(window: View, copies: int, rng: np.random.Generator) -> View:
    """The canvas and tile of a window view, with noised copies of each of its boxes, box by box.

    Source:
        Zhang et al. 2022, DINO (arXiv 2203.03605), the noise of positive denoising queries.
    """
    boxes_xyxy_px = np.repeat(window.regions["box_xyxy_px"].astype(np.float64), copies, axis=0)
    half_sides = (boxes_xyxy_px[:, 2:] - boxes_xyxy_px[:, :2]) / 2
    shift = rng.uniform(-BOX_NOISE, BOX_NOISE, boxes_xyxy_px.shape) * np.tile(half_sides, 2)
    height, width = window.canvas_hw
    noised = np.clip(boxes_xyxy_px + shift, 0, [width, height, width, height])
    # Noise may leave nothing of a sliver at the border.
    is_lost = (noised[:, 2:] - noised[:, :2] < MIN_VISIBLE_PX).any(axis=1)
    noised[is_lost] = boxes_xyxy_px[is_lost]
    rows, annotations = (np.repeat(window.regions[name], copies) for name in ("category_id", "annotation"))
    regions = _box_regions(noised, rows, annotations, BOX_NOISE)
    return View("jitter", window.pass_index, window.canvas_hw, window.tiles, regions)


def _box_regions(
    boxes_xyxy_px: NDArray[np.floating],
    rows: NDArray[np.int32],
    annotations: NDArray[np.integer],
    noise_scale: float,
) -> NDArray[np.void]:
    regions: NDArray[np.void] = np.zeros(len(boxes_xyxy_px), REGION_DTYPE)
    regions["box_xyxy_px"] = boxes_xyxy_px
    regions["category_id"] = rows
    regions["annotation"] = annotations
    regions["noise_scale"] = noise_scale
    return regions


def draw_crop(picture_hw: tuple[int, int], geometry: ViewGeometry, rng: np.random.Generator) -> Crop:
    """DETR's training augmentation as a recipe: mirror; then resize, or resize, crop and resize.

    Args:
        picture_hw: height and width of the decoded picture.
        geometry: the scales to draw from.
        rng: source of all randomness.
    """
    height, width = picture_hw
    flip = bool(rng.random() < 0.5)
    crop_first = bool(rng.random() < 0.5)
    short_side = int(rng.choice(geometry.short_sides))
    if not (crop_first and geometry.first_short_sides):
        out = resized_hw(picture_hw, short_side, geometry.longest_side)
        return Crop((0.0, 0.0, float(width), float(height)), out, flip)
    first_h, first_w = resized_hw(picture_hw, int(rng.choice(geometry.first_short_sides)), None)
    smallest, largest = geometry.crop_sides
    crop_w = int(rng.integers(min(smallest, first_w), min(largest, first_w), endpoint=True))
    crop_h = int(rng.integers(min(smallest, first_h), min(largest, first_h), endpoint=True))
    left = int(rng.integers(0, first_w - crop_w, endpoint=True))
    top = int(rng.integers(0, first_h - crop_h, endpoint=True))
    x, y = width / first_w, height / first_h
    source = (left * x, top * y, (left + crop_w) * x, (top + crop_h) * y)
    return Crop(source, resized_hw((crop_h, crop_w), short_side, geometry.longest_side), flip)


def resized_hw(hw: tuple[int, int], short_side: int, longest_side: int | None) -> tuple[int, int]:
    """Height and width after a resize that keeps the aspect ratio, as DETR computes them; at least 1 px each."""
    short, long = min(hw), max(hw)
    if longest_side is not None and long / short * short_side > longest_side:
        short_side = round(longest_side * short / long)
    other = int(short_side * long / short) if short_side else longest_side or 1
    sides = (max(short_side, 1), max(other, 1))
    return sides if hw[0] <= hw[1] else (sides[1], sides[0])


def fit(crop: Crop, side: int) -> Crop:
    """The same crop resized to fit into a square of `side` pixels, as large as it can be."""
    height, width = crop.out_hw
    scale = min(side / height, side / width)
    return Crop(crop.source_xyxy_px, (max(int(height * scale), 1), max(int(width * scale), 1)), crop.flip)


def source_of_part(crop: Crop, part_xyxy: tuple[int, int, int, int]) -> tuple[float, float, float, float]:
    """Which rectangle of the picture fills a part of the resized crop.

    Args:
        crop: the whole crop.
        part_xyxy: in pixels of the resized, mirrored crop.
    """
    x1, y1, x2, y2 = crop.source_xyxy_px
    height, width = crop.out_hw
    left, top, right, bottom = part_xyxy
    if crop.flip:
        left, right = width - right, width - left
    x, y = (x2 - x1) / width, (y2 - y1) / height
    return (x1 + left * x, y1 + top * y, x1 + right * x, y1 + bottom * y)
