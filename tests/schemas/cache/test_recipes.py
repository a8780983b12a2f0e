import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from richsem_schemas.cache.geometry import draw_crop, fit
from richsem_schemas.cache.manifest import ViewGeometry, ViewsSpec
from richsem_schemas.cache.recipes import AnnotatedPicture, block_views, crop_view, mosaic_groups, mosaic_view
from richsem_schemas.cache.render import render_view
from richsem_schemas.cache.view import REGION_DTYPE, TILE_DTYPE, View

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
    return [AnnotatedPicture(10 + index, SHAPES[index % 3], index % 5) for index in range(count)]


def views_of(count, *, crops=1, mosaics=2, seed=0, shard=0, first_sample=0):
    spec = ViewsSpec(crops=crops, mosaics=mosaics, geometry=GEOMETRY)
    return list(block_views(samples(count), spec, seed=seed, shard=shard, first_sample=first_sample))


def as_bytes(view):
    return (view.kind, view.pass_index, view.canvas_hw, view.tiles.tobytes(), view.regions.tobytes())


# --- crops ----------------------------------------------------------------------------------------------------------


def test_a_crop_view_is_one_tile_and_one_region_on_the_whole_canvas():
    for seed in range(50):
        view = crop_view(AnnotatedPicture(7, (375, 500), 42), 3, GEOMETRY, rng(seed))
        height, width = view.canvas_hw
        assert (view.kind, view.pass_index, len(view.tiles), len(view.regions)) == ("crop", 3, 1, 1)
        assert view.tiles["sample"].tolist() == [7]
        assert view.tiles["paste_xyxy_px"].tolist() == [[0, 0, width, height]]
        assert view.regions["box_xyxy_px"].tolist() == [[0, 0, width, height]]
        assert view.regions["tile"].tolist() == [0]
        assert view.regions["category_id"].tolist() == [42]
        assert max(view.canvas_hw) <= GEOMETRY.longest_side + 1


# --- mosaics --------------------------------------------------------------------------------------------------------


def gradient(height, width):
    y, x = np.mgrid[0:height, 0:width]
    channels = [255 * x / width, 255 * y / height, 127 + 120 * np.sin(x / width * 5 + y / height * 3)]
    return Image.fromarray(np.stack(channels, -1).round().astype(np.uint8))


@pytest.mark.parametrize("seed", range(12))
def test_each_tile_of_a_mosaic_is_the_visible_part_of_the_whole_fitted_crop(seed, monkeypatch):
    four = [AnnotatedPicture(index, hw, 0) for index, hw in enumerate([(375, 500), (500, 333), (120, 700), (600, 90)])]
    pictures = {sample.sample: gradient(*sample.hw) for sample in four}
    crops = []

    def remember(*arguments):
        crops.append(draw_crop(*arguments))
        return crops[-1]

    monkeypatch.setattr("richsem_schemas.cache.recipes.draw_crop", remember)
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
    four = [AnnotatedPicture(20 + index, hw, index) for index, hw in enumerate(shapes)]
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
    four = [AnnotatedPicture(index, (500, 500), 0) for index in range(4)]
    centres = np.array([mosaic_view(four, 0, GEOMETRY, rng(s)).tiles[0]["paste_xyxy_px"][2:] for s in range(400)])
    assert (centres.min(axis=0) < 330).all()
    assert (centres.max(axis=0) > 950).all()
    assert (np.abs(centres.mean(axis=0) - 640) < 30).all()


@pytest.mark.parametrize("shapes", [[(1, 20_000)] * 4, [(20_000, 1)] * 4, [(1, 1)] * 4])
def test_extreme_pictures_render(shapes):
    four = [AnnotatedPicture(index, hw, 0) for index, hw in enumerate(shapes)]
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
