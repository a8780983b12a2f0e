"""Sizes, crops and what they show, against DETR's rules, hand-computed values and what the reference draws."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from richsem_schemas.cache.geometry import Crop, draw_crop, fit, resized_hw, source_of_part, uncut, visible_boxes
from richsem_schemas.cache.manifest import ViewGeometry

GEOMETRY = ViewGeometry()
SIDES = st.integers(1, 3_000) | st.sampled_from([1, 2, 20_000, 65_535])


def rng(seed=0):
    return np.random.default_rng(seed)


# --- sizes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hw", "short_side", "longest_side", "expected"),
    [
        # The short side becomes `short_side`, the other is cut down to whole pixels.
        ((480, 640), 480, 1_333, (480, 640)),
        ((480, 640), 600, 1_333, (600, 800)),
        ((640, 480), 600, 1_333, (800, 600)),
        ((480, 640), 800, 1_333, (800, 1_066)),
        ((640, 480), 800, 1_333, (1_066, 800)),
        ((375, 500), 800, 1_333, (800, 1_066)),  # 1066.67
        ((500, 375), 800, 1_333, (1_066, 800)),
        ((333, 500), 480, 1_333, (480, 720)),  # 720.72
        ((427, 640), 800, 1_333, (800, 1_199)),  # 1199.06
        ((100, 100), 512, 1_333, (512, 512)),
        ((1, 1), 480, 1_333, (480, 480)),
        # Where the long side would pass 1333, the short side is 1333 short / long, rounded, and the long one follows.
        ((300, 600), 800, 1_333, (666, 1_332)),  # 666.5 rounds to the even number
        ((600, 300), 800, 1_333, (1_332, 666)),
        ((500, 1_000), 672, 1_333, (666, 1_332)),
        ((600, 1_000), 800, 1_333, (800, 1_333)),  # 1333.3 > 1333: 799.8 rounds to 800, 1333.3 is cut
        ((200, 1_000), 480, 1_333, (267, 1_335)),  # 266.6 rounds up: DETR may pass its bound by less than a step
        ((100, 1_000), 480, 1_333, (133, 1_330)),
        ((100, 400), 800, 1_333, (333, 1_332)),
        # Without a bound.
        ((375, 500), 400, None, (400, 533)),
        ((100, 1_000), 600, None, (600, 6_000)),
        ((1, 20_000), 400, None, (400, 8_000_000)),
    ],
)
def test_sizes_are_those_of_detrs_rule(hw, short_side, longest_side, expected):
    assert resized_hw(hw, short_side, longest_side) == expected


def test_a_picture_too_thin_for_the_rule_keeps_one_pixel():
    # DETR would make a side of nought pixels of these.
    assert resized_hw((1, 20_000), 480, 1_333) == (1, 1_333)
    assert resized_hw((20_000, 1), 480, 1_333) == (1_333, 1)


@settings(max_examples=300, deadline=None)
@given(height=SIDES, width=SIDES, short_side=st.integers(1, 1_000))
def test_sizes_are_transposed_with_the_picture_and_positive(height, width, short_side):
    for longest_side in (1_333, None):
        out = resized_hw((height, width), short_side, longest_side)
        assert resized_hw((width, height), short_side, longest_side) == out[::-1]
        assert min(out) >= 1
    assert min(resized_hw((height, width), short_side, None)) == short_side


@settings(max_examples=300, deadline=None)
@given(height=SIDES, width=SIDES, short_side=st.sampled_from(GEOMETRY.short_sides))
def test_the_longest_side_is_passed_by_less_than_what_rounding_the_short_side_adds(height, width, short_side):
    out = resized_hw((height, width), short_side, 1_333)
    ratio = max(height, width) / min(height, width)
    assert max(out) <= 1_333 + 0.5 * ratio
    assert min(out) <= short_side


@settings(max_examples=200, deadline=None)
@given(height=st.integers(1, 3_000), width=st.integers(1, 3_000), side=st.integers(1, 1_000))
def test_fitting_keeps_the_aspect_ratio_within_the_square(height, width, side):
    crop = Crop((40, 60), (20, 30), (1, 2, 3, 4), (height, width), True)
    fitted = fit(crop, side)
    out_h, out_w = fitted.out_hw
    assert 1 <= out_h <= side
    assert 1 <= out_w <= side
    assert max(fitted.out_hw) >= side - 1
    scale = min(side / height, side / width)
    assert abs(out_h - height * scale) <= 1
    assert abs(out_w - width * scale) <= 1
    assert (fitted.source_xyxy_px, fitted.flip) == (crop.source_xyxy_px, True)


@pytest.mark.parametrize(
    ("hw", "expected"),
    [
        ((480, 640), (480, 640)),
        ((800, 1_066), (480, 640)),
        ((320, 160), (640, 320)),
        ((10, 10_000), (1, 640)),
        ((3, 3), (640, 640)),
    ],
)
def test_hand_computed_fits(hw, expected):
    assert fit(uncut((1, 1), hw), 640).out_hw == expected


# --- crops ----------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(height=SIDES, width=SIDES, seed=st.integers(0, 2**32))
def test_crops_lie_inside_the_picture(height, width, seed):
    crop = draw_crop((height, width), GEOMETRY, rng(seed))
    x1, y1, x2, y2 = crop.source_xyxy_px
    assert 0 <= x1 < x2 <= width * (1 + 1e-12)
    assert 0 <= y1 < y2 <= height * (1 + 1e-12)
    assert min(crop.out_hw) >= 1


def test_half_of_the_crops_are_mirrored_and_half_show_the_whole_picture():
    crops = [draw_crop((375, 500), GEOMETRY, rng(seed)) for seed in range(1_000)]
    whole = [crop for crop in crops if crop.source_xyxy_px == (0.0, 0.0, 500.0, 375.0)]
    assert 430 < sum(crop.flip for crop in crops) < 570
    assert 430 < len(whole) < 570
    assert 170 < sum(crop.flip for crop in whole) < 330
    assert {min(crop.out_hw) for crop in whole} == set(GEOMETRY.short_sides)


def test_without_a_first_side_nothing_is_cut():
    geometry = ViewGeometry(short_sides=(128,), first_short_sides=())
    crops = [draw_crop((128, 160), geometry, rng(seed)) for seed in range(100)]
    assert {(crop.source_xyxy_px, crop.out_hw) for crop in crops} == {((0.0, 0.0, 160.0, 128.0), (128, 160))}
    assert {crop.flip for crop in crops} == {False, True}


def test_cut_crops_have_the_sides_that_the_reference_draws():
    sides, short_sides = [], set()
    for seed in range(2_000):
        crop = draw_crop((500, 500), GEOMETRY, rng(seed))
        x1, y1, x2, y2 = crop.source_xyxy_px
        if (x2 - x1, y2 - y1) == (500, 500):
            continue
        short_sides.add(min(crop.out_hw))
        # A square picture's first short side is 400, 500 or 600: the crop's side in it is a whole number of pixels.
        fits = [
            first
            for first in (400, 500, 600)
            if all(
                384 <= round(side * first / 500) <= min(first, 600) and abs(side * first / 500 % 1 - 0.5) > 0.4999
                for side in (x2 - x1, y2 - y1)
            )
        ]
        assert fits
        sides.append((x2 - x1) / 500)
    assert short_sides == set(GEOMETRY.short_sides)
    assert min(sides) >= 384 / 600
    assert max(sides) <= 1


def test_crops_keep_the_aspect_ratio_of_what_they_show():
    for seed in range(300):
        crop = draw_crop((375, 500), GEOMETRY, rng(seed))
        x1, y1, x2, y2 = crop.source_xyxy_px
        height, width = crop.out_hw
        assert abs((x2 - x1) / (y2 - y1) / (width / height) - 1) < 0.01


@pytest.mark.parametrize("hw", [(375, 500), (1_000, 40), (1, 1)])
def test_a_cut_lies_inside_of_the_resized_picture_with_sides_in_range(hw):
    cuts = 0
    for seed in range(200):
        crop = draw_crop(hw, GEOMETRY, rng(seed))
        left, top, right, bottom = crop.cut_xyxy
        height, width = crop.first_hw
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        if crop.first_hw != hw:
            cuts += 1
            assert min(384, width) <= right - left <= 600
            assert min(384, height) <= bottom - top <= 600
    assert cuts > 60


def test_what_must_not_be_mirrored_is_drawn_the_same_otherwise():
    for seed in range(50):
        crop = draw_crop((375, 500), GEOMETRY, rng(seed))
        assert draw_crop((375, 500), GEOMETRY, rng(seed), may_flip=False) == replace(crop, flip=False)


# --- parts ----------------------------------------------------------------------------------------------------------


def test_the_whole_part_is_the_whole_source():
    for flip in (False, True):
        crop = Crop((60, 110), (60, 110), (3, 4, 103, 54), (100, 200), flip)
        assert source_of_part(crop, (0, 0, 200, 100)) == (3.0, 4.0, 103.0, 54.0)


def test_hand_computed_parts():
    crop = Crop((60, 110), (60, 110), (3, 4, 103, 54), (100, 200), False)
    assert source_of_part(crop, (20, 10, 60, 100)) == (13.0, 9.0, 33.0, 54.0)
    mirrored = replace(crop, flip=True)
    # Columns 20..60 of the mirrored crop are columns 140..180 before it was mirrored.
    assert source_of_part(mirrored, (20, 10, 60, 100)) == (73.0, 9.0, 93.0, 54.0)


def test_a_cut_is_a_part_of_the_picture_in_its_own_pixels():
    # Cut at twice its height and half its width.
    assert Crop((50, 80), (100, 40), (10, 20, 30, 60), (7, 7), True).source_xyxy_px == (20, 10, 60, 30)


def test_hand_computed_boxes_of_a_crop():
    # Columns 10..50 and rows 20..40 of the picture, at half and twice their size.
    crop = Crop((60, 100), (60, 100), (10, 20, 50, 40), (40, 20), False)
    boxes = np.array([[0, 0, 100, 60], [20, 25, 30, 30], [50, 20, 60, 40], [0, 30, 12, 31]], np.float32)
    shown, kept = visible_boxes(boxes, crop)
    assert kept.tolist() == [0, 1, 3]
    assert shown.tolist() == [[0, 0, 20, 40], [5, 10, 10, 20], [0, 20, 1, 22]]
    mirrored, kept = visible_boxes(boxes, replace(crop, flip=True))
    assert kept.tolist() == [0, 1, 3]
    assert mirrored.tolist() == [[0, 0, 20, 40], [10, 10, 15, 20], [19, 20, 20, 22]]
