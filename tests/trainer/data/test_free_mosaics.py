import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from richsem_schemas.codec import LabelledView
from richsem_schemas.render import render_view
from richsem_schemas.soft_labels import TopKSoftLabels
from richsem_schemas.view import PAD_VALUE, REGION_DTYPE, TILE_DTYPE, View
from richsem_train.data.cache_views import DamagedViewError, ReadView
from richsem_train.data.free_mosaics import fitted_hw, free_mosaic, require_whole_crop

SIDE = 64
SAMPLES = (7, 7, 9, 3)


def crop(index, canvas_hw, *, flip=False):
    height, width = canvas_hw
    pixels = np.random.default_rng(index).integers(0, 255, (50, 70, 3), np.uint8)
    tiles = np.array([(SAMPLES[index], (10.5, 5.25, 60, 45), (0, 0, width, height), flip)], TILE_DTYPE)
    regions = np.array([((0, 0, width, height), 0, index + 1, -1, 0)], REGION_DTYPE)
    labels = TopKSoftLabels(
        np.array([[index, 9]], np.int32), np.zeros((1, 2), np.float16), np.full(1, -float(index), np.float32)
    )
    view = LabelledView(View("crop", 0, canvas_hw, tiles, regions), labels, np.full((1, 3), index, np.float32))
    return ReadView(f"crop {index}", view, {SAMPLES[index]: Image.fromarray(pixels)})


def four_crops(sizes=((40, 60), (90, 30), (64, 64), (200, 100))):
    return [crop(index, hw, flip=index % 2 == 1) for index, hw in enumerate(sizes)]


def test_each_tile_shows_exactly_its_crop_resized():
    crops = four_crops()
    mosaic = free_mosaic(crops, tile_side=SIDE, rng=np.random.default_rng(0))
    canvas = np.asarray(render_view(mosaic.labelled.view, mosaic.pictures))
    assert canvas.shape == (2 * SIDE, 2 * SIDE, 3)
    covered = np.zeros(canvas.shape[:2], bool)
    for one, tile in zip(crops, mosaic.labelled.view.tiles, strict=True):
        left, top, right, bottom = tile["paste_xyxy_px"].tolist()
        tiles = one.labelled.view.tiles.copy()
        tiles["paste_xyxy_px"] = (0, 0, right - left, bottom - top)
        alone = View("crop", 0, (bottom - top, right - left), tiles, one.labelled.view.regions)
        np.testing.assert_array_equal(canvas[top:bottom, left:right], np.asarray(render_view(alone, one.pictures)))
        assert not covered[top:bottom, left:right].any()
        covered[top:bottom, left:right] = True
    assert (canvas[~covered] == PAD_VALUE).all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=4, max_size=4), st.integers(0, 2**31))
def test_tiles_keep_their_shape_lie_inside_and_meet_at_the_centre(sizes, seed):
    mosaic = free_mosaic(four_crops(sizes), tile_side=SIDE, rng=np.random.default_rng(seed))
    pastes = mosaic.labelled.view.tiles["paste_xyxy_px"]
    assert (pastes[:, :2] >= 0).all()
    assert (pastes[:, 2:] <= 2 * SIDE).all()
    assert (pastes[:, 2:] > pastes[:, :2]).all()
    inner = np.array([pastes[0, 2:], pastes[1, [0, 3]], pastes[2, [2, 1]], pastes[3, :2]])
    assert (inner == inner[0]).all()
    assert ((inner[0] >= SIDE // 2) & (inner[0] <= SIDE * 3 // 2)).all()
    for (height, width), paste in zip(sizes, pastes, strict=True):
        shown_w, shown_h = paste[2:] - paste[:2]
        assert max(shown_w, shown_h) <= SIDE
        # Each side loses less than a pixel to rounding, but for slivers, which keep one.
        assert abs(shown_w * height - shown_h * width) < max(height, width) or min(shown_w, shown_h) == 1
    np.testing.assert_array_equal(mosaic.labelled.view.regions["box_xyxy_px"], pastes)


def test_labels_stay_with_their_tiles():
    mosaic = free_mosaic(four_crops(), tile_side=SIDE, rng=np.random.default_rng(1)).labelled
    assert mosaic.view.regions["category_id"].tolist() == [1, 2, 3, 4]
    assert mosaic.view.regions["tile"].tolist() == [0, 1, 2, 3]
    assert mosaic.labels.class_ids[:, 0].tolist() == [0, 1, 2, 3]
    assert mosaic.labels.log_rest.tolist() == [0, -1, -2, -3]
    assert mosaic.embeddings[:, 0].tolist() == [0, 1, 2, 3]


def test_the_largest_fitting_size_fills_one_side():
    assert fitted_hw((100, 50), (64, 64)) == (64, 32)
    assert fitted_hw((10, 1000), (64, 64)) == (1, 64)
    assert fitted_hw((3, 3), (40, 64)) == (40, 40)


def test_a_crop_that_is_not_its_whole_canvas_is_refused():
    whole = crop(0, (40, 60))
    require_whole_crop(whole)
    whole.labelled.view.regions["box_xyxy_px"] = (0, 0, 59, 40)
    with pytest.raises(DamagedViewError, match="crop 0: not one region"):
        require_whole_crop(whole)
