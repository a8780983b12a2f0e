import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from richsem_prep.recipes import (
    Crop,
    Sample,
    block_views,
    crop_view,
    draw_crop,
    fit,
    mosaic_groups,
    mosaic_view,
    resized_hw,
    source_of_part,
)
from richsem_schemas.manifest import ViewGeometry, ViewsSpec
from richsem_schemas.render import render_view
from richsem_schemas.view import REGION_DTYPE, TILE_DTYPE, View

GEOMETRY = ViewGeometry()
SHAPES = [
    (375, 500),
    (500, 375),
    (480, 640),
    (1, 1),
    (1, 20_000),
    (20_000, 1),
    (33, 2_000),
    (2_000, 33),
    (4_000, 3_000),
]
SIDES = st.integers(1, 3_000) | st.sampled_from([1, 2, 20_000, 65_535])


def rng(seed=0):
    return np.random.default_rng(seed)


def samples(count):
    return [Sample(10 + index, SHAPES[index % 3], index % 5) for index in range(count)]


def views_of(count, *, crops=1, mosaics=2, seed=0, shard=0, first_sample=0):
    spec = ViewsSpec(crops=crops, mosaics=mosaics, geometry=GEOMETRY)
    return list(block_views(samples(count), spec, seed=seed, shard=shard, first_sample=first_sample))


def as_bytes(view):
    return (view.kind, view.pass_index, view.canvas_hw, view.tiles.tobytes(), view.regions.tobytes())


# --- sizes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hw", "short_side", "longest_side", "expected"),
    [
        # The short side becomes `short_side`, the other is cut down to whole pixels.
        ((480, 640), 480, 1_333, (480, 640)),
        ((480, 640), 600, 1_333, (600, 800)),
        ((640, 480), 600, 1_333, (800, 600)),
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
    fitted = fit(Crop((1.0, 2.0, 3.0, 4.0), (height, width), True), side)
    out_h, out_w = fitted.out_hw
    assert 1 <= out_h <= side
    assert 1 <= out_w <= side
    assert max(fitted.out_hw) >= side - 1
    scale = min(side / height, side / width)
    assert abs(out_h - height * scale) <= 1
    assert abs(out_w - width * scale) <= 1
    assert (fitted.source_xyxy_px, fitted.flip) == ((1.0, 2.0, 3.0, 4.0), True)


@pytest.mark.parametrize(
    ("hw", "expected"), [((480, 640), (480, 640)), ((800, 1_066), (480, 640)), ((320, 160), (640, 320))]
)
def test_hand_computed_fits(hw, expected):
    assert fit(Crop((0.0, 0.0, 1.0, 1.0), hw, False), 640).out_hw == expected


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


def test_a_crop_view_is_one_tile_and_one_region_on_the_whole_canvas():
    for seed in range(50):
        view = crop_view(Sample(7, (375, 500), 42), 3, GEOMETRY, rng(seed))
        height, width = view.canvas_hw
        assert (view.kind, view.pass_index, len(view.tiles), len(view.regions)) == ("crop", 3, 1, 1)
        assert view.tiles["sample"].tolist() == [7]
        assert view.tiles["paste_xyxy_px"].tolist() == [[0, 0, width, height]]
        assert view.regions["box_xyxy_px"].tolist() == [[0, 0, width, height]]
        assert view.regions["tile"].tolist() == [0]
        assert view.regions["category_id"].tolist() == [42]
        assert max(view.canvas_hw) <= GEOMETRY.longest_side + 1


# --- parts ----------------------------------------------------------------------------------------------------------


def test_the_whole_part_is_the_whole_source():
    for flip in (False, True):
        crop = Crop((3.0, 4.0, 103.0, 54.0), (100, 200), flip)
        assert source_of_part(crop, (0, 0, 200, 100)) == (3.0, 4.0, 103.0, 54.0)


def test_hand_computed_parts():
    crop = Crop((3.0, 4.0, 103.0, 54.0), (100, 200), False)
    assert source_of_part(crop, (20, 10, 60, 100)) == (13.0, 9.0, 33.0, 54.0)
    mirrored = Crop((3.0, 4.0, 103.0, 54.0), (100, 200), True)
    # Columns 20..60 of the mirrored crop are columns 140..180 before it was mirrored.
    assert source_of_part(mirrored, (20, 10, 60, 100)) == (73.0, 9.0, 93.0, 54.0)


def gradient(height, width):
    y, x = np.mgrid[0:height, 0:width]
    channels = [255 * x / width, 255 * y / height, 127 + 120 * np.sin(x / width * 5 + y / height * 3)]
    return Image.fromarray(np.stack(channels, -1).round().astype(np.uint8))


@pytest.mark.parametrize("seed", range(12))
def test_each_tile_of_a_mosaic_is_the_visible_part_of_the_whole_fitted_crop(seed, monkeypatch):
    four = [Sample(index, hw, 0) for index, hw in enumerate([(375, 500), (500, 333), (120, 700), (600, 90)])]
    pictures = {sample.sample: gradient(*sample.hw) for sample in four}
    crops = []

    def remember(*arguments):
        crops.append(draw_crop(*arguments))
        return crops[-1]

    monkeypatch.setattr("richsem_prep.recipes.draw_crop", remember)
    view = mosaic_view(four, 0, GEOMETRY, rng(seed))
    canvas = np.asarray(render_view(view, pictures)).astype(int)
    for index, (tile, drawn) in enumerate(zip(view.tiles, crops, strict=True)):
        whole = fit(drawn, 640)
        height, width = whole.out_hw
        entire = (0, 0, width, height)
        alone = View(
            "crop",
            0,
            whole.out_hw,
            np.array([(index, whole.source_xyxy_px, entire, whole.flip)], TILE_DTYPE),
            np.zeros(0, REGION_DTYPE),
        )
        rendered = np.asarray(render_view(alone, pictures)).astype(int)
        left, top, right, bottom = tile["paste_xyxy_px"].tolist()
        # Inner corners touch the centre, so what is clipped lies on the outer sides.
        x = 0 if index % 2 else width - (right - left)
        y = 0 if index // 2 else height - (bottom - top)
        visible = rendered[y : y + bottom - top, x : x + right - left]
        assert np.abs(canvas[top:bottom, left:right] - visible).max() <= 1


# --- mosaics --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", range(70))
def test_a_pass_of_mosaics_shows_every_picture(count):
    groups = mosaic_groups(count, rng(count))
    shown = [index for group in groups for index in group]
    assert len(groups) == math.ceil(count / 4)
    assert all(len(group) == 4 for group in groups)
    assert set(shown) == set(range(count))
    if count % 4 == 0:
        assert len(shown) == count
    if count >= 4:
        assert all(len(set(group)) == 4 for group in groups)
        assert max(shown.count(index) for index in range(count)) <= 2
    anchors = [group[0] for group in groups]
    assert len(set(anchors)) == len(anchors)


def test_mosaics_meet_other_pictures_in_every_pass():
    first, second = mosaic_groups(64, rng(0)), mosaic_groups(64, rng(1))
    together = {frozenset(pair) for group in first for pair in itertools.combinations(group, 2)}
    again = {frozenset(pair) for group in second for pair in itertools.combinations(group, 2)}
    assert len(together & again) < 15


@settings(max_examples=150, deadline=None)
@given(shapes=st.lists(st.tuples(SIDES, SIDES), min_size=4, max_size=4), seed=st.integers(0, 2**32))
def test_mosaics_hold_their_tiles_and_regions(shapes, seed):
    four = [Sample(20 + index, hw, index) for index, hw in enumerate(shapes)]
    view = mosaic_view(four, 2, GEOMETRY, rng(seed))
    assert (view.kind, view.pass_index, view.canvas_hw) == ("mosaic", 2, (1_280, 1_280))
    assert view.tiles["sample"].tolist() == [20, 21, 22, 23]
    assert view.regions["tile"].tolist() == [0, 1, 2, 3]
    assert view.regions["category_id"].tolist() == [0, 1, 2, 3]
    assert np.array_equal(view.regions["box_xyxy_px"], view.tiles["paste_xyxy_px"])
    paste = view.tiles["paste_xyxy_px"]
    assert (paste >= 0).all()
    assert (paste <= 1_280).all()
    assert (paste[:, 2:] - paste[:, :2] >= 1).all()
    assert (paste[:, 2:] - paste[:, :2] <= 640).all()
    # Top left, top right, bottom left, bottom right: their inner corners are one point.
    corners = [tuple(corner) for corner in (paste[0, 2:], paste[1, [0, 3]], paste[2, [2, 1]], paste[3, :2])]
    assert len(set(corners)) == 1
    assert all(320 <= coordinate <= 960 for coordinate in corners[0])
    for tile, (height, width) in zip(view.tiles, shapes, strict=True):
        x1, y1, x2, y2 = tile["source_xyxy_px"].astype(float)
        assert -1e-3 <= x1 <= x2 <= width * (1 + 1e-6)
        assert -1e-3 <= y1 <= y2 <= height * (1 + 1e-6)


def test_centres_are_drawn_over_the_whole_range():
    four = [Sample(index, (500, 500), 0) for index in range(4)]
    centres = np.array([mosaic_view(four, 0, GEOMETRY, rng(s)).tiles[0]["paste_xyxy_px"][2:] for s in range(400)])
    assert (centres.min(axis=0) < 330).all()
    assert (centres.max(axis=0) > 950).all()
    assert (np.abs(centres.mean(axis=0) - 640) < 30).all()


@pytest.mark.parametrize("shapes", [[(1, 20_000)] * 4, [(20_000, 1)] * 4, [(1, 1)] * 4])
def test_extreme_pictures_render(shapes):
    four = [Sample(index, hw, 0) for index, hw in enumerate(shapes)]
    pictures = {index: Image.new("RGB", hw[::-1], (9, 9, 9)) for index, hw in enumerate(shapes)}
    for seed in range(3):
        pixels = np.asarray(render_view(mosaic_view(four, 0, GEOMETRY, rng(seed)), pictures))
        assert ((pixels == 9) | (pixels == 114)).all()


# --- blocks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 63, 64])
def test_each_pass_shows_every_sample_of_the_block(count):
    views = views_of(count, crops=2, mosaics=3)
    wanted = {10 + index for index in range(count)}
    for kind, passes in (("crop", 2), ("mosaic", 3)):
        for pass_index in range(passes):
            of_pass = [view for view in views if (view.kind, view.pass_index) == (kind, pass_index)]
            shown = [sample for view in of_pass for sample in view.tiles["sample"].tolist()]
            assert set(shown) == wanted
            if kind == "crop" or count % 4 == 0:
                assert len(shown) == count
    assert len(views) == 2 * count + 3 * math.ceil(count / 4)


def test_views_are_named_apart_by_their_first_sample_kind_and_pass():
    # That is their key and member in the tar.
    for count in (1, 2, 3, 5, 6, 7, 64):
        names = [(int(view.tiles[0]["sample"]), view.member) for view in views_of(count, crops=2, mosaics=3)]
        assert len(set(names)) == len(names)


def test_labels_follow_their_samples():
    labels = {sample.sample: sample.category_id for sample in samples(64)}
    for view in views_of(64):
        for region in view.regions:
            assert region["category_id"] == labels[int(view.tiles[region["tile"]]["sample"])]


def test_an_empty_block_has_no_views():
    assert views_of(0) == []


def test_passes_that_are_not_asked_for_are_not_made():
    assert {view.kind for view in views_of(8, crops=0, mosaics=1)} == {"mosaic"}
    assert {view.kind for view in views_of(8, crops=1, mosaics=0)} == {"crop"}


def test_the_same_key_gives_the_same_views():
    assert [as_bytes(view) for view in views_of(7)] == [as_bytes(view) for view in views_of(7)]


@pytest.mark.parametrize("change", [{"seed": 1}, {"shard": 1}, {"first_sample": 64}])
def test_another_seed_shard_or_block_gives_other_views(change):
    plain, other = views_of(64), views_of(64, **change)
    pairs = [
        (as_bytes(one), as_bytes(two))
        for one, two in zip(plain, other, strict=True)
        if one.kind == "mosaic" or "first_sample" not in change  # crops are keyed by their sample
    ]
    assert not any(one == two for one, two in pairs)


def test_passes_differ():
    views = views_of(4, crops=2, mosaics=2)
    for kind in ("crop", "mosaic"):
        first, second = ([v for v in views if (v.kind, v.pass_index) == (kind, p)] for p in (0, 1))
        assert [v.tiles.tobytes() for v in first] != [v.tiles.tobytes() for v in second]


def test_more_passes_leave_the_first_ones_as_they_were():
    few = {as_bytes(view) for view in views_of(10, crops=1, mosaics=2)}
    many = {as_bytes(view) for view in views_of(10, crops=3, mosaics=4)}
    assert few < many


def test_crops_do_not_depend_on_the_other_samples_of_the_block():
    spec = ViewsSpec(crops=1, mosaics=0, geometry=GEOMETRY)
    whole = [as_bytes(view) for view in block_views(samples(8), spec, seed=0, shard=0, first_sample=0)]
    odd = [as_bytes(view) for view in block_views(samples(8)[1::2], spec, seed=0, shard=0, first_sample=0)]
    assert odd == whole[1::2]


def test_global_random_state_neither_counts_nor_changes():
    np.random.seed(1)
    state = np.random.get_state()[1].tolist()
    first = [as_bytes(view) for view in views_of(5)]
    assert np.random.get_state()[1].tolist() == state
    np.random.seed(2)
    assert [as_bytes(view) for view in views_of(5)] == first
