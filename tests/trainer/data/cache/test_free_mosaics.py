import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from richsem_schemas.cache import recipes
from richsem_schemas.cache.codec import LabelledView
from richsem_schemas.cache.geometry import Crop, uncut
from richsem_schemas.cache.manifest import ViewGeometry
from richsem_schemas.cache.render import render_view
from richsem_schemas.cache.soft_labels import TopKSoftLabels
from richsem_schemas.cache.view import NO_ANNOTATION, PAD_VALUE, REGION_DTYPE, TILE_DTYPE, View
from richsem_train.data.cache.free_mosaics import free_mosaic, require_whole_crops, with_nearest_labels
from richsem_train.data.cache.views import ReadView
from richsem_train.data.damage import DamagedViewError

SIDE = 64
GEOMETRY = ViewGeometry(
    short_sides=(48, 64, 80), longest_side=133, first_short_sides=(40, 60), crop_sides=(30, 60), mosaic_tile=SIDE
)
SAMPLES = (7, 7, 9, 3)
PICTURE_HW = (50, 70)
WHOLE = (0, 0, 70, 50)


def stored_crop(index, number, source=WHOLE, canvas_hw=(50, 70), *, flip=False):
    """A crop view whose label says which it is."""
    height, width = canvas_hw
    tiles = np.array([(SAMPLES[index], source, (0, 0, width, height), flip)], TILE_DTYPE)
    regions = np.array([((0, 0, width, height), 0, index + 1, NO_ANNOTATION, 0)], REGION_DTYPE)
    labels = TopKSoftLabels(
        np.array([[index, 9]], np.int32), np.zeros((1, 2), np.float16), np.full(1, -10 * index - number, np.float32)
    )
    embeddings = np.full((1, 3), 10 * index + number, np.float32)
    return LabelledView(View("crop", number, canvas_hw, tiles, regions), labels, embeddings)


def read_picture(index, *crops):
    pixels = np.random.default_rng(index).integers(0, 255, (*PICTURE_HW, 3), np.uint8)
    crops = crops or (stored_crop(index, 0),)
    return ReadView(f"crop {index}", crops[0], {SAMPLES[index]: Image.fromarray(pixels)}, crops)


def four(*crops_of_each):
    return [read_picture(index, *crops) for index, crops in enumerate(crops_of_each or [()] * 4)]


class Centre:
    """A generator that draws this centre and nothing else."""

    def __init__(self, y, x):
        self._drawn = np.array([y, x], float)

    def uniform(self, low, high, count):
        assert (low, high, count) == (SIDE / 2, SIDE * 1.5, 2)
        return self._drawn


def mosaic_of(monkeypatch, drawn, centre, pictures=None):
    monkeypatch.setattr(recipes, "draw_crop", lambda *_: drawn)
    return free_mosaic(pictures or four(), geometry=GEOMETRY, rng=Centre(*centre))


def test_tiles_are_fitted_into_their_square_meet_at_the_centre_and_are_cut_by_the_canvas(monkeypatch):
    whole = uncut(PICTURE_HW, (40, 80))
    view, pictures = mosaic_of(monkeypatch, whole, (20, 104))
    assert view.canvas_hw == (128, 128)
    # 40 x 80 fits as 32 x 64. Above the centre are 20 rows, right of it 24 columns.
    assert view.tiles["paste_xyxy_px"].tolist() == [
        [40, 0, 104, 20], [104, 0, 128, 20], [40, 20, 104, 52], [104, 20, 128, 52],
    ]  # fmt: skip
    cut_above, cut_right = 50 * 12 / 32, 70 * 24 / 64
    np.testing.assert_allclose(
        view.tiles["source_xyxy_px"],
        [[0, cut_above, 70, 50], [0, cut_above, cut_right, 50], [0, 0, 70, 50], [0, 0, cut_right, 50]],
    )
    assert view.tiles["sample"].tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(view.regions["box_xyxy_px"], view.tiles["paste_xyxy_px"])
    assert view.regions["category_id"].tolist() == [1, 2, 3, 4]
    assert (np.asarray(render_view(view, pictures))[52:] == PAD_VALUE).all()


def test_what_is_cut_of_a_mirrored_tile_is_the_other_side_of_its_picture(monkeypatch):
    """The left half of the picture at twice its size, mirrored."""
    left_half = Crop(PICTURE_HW, (100, 140), (0, 0, 70, 100), (100, 70), True)
    view, _ = mosaic_of(monkeypatch, left_half, (64, 32))
    # 100 x 70 fits as 64 x 44: twelve columns of the tiles on the left don't fit.
    assert view.tiles["paste_xyxy_px"].tolist()[0] == [0, 0, 32, 64]
    np.testing.assert_allclose(view.tiles["source_xyxy_px"][0], [0, 0, 35 * 32 / 44, 50], rtol=1e-6)
    np.testing.assert_allclose(view.tiles["source_xyxy_px"][1], [0, 0, 35, 50])
    assert view.tiles["flip"].tolist() == [1, 1, 1, 1]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31))
def test_each_tile_shows_its_picture_undistorted_within_the_canvas(seed):
    view, pictures = free_mosaic(four(), geometry=GEOMETRY, rng=np.random.default_rng(seed))
    pastes, sources = view.tiles["paste_xyxy_px"], view.tiles["source_xyxy_px"].astype(float)
    assert (pastes[:, :2] >= 0).all()
    assert (pastes[:, 2:] <= 2 * SIDE).all()
    assert (pastes[:, 2:] > pastes[:, :2]).all()
    inner = np.array([pastes[0, 2:], pastes[1, [0, 3]], pastes[2, [2, 1]], pastes[3, :2]])
    assert (inner == inner[0]).all()
    assert ((inner[0] >= SIDE // 2) & (inner[0] <= SIDE * 3 // 2)).all()
    assert ((pastes[:, 2:] - pastes[:, :2]) <= SIDE).all()
    assert (sources[:, :2] >= -1e-4).all()
    assert (sources[:, 2:] <= np.array([70, 50]) + 1e-4).all()
    scales = (pastes[:, 2:] - pastes[:, :2]) / (sources[:, 2:] - sources[:, :2])
    # A side loses less than a pixel of some thirty to rounding, twice.
    np.testing.assert_allclose(scales[:, 0] / scales[:, 1], 1, atol=0.08)
    covered = np.zeros(view.canvas_hw, int)
    for left, top, right, bottom in pastes.tolist():
        covered[top:bottom, left:right] += 1
    assert covered.max() == 1
    canvas = np.asarray(render_view(view, pictures))
    assert (canvas[covered == 0] == PAD_VALUE).all()


def test_some_tiles_are_cut_and_each_picture_is_drawn_anew():
    views = [free_mosaic(four(), geometry=GEOMETRY, rng=np.random.default_rng(seed))[0] for seed in range(40)]
    inside = [
        (paste[0] > 0) & (paste[1] > 0) & (paste[2] < 2 * SIDE) & (paste[3] < 2 * SIDE)
        for view in views
        for paste in view.tiles["paste_xyxy_px"]
    ]
    assert 0.2 < np.mean(inside) < 0.9
    assert len({tuple(tile["source_xyxy_px"].tolist()) for view in views for tile in view.tiles}) > 100
    assert {tile["flip"] for view in views for tile in view.tiles} == {0, 1}


def test_a_tile_has_the_label_of_the_crop_of_its_picture_that_is_nearest_to_what_is_left_of_it(monkeypatch):
    left, right, bottom = (0, 0, 35, 50), (35, 0, 70, 50), (0, 25, 70, 50)
    of_each = [
        (stored_crop(0, 0), stored_crop(0, 1, bottom, (25, 70)), stored_crop(0, 2, right, (50, 35))),
        (stored_crop(1, 0), stored_crop(1, 1, left, (50, 35)), stored_crop(1, 2, left, (50, 35), flip=True)),
        (stored_crop(2, 0, flip=True), stored_crop(2, 1), stored_crop(2, 2, canvas_hw=(100, 140))),
        (stored_crop(3, 0, right, (50, 35)), stored_crop(3, 1, bottom, (25, 70)), stored_crop(3, 2)),
    ]
    pictures = four(*of_each)
    whole = uncut(PICTURE_HW, (50, 70))
    # 50 x 70 fits as 45 x 64: above the centre is half of it, right of it half, at nine tenths of its size.
    view, _ = mosaic_of(monkeypatch, whole, (22, 96), pictures)
    labelled = with_nearest_labels(view, pictures, teacher_size=None)
    assert labelled.view is view
    # Above on the left the lower half is left; on the right its left half; below all of it, and then its left half,
    # of which the whole is nearest.
    assert labelled.labels.log_rest.tolist() == [-1, -11, -21, -32]
    assert labelled.labels.class_ids[:, 0].tolist() == [0, 1, 2, 3]
    assert labelled.embeddings[:, 0].tolist() == [1, 11, 21, 32]


def test_labels_without_embeddings_have_none():
    pictures = [
        read_picture(index, LabelledView(crop.view, crop.labels, None))
        for index, crop in enumerate(stored_crop(index, 0) for index in range(4))
    ]
    view, _ = free_mosaic(pictures, geometry=GEOMETRY, rng=np.random.default_rng(0))
    assert with_nearest_labels(view, pictures, teacher_size=128).embeddings is None


def test_a_crop_that_is_not_its_whole_canvas_is_refused():
    whole, other = stored_crop(0, 0), stored_crop(0, 1)
    require_whole_crops(read_picture(0, whole, other))
    other.view.regions["box_xyxy_px"] = (0, 0, 59, 40)
    with pytest.raises(DamagedViewError, match="crop 0: not one region"):
        require_whole_crops(read_picture(0, whole, other))
