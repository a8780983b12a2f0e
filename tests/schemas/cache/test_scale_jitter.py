"""Scale jitter: its distribution by formula, its places by hand, and what views of it show."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kstest

from richsem_schemas.cache.geometry import draw_scaled, visible_boxes
from richsem_schemas.cache.manifest import ScaleJitter, ViewGeometry, ViewsSpec
from richsem_schemas.cache.recipes import AnnotatedPicture, block_views, mosaic_view
from richsem_schemas.cache.view import without_rest

LARGE = ScaleJitter(side=640, factors=(0.1, 2.0))
SMALL = ScaleJitter(side=320, factors=(0.5, 1.5))


class Told:
    """A generator that draws what it is told."""

    def __init__(self, *, flip, factor, left, top):
        self._random, self._factor, self._places = (0.4 if flip else 0.6), factor, [left, top]
        self.most = []

    def random(self):
        return self._random

    def uniform(self, low, high):
        return self._factor

    def integers(self, low, high, *, endpoint):
        assert (low, endpoint) == (0, True)
        self.most.append(high)
        return self._places.pop(0)


def test_hand_computed_crop_at_a_factor_above_one():
    # 500 x 1.92 = 960 = 1.5 x 640, and 375 x 1.92 = 720.
    told = Told(flip=True, factor=1.5, left=96, top=48)
    crop = draw_scaled((375, 500), LARGE, told)
    assert told.most == [320, 80]
    assert (crop.first_hw, crop.out_hw, crop.flip) == ((720, 960), (640, 640), True)
    assert crop.cut_xyxy == (96, 48, 736, 688)
    np.testing.assert_allclose(crop.source_xyxy_px, (50, 25, 736 / 1.92, 688 / 1.92))
    # The first is cut at the left, the second lies beside of what is shown; mirrored, left is right.
    boxes = np.array([[40, 125, 150, 225], [0, 0, 49, 375], [375, 300, 500, 375]], np.float32)
    shown, kept = visible_boxes(boxes, crop)
    assert kept.tolist() == [0, 2]
    np.testing.assert_allclose(shown, [[448, 192, 640, 384], [0, 528, 16, 640]], atol=1e-3)


def test_hand_computed_picture_of_a_tenth():
    told = Told(flip=False, factor=0.1, left=0, top=0)
    crop = draw_scaled((375, 500), LARGE, told)
    assert told.most == [0, 0]
    assert (crop.out_hw, crop.cut_xyxy) == ((48, 64), (0, 0, 64, 48))
    assert crop.source_xyxy_px == (0, 0, 500, 375)
    shown, _ = visible_boxes(np.array([[100, 75, 300, 150]], np.float32), crop)
    np.testing.assert_allclose(shown, [[12.8, 9.6, 38.4, 19.2]], rtol=1e-6)


@pytest.mark.parametrize("jitter", [LARGE, SMALL])
@pytest.mark.parametrize("hw", [(375, 500), (500, 375), (480, 480), (60, 1_000)])
def test_factors_and_places_are_uniform(jitter, hw):
    rng = np.random.default_rng(0)
    crops = [draw_scaled(hw, jitter, rng) for _ in range(4_000)]
    low, high = jitter.factors
    factors = np.array([max(crop.first_hw) / jitter.side for crop in crops])
    # Sides are rounded down to pixels.
    assert kstest(factors, "uniform", (low, high - low)).statistic < 1.63 / np.sqrt(len(crops)) + 1 / jitter.side
    assert all(crop.out_hw == tuple(min(side, jitter.side) for side in crop.first_hw) for crop in crops)
    for axis, side in ((0, 1), (1, 0)):
        rooms = np.array([crop.first_hw[side] - jitter.side for crop in crops])
        places = np.array([crop.cut_xyxy[axis] for crop in crops])
        assert (places[rooms <= 0] == 0).all()
        wide = rooms > 20
        if wide.sum() > 100:
            within = (places[wide] + 0.5) / (rooms[wide] + 1)
            assert kstest(within, "uniform").pvalue > 1e-3
    ends = [crop for crop in crops if 0 < max(crop.first_hw) - jitter.side < 8]
    assert {max(crop.cut_xyxy[:2]) == max(crop.first_hw) - jitter.side for crop in ends} == {False, True}
    assert np.mean([crop.flip for crop in crops]) == pytest.approx(0.5, abs=0.03)


def test_shapes_keep_their_aspect_and_extreme_ones_a_pixel():
    rng = np.random.default_rng(1)
    for hw in [(375, 500), (640, 427), (1, 4_000), (4_000, 1), (1, 1)]:
        for _ in range(100):
            height, width = draw_scaled(hw, LARGE, rng).first_hw
            assert min(height, width) >= 1
            if min(hw) > 1:
                # Rounded down by less than a pixel a side.
                assert height / hw[0] == pytest.approx(width / hw[1], abs=1 / min(hw))


def test_what_must_not_be_mirrored_is_drawn_the_same_otherwise():
    for seed in range(30):
        crop = draw_scaled((375, 500), LARGE, np.random.default_rng(seed))
        unflipped = draw_scaled((375, 500), LARGE, np.random.default_rng(seed), may_flip=False)
        assert unflipped == replace(crop, flip=False)


# --- views ----------------------------------------------------------------------------------------------------------


def views_of(*, windows=0, crops=0, mosaics=0, whole=False, boxes=None, jitter=SMALL):
    rows = None if boxes is None else np.ones(len(boxes), np.int32)
    block = [AnnotatedPicture(number, (375, 500), 3, boxes, rows) for number in range(6)]
    geometry = ViewGeometry(scale_jitter=jitter)
    spec = ViewsSpec(crops=crops, mosaics=mosaics, windows=windows, whole=whole, geometry=geometry)
    return list(block_views(block, spec, seed=0, shard=0, first_sample=0))


def test_crops_of_pictures_without_boxes_are_drawn_by_scale_jitter_and_nothing_lies_beside_them():
    sides = []
    for view in views_of(crops=20):
        height, width = view.canvas_hw
        assert view.tiles["paste_xyxy_px"].tolist() == [[0, 0, width, height]]
        assert view.regions["box_xyxy_px"].tolist() == [[0, 0, width, height]]
        assert view.regions["category_id"].tolist() == [3]
        assert without_rest(view).canvas_hw == view.canvas_hw
        x1, _, x2, _ = view.tiles["source_xyxy_px"][0].tolist()
        factor = width / (x2 - x1) * 500 / 320
        assert 0.49 < factor < 1.5
        sides.append(max(height, width))
    assert max(sides) == 320
    # Factors of 0.5 to 1 are half of them.
    assert np.mean(np.array(sides) < 320) == pytest.approx(0.5, abs=0.15)


def test_mosaics_and_crops_beside_windows_are_drawn_as_without_jitter():
    boxes = np.array([[100, 100, 300, 300]], np.float32)
    for options in ({"crops": 2, "windows": 1, "boxes": boxes}, {"mosaics": 2}):
        kind = "mosaic" if "mosaics" in options else "crop"
        jittered, plain = (
            [view for view in views_of(**options, jitter=jitter) if view.kind == kind] for jitter in (SMALL, None)
        )
        assert len(plain) > 3
        for one, other in zip(jittered, plain, strict=True):
            assert one.canvas_hw == other.canvas_hw
            assert one.tiles.tobytes() == other.tiles.tobytes()


def test_a_window_without_its_rest_is_as_large_as_what_it_shows():
    boxes = np.array([[100, 100, 300, 300]], np.float32)
    smaller = 0
    for view in views_of(windows=10, boxes=boxes):
        assert view.canvas_hw == (320, 320)
        shown = without_rest(view)
        assert view.tiles["paste_xyxy_px"].tolist() == [[0, 0, shown.canvas_hw[1], shown.canvas_hw[0]]]
        assert shown.tiles is view.tiles
        assert shown.regions is view.regions
        smaller += shown.canvas_hw != view.canvas_hw
    assert smaller > 20


def test_a_mosaic_keeps_its_grey_rest():
    geometry, rng = ViewGeometry(), np.random.default_rng(0)
    mosaic = mosaic_view([AnnotatedPicture(n, (375, 500), 1) for n in range(4)], 0, geometry, rng)
    assert without_rest(mosaic).canvas_hw == (1280, 1280)
