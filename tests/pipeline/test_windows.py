"""Window and jitter views: what they show is what the trainer's own augmentation would show."""

import numpy as np
import pytest
from PIL import Image

from richsem_prep.sources.datasets import find_dataset
from richsem_schemas.cache.geometry import draw_crop, draw_scaled, resized_hw
from richsem_schemas.cache.manifest import ScaleJitter, ViewGeometry, ViewsSpec
from richsem_schemas.cache.recipes import (
    AnnotatedPicture,
    block_views,
    jitter_view,
    whole_view,
)
from richsem_schemas.cache.render import render_view
from richsem_schemas.cache.view import PAD_VALUE, View
from richsem_schemas.pictures.decode import MAX_PICTURE_PIXELS
from richsem_train.config import load_config

GEOMETRY = ViewGeometry(
    short_sides=(96, 128, 160), longest_side=267, first_short_sides=(80, 100, 120), crop_sides=(77, 120)
)
HW = (90, 120)


def sample(number, boxes, rows=None, hw=HW):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    rows = np.arange(1, len(boxes) + 1) if rows is None else rows
    return AnnotatedPicture(number, hw, 0, boxes, np.array(rows, np.int32))


def views_of(block, *, windows=2, jitters=0, seed=7, geometry=GEOMETRY, **more):
    spec = ViewsSpec(crops=0, mosaics=0, windows=windows, jitters=jitters, geometry=geometry, **more)
    return list(block_views(block, spec, seed=seed, shard=3, first_sample=0))


def test_a_window_shows_the_pixels_of_its_boxes():
    # A red object on blue, whose box must be red in every window, and its surroundings not.
    picture = Image.new("RGB", (HW[1], HW[0]), (0, 0, 255))
    box = (40, 30, 80, 60)
    picture.paste((255, 0, 0), box)
    seen = 0
    for view in views_of([sample(0, [box])], windows=40):
        pixels = np.asarray(render_view(view, {0: picture})).astype(int)
        for x1, y1, x2, y2 in view.regions["box_xyxy_px"].round().astype(int):
            inside = pixels[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2]
            if inside.size:
                assert (inside[..., 0] > 200).all()
                seen += 1
            red = (pixels[..., 0] > 128).nonzero()
            np.testing.assert_allclose([red[1].min(), red[0].min()], [x1, y1], atol=1.5)
            np.testing.assert_allclose([red[1].max() + 1, red[0].max() + 1], [x2, y2], atol=1.5)
    assert seen > 30


def test_boxes_keep_their_order_and_rows_and_those_unseen_are_left_out():
    boxes = [(0, 0, 5, 5), (20, 20, 100, 80), (110, 80, 120, 90), (0, 0, 120, 90)]
    views = views_of([sample(0, boxes, rows=[5, 0, 9, 2])], windows=60)
    assert {view.kind for view in views} == {"window"}
    assert [view.pass_index for view in views] == list(range(60))
    for view in views:
        rows = view.regions["category_id"].tolist()
        assert rows == [row for row in (5, 0, 9, 2) if row in rows]
        assert {0, 2} <= set(rows)
        # Which of the picture's boxes each is; none is noised.
        assert view.regions["annotation"].tolist() == [[5, 0, 9, 2].index(row) for row in rows]
        assert (view.regions["noise_scale"] == 0).all()
        assert (view.regions["tile"] == 0).all()
    assert {len(view.regions) for view in views} == {2, 3, 4}


def test_a_picture_without_boxes_has_its_window_all_the_same():
    (view,) = views_of([sample(4, [])], windows=1, jitters=0)
    assert len(view.regions) == 0
    assert view.tiles["sample"].tolist() == [4]


def test_each_pass_shows_every_picture_and_no_view_depends_on_another():
    block = [sample(number, [(5, 5, 60, 60)]) for number in range(5)]
    views = views_of(block, windows=3)
    assert [(v.pass_index, int(v.tiles["sample"][0])) for v in views] == [(p, s) for p in range(3) for s in range(5)]
    (alone,) = [v for v in views_of(block[2:3], windows=2) if v.pass_index == 1]
    (among,) = [v for v in views if v.pass_index == 1 and v.tiles["sample"][0] == 2]
    assert same(alone, among)
    with_jitters = [v for v in views_of(block, windows=3, jitters=4) if v.kind == "window"]
    assert all(same(a, b) for a, b in zip(views, with_jitters, strict=True))


def same(first: View, second: View) -> bool:
    return (
        first.canvas_hw == second.canvas_hw
        and first.tiles.tobytes() == second.tiles.tobytes()
        and first.regions.tobytes() == second.regions.tobytes()
    )


def test_jitters_are_noised_copies_of_the_boxes_of_their_window_box_by_box():
    boxes = [(10, 10, 50, 40), (60, 20, 110, 85)]
    views = views_of([sample(0, boxes, rows=[3, 8])], windows=20, jitters=5)
    assert [view.kind for view in views] == ["window", "jitter"] * 20
    shifts = []
    for window, jitter in zip(views[::2], views[1::2], strict=True):
        assert (jitter.pass_index, jitter.canvas_hw) == (window.pass_index, window.canvas_hw)
        assert jitter.tiles.tobytes() == window.tiles.tobytes()
        assert jitter.regions["category_id"].tolist() == np.repeat(window.regions["category_id"], 5).tolist()
        assert jitter.regions["annotation"].tolist() == np.repeat(window.regions["annotation"], 5).tolist()
        assert (jitter.regions["noise_scale"] == 1).all()
        original = np.repeat(window.regions["box_xyxy_px"], 5, axis=0).astype(np.float64)
        noised = jitter.regions["box_xyxy_px"]
        height, width = window.canvas_hw
        assert (noised >= 0).all()
        assert (noised <= [width, height, width, height]).all()
        assert (noised[:, 2:] > noised[:, :2]).all()
        half = np.tile(original[:, 2:] - original[:, :2], 2) / 2
        shifts.append(((noised - original) / half)[(original > 1).all(axis=1)])
    shifts = np.concatenate(shifts)
    assert np.abs(shifts).max() <= 1.001
    # Evenly spread over the range, where the canvas doesn't clip.
    assert np.std(shifts[:, :2]) == pytest.approx(1 / np.sqrt(3), abs=0.08)


def test_a_jitter_of_nothing_is_nothing_and_a_sliver_stays():
    rng = np.random.default_rng(0)
    (empty,) = views_of([sample(0, [])], windows=1)
    assert len(jitter_view(empty, 3, (1.0,), rng).regions) == 0
    window = views_of([sample(0, [(0, 0, 0.01, 90)])], windows=1)[0]
    jitter = jitter_view(window, 50, (1.0,), rng)
    sides = jitter.regions["box_xyxy_px"][:, 2:] - jitter.regions["box_xyxy_px"][:, :2]
    assert (sides > 0).all()


def test_canvases_stay_below_the_limit_of_readers():
    rng = np.random.default_rng(0)
    for hw in [(10, 4_000), (4_000, 10), (1, 1), (20_000, 20_000)]:
        height, width = draw_crop(hw, ViewGeometry(), rng).out_hw
        assert height * width <= MAX_PICTURE_PIXELS


def test_windows_of_the_demo_are_the_augmentation_of_its_training():
    drawn, trained = find_dataset("demo-detection").geometry, load_config("demo").detection.augmentation
    assert drawn.short_sides == trained.short_sides
    assert drawn.longest_side == trained.longest_side
    assert drawn.first_short_sides == trained.first_short_sides == ()
    assert drawn.whole_short_side == load_config("demo").evaluation.short_side
    assert drawn.whole_longest_side == load_config("demo").evaluation.longest_side


def test_wholes_of_the_published_configs_are_their_evaluation():
    evaluation = load_config("richsem_r50_inet_lvis").evaluation
    assert ViewGeometry().whole_short_side == evaluation.short_side
    assert ViewGeometry().whole_longest_side == evaluation.longest_side


def test_a_whole_view_is_the_picture_of_evaluation_with_all_its_boxes():
    hw, boxes = (480, 640), [(0, 0, 64, 48), (600, 400, 640, 480), (0, 0, 640, 480)]
    (view,) = views_of([sample(3, boxes, rows=[5, 0, 9], hw=hw)], windows=0, whole=True, geometry=ViewGeometry())
    assert (view.kind, view.pass_index, view.member) == ("whole", 0, "whole-0.npy")
    # 800 / 480 = 5 / 3
    assert view.canvas_hw == (800, 1066)
    assert view.canvas_hw == resized_hw(hw, 800, 1333)
    (tile,) = view.tiles
    assert (tile["sample"], tile["flip"]) == (3, 0)
    assert tile["source_xyxy_px"].tolist() == [0, 0, 640, 480]
    assert tile["paste_xyxy_px"].tolist() == [0, 0, 1066, 800]
    scaled = np.array(boxes) * ([1066 / 640, 800 / 480] * 2)
    np.testing.assert_allclose(view.regions["box_xyxy_px"], scaled, rtol=1e-6)
    assert view.regions["category_id"].tolist() == [5, 0, 9]
    assert view.regions["annotation"].tolist() == [0, 1, 2]
    assert (view.regions["noise_scale"] == 0).all()
    # 1333 / 20 is rounded to 67, and 20 x 67 is a little more than 1333: DETR's own rule.
    assert whole_view(sample(0, [], hw=(100, 2_000)), ViewGeometry()).canvas_hw == (67, 1340)
    assert resized_hw((100, 2_000), 800, 1333) == (67, 1340)


def test_wholes_have_jitters_of_their_own_and_change_no_window():
    block = [sample(0, [(10, 10, 50, 40), (60, 20, 110, 85)], rows=[3, 8])]
    views = views_of(block, windows=2, whole=True, jitters=3)
    assert [view.member for view in views] == [
        "window-0.npy", "jitter-0.npy", "window-1.npy", "jitter-1.npy", "whole-0.npy", "whole-jitter-0.npy"
    ]  # fmt: skip
    assert all(same(a, b) for a, b in zip(views, views_of(block, windows=2, jitters=3), strict=False))
    whole, jitter = views[4:]
    assert jitter.tiles.tobytes() == whole.tiles.tobytes()
    assert jitter.regions["annotation"].tolist() == [0, 0, 0, 1, 1, 1]
    assert jitter.regions["category_id"].tolist() == [3, 3, 3, 8, 8, 8]


def test_each_noise_scale_has_its_copies_and_bounds_their_shift():
    boxes = [(30, 30, 70, 50), (60, 20, 90, 60)]
    (window, jitter) = views_of([sample(0, boxes)], windows=0, whole=True, jitters=200, noise_scales=(0.1, 0.4))
    scales = jitter.regions["noise_scale"].reshape(2, 2, 200)
    assert (scales == np.float32([0.1, 0.4])[None, :, None]).all()
    assert jitter.regions["annotation"].tolist() == [0] * 400 + [1] * 400
    original = window.regions["box_xyxy_px"].astype(np.float64)
    half = np.tile(original[:, 2:] - original[:, :2], 2) / 2
    shifts = jitter.regions["box_xyxy_px"].reshape(2, 400, 4) - original[:, None]
    most = np.abs(shifts / half[:, None]).reshape(2, 2, 200, 4).max(axis=(0, 2, 3))
    assert most[0] <= 0.1001
    assert most[1] <= 0.4001
    np.testing.assert_allclose(most, [0.1, 0.4], rtol=0.03)


SCALED = GEOMETRY.model_copy(update={"scale_jitter": ScaleJitter(side=64, factors=(0.1, 2.0))})


@pytest.mark.parametrize("hw", [(90, 120), (120, 90), (64, 64), (10, 4_000), (1, 1)])
def test_a_scaled_window_shows_a_part_as_large_as_its_factor_says(hw):
    """The rule of EfficientDet's and Detic's resize-and-crop, from its own formulae."""
    height, width = hw
    rng, again = np.random.default_rng(5), np.random.default_rng(5)
    for _ in range(200):
        crop = draw_scaled(hw, SCALED.scale_jitter, rng)
        flip, factor = again.random() < 0.5, again.uniform(0.1, 2.0)
        scale = min(64 * factor / height, 64 * factor / width)
        scaled_h, scaled_w = max(int(height * scale), 1), max(int(width * scale), 1)
        again.integers(0, max(scaled_w - 64, 0), endpoint=True), again.integers(0, max(scaled_h - 64, 0), endpoint=True)
        x1, y1, x2, y2 = crop.source_xyxy_px
        assert crop.flip == flip
        assert crop.out_hw == (min(scaled_h, 64), min(scaled_w, 64))
        np.testing.assert_allclose(
            [x2 - x1, y2 - y1], [crop.out_hw[1] * width / scaled_w, crop.out_hw[0] * height / scaled_h]
        )
        assert min(x1, y1) >= 0
        assert x2 <= width + 1e-9
        assert y2 <= height + 1e-9


def test_a_scaled_window_lies_in_the_corner_of_its_canvas_and_boxes_on_what_is_shown():
    picture = Image.new("RGB", (HW[1], HW[0]), (0, 0, 255))
    box = (40, 30, 80, 60)
    picture.paste((255, 0, 0), box)
    padded = cut = 0
    views = views_of([sample(0, [box, (0, 0, 120, 90)])], windows=60, jitters=2, geometry=SCALED)
    for window, jitter in zip(views[::2], views[1::2], strict=True):
        assert window.canvas_hw == jitter.canvas_hw == (64, 64)
        left, top, right, bottom = window.tiles["paste_xyxy_px"][0].tolist()
        assert (left, top) == (0, 0)
        padded += min(right, bottom) < 64
        cut += max(right, bottom) == 64
        for view in (window, jitter):
            boxes = view.regions["box_xyxy_px"]
            assert (boxes >= 0).all()
            assert (boxes[:, 2:] <= [right, bottom]).all()
        pixels = np.asarray(render_view(window, {0: picture})).astype(int)
        assert pixels.shape == (64, 64, 3)
        assert (pixels[bottom:] == PAD_VALUE).all()
        assert (pixels[:, right:] == PAD_VALUE).all()
        red = (pixels[..., 0] > pixels[..., 2] + 60).nonzero()
        if 0 in window.regions["annotation"] and min(right, bottom) > 16:
            x1, y1, x2, y2 = window.regions["box_xyxy_px"][window.regions["annotation"].tolist().index(0)]
            if min(x2 - x1, y2 - y1) > 3:
                np.testing.assert_allclose([red[1].min(), red[0].min()], [x1, y1], atol=1.5)
                np.testing.assert_allclose([red[1].max() + 1, red[0].max() + 1], [x2, y2], atol=1.5)
    assert min(padded, cut) > 10
