"""The views of a cache: which pictures they show and where. Pure functions of sizes and a generator."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.cache.geometry import (
    MIN_VISIBLE_PX,
    Crop,
    draw_crop,
    draw_mosaic,
    resized_hw,
    uncut,
    visible_boxes,
)
from richsem_schemas.cache.manifest import ViewGeometry, ViewsSpec
from richsem_schemas.cache.values import ScaleJitter
from richsem_schemas.cache.view import JITTERS_OF, NO_ANNOTATION, REGION_DTYPE, TILE_DTYPE, VIEW_KINDS, View, ViewKind


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


def block_views(
    block: Sequence[Sample], views: ViewsSpec, *, seed: int, shard: int, first_sample: int
) -> Iterator[View]:
    """All views of one block: the passes of crops, of mosaics, of windows and of wholes, these with their jitters.

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
            yield from _with_jitters(window, views, seed=seed, shard=shard)
    for sample in block if views.whole else ():
        yield from _with_jitters(whole_view(sample, views.geometry), views, seed=seed, shard=shard)


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
    """Four pictures whose inner corners meet at a random centre, clipped by the canvas."""
    numbers, hws, category_ids = zip(*((each.sample, each.hw, each.category_id) for each in samples), strict=True)
    return draw_mosaic(numbers, hws, category_ids, geometry, rng, pass_index=pass_index)


def window_view(sample: Sample, pass_index: int, geometry: ViewGeometry, rng: np.random.Generator) -> View:
    """A detection picture as the detection augmentation shows it, with a region for each box of which a part is seen.

    Boxes are clipped to what is shown and keep their order; none may be left.
    """
    if geometry.scale_jitter is None:
        crop = draw_crop(sample.hw, geometry, rng)
        return _box_view("window", pass_index, sample, crop, crop.out_hw)
    side = geometry.scale_jitter.side
    return _box_view("window", pass_index, sample, draw_scaled(sample.hw, geometry.scale_jitter, rng), (side, side))


def whole_view(sample: Sample, geometry: ViewGeometry) -> View:
    """A detection picture as evaluation shows it, with a region for each of its boxes."""
    out_hw = resized_hw(sample.hw, geometry.whole_short_side, geometry.whole_longest_side)
    return _box_view("whole", 0, sample, uncut(sample.hw, out_hw), out_hw)


def _box_view(kind: ViewKind, pass_index: int, sample: Sample, crop: Crop, canvas_hw: tuple[int, int]) -> View:
    """What a crop shows of a picture, in the upper left corner of a canvas."""
    assert sample.boxes_xyxy_px is not None
    assert sample.rows is not None
    height, width = crop.out_hw
    tiles = np.array([(sample.sample, crop.source_xyxy_px, (0, 0, width, height), crop.flip)], TILE_DTYPE)
    boxes_xyxy_px, kept = visible_boxes(sample.boxes_xyxy_px, crop)
    return View(kind, pass_index, canvas_hw, tiles, _box_regions(boxes_xyxy_px, sample.rows[kept], kept, 0))


def jitter_view(view: View, copies: int, noise_scales: Sequence[float], rng: np.random.Generator) -> View:
    """The canvas and tile of a window or whole view, with noised copies of each of its boxes, box by box.

    Args:
        view: its regions are annotated boxes.
        copies: of each box at each noise scale.
        noise_scales: in turn: each corner moves by at most so many half sides of the box.
        rng: source of the noise.

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


def _box_regions(
    boxes_xyxy_px: NDArray[np.floating],
    rows: NDArray[np.int32],
    annotations: NDArray[np.integer],
    noise_scales: NDArray[np.floating] | float,
) -> NDArray[np.void]:
    regions: NDArray[np.void] = np.zeros(len(boxes_xyxy_px), REGION_DTYPE)
    regions["box_xyxy_px"] = boxes_xyxy_px
    regions["category_id"] = rows
    regions["annotation"] = annotations
    regions["noise_scale"] = noise_scales
    return regions


def draw_scaled(picture_hw: tuple[int, int], jitter: ScaleJitter, rng: np.random.Generator) -> Crop:
    """Scale jitter as a recipe: mirror; fit into a square, times a factor; cut what is larger than the square.

    Args:
        picture_hw: height and width of the decoded picture.
        jitter: the square and the factors to draw from.
        rng: source of all randomness.

    Source:
        Detic's baseline (arXiv 2201.02605), after EfficientDet (arXiv 1911.09070).
    """
    height, width = picture_hw
    flip = bool(rng.random() < 0.5)
    scale = rng.uniform(*jitter.factors) * jitter.side / max(picture_hw)
    scaled_h, scaled_w = max(int(height * scale), 1), max(int(width * scale), 1)
    crop_h, crop_w = min(scaled_h, jitter.side), min(scaled_w, jitter.side)
    left = int(rng.integers(0, scaled_w - crop_w, endpoint=True))
    top = int(rng.integers(0, scaled_h - crop_h, endpoint=True))
    cut = (left, top, left + crop_w, top + crop_h)
    return Crop(picture_hw, (scaled_h, scaled_w), cut, (crop_h, crop_w), flip)
