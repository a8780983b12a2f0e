import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as oracle

from richsem_schemas.cache.geometry import MIN_VISIBLE_PX, Crop, draw_crop, uncut, visible_boxes
from richsem_schemas.cache.manifest import ViewGeometry
from richsem_schemas.pictures import resize as resizer
from richsem_train.config import AugmentationConfig
from richsem_train.data.transforms import apply_crop, drawn

HW = (47, 83)
BOXES = np.array([[0, 0, 83, 47], [10.5, 3.25, 40, 30], [70, 40, 80, 45], [1, 1, 2, 2]], np.float32)


@pytest.fixture
def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*HW, 3), dtype=np.uint8))


def applied(picture, crop):
    """As [H, W, 3]."""
    return drawn(apply_crop(picture, crop)).permute(1, 2, 0).numpy()


def tv(boxes, hw):
    return tv_tensors.BoundingBoxes(torch.from_numpy(boxes), format="XYXY", canvas_size=hw)


def by_torchvision(boxes, crop):
    """Boxes [G, 4] after each step, clipped; those without area too."""
    left, top, right, bottom = crop.cut_xyxy
    found = oracle.resize(tv(boxes, crop.picture_hw), list(crop.first_hw))
    found = oracle.crop(found, top, left, bottom - top, right - left)
    found = oracle.resize(oracle.clamp_bounding_boxes(found), list(crop.out_hw))
    return (oracle.horizontal_flip(found) if crop.flip else found).numpy()


def test_flip_equals_torchvision(picture):
    mirrored = uncut(HW, HW, flip=True)
    np.testing.assert_array_equal(applied(picture, mirrored), np.asarray(oracle.horizontal_flip(picture)))
    np.testing.assert_allclose(visible_boxes(BOXES, mirrored)[0], by_torchvision(BOXES, mirrored), atol=1e-5)


@pytest.mark.parametrize("out_hw", [(94, 166), (20, 35), (47, 83), (50, 30)])
def test_resize_equals_torchvision_up_to_a_grey_level_and_by_pillows_kernel_exactly(picture, out_hw, monkeypatch):
    crop = uncut(HW, out_hw)
    theirs = np.asarray(oracle.resize(picture, list(out_hw), antialias=True))
    assert np.abs(applied(picture, crop).astype(int) - theirs).max() <= 1
    monkeypatch.setattr(resizer, "cykooz_resizer", None)
    np.testing.assert_array_equal(applied(picture, crop), theirs)
    boxes, _ = visible_boxes(BOXES, crop)
    np.testing.assert_allclose(boxes, by_torchvision(BOXES, crop), rtol=1e-5)
    assert boxes.dtype == np.float32


def test_crop_equals_torchvision(picture):
    crop = Crop(HW, HW, (9, 4, 59, 34), (30, 50), False)
    np.testing.assert_array_equal(applied(picture, crop), np.asarray(oracle.crop(picture, 4, 9, 30, 50)))
    boxes, kept = visible_boxes(BOXES, crop)
    assert kept.tolist() == [0, 1]
    np.testing.assert_allclose(boxes, by_torchvision(BOXES, crop)[kept], atol=1e-5)


def test_a_box_that_only_touches_the_crop_is_dropped():
    touching = np.array([[0, 0, 10, 10], [50, 0, 60, 10], [49.5, 0, 60, 10]], np.float32)
    boxes, kept = visible_boxes(touching, Crop(HW, HW, (10, 0, 50, 47), (47, 40), False))
    assert kept.tolist() == [2]
    assert boxes.tolist() == [[39.5, 0, 40, 10]]


def test_pictures_without_boxes_pass_through():
    boxes, kept = visible_boxes(
        np.zeros((0, 4), np.float32), draw_crop(HW, AugmentationConfig(), np.random.default_rng(0))
    )
    assert boxes.shape == (0, 4)
    assert kept.shape == (0,)


@pytest.mark.parametrize("cut_xyxy", [None, (10, 4, 60, 40)])
@pytest.mark.parametrize("flip", [False, True])
def test_a_picture_is_resized_cut_resized_and_mirrored_in_this_order(picture, cut_xyxy, flip, monkeypatch):
    monkeypatch.setattr(resizer, "cykooz_resizer", None)
    first_hw = (60, 106)
    expected = oracle.resize(picture, list(first_hw), antialias=True)
    if cut_xyxy is not None:
        expected = expected.crop(cut_xyxy)
    expected = oracle.resize(expected, [33, 44], antialias=True)
    expected = oracle.horizontal_flip(expected) if flip else expected
    crop = Crop(HW, first_hw, cut_xyxy or (0, 0, 106, 60), (33, 44), flip)
    np.testing.assert_array_equal(applied(picture, crop), np.asarray(expected))


def test_boxes_follow_their_object_through_everything():
    """A bright rectangle on black is where its box says, whatever was drawn."""
    pixels = np.zeros((100, 150, 3), np.uint8)
    pixels[30:70, 40:110] = 255
    sizes = AugmentationConfig(
        short_sides=(80, 120), longest_side=300, first_short_sides=(90, 110), crop_sides=(50, 90)
    )
    for seed in range(60):
        crop = draw_crop((100, 150), sizes, np.random.default_rng(seed))
        boxes, kept = visible_boxes(np.array([[40, 30, 110, 70]], np.float32), crop)
        bright = applied(Image.fromarray(pixels), crop)[..., 0] > 127
        if not kept.size:
            assert bright.mean() < 0.01
            continue
        rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
        seen = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        np.testing.assert_allclose(boxes[0], seen, atol=1.6)


SMALL = ViewGeometry(
    short_sides=(96, 128, 160), longest_side=267, first_short_sides=(80, 100, 120), crop_sides=(77, 120)
)


def random_boxes(rng, count, hw):
    """Boxes at multiples of a quarter pixel, whole pictures and edges among them."""
    corners = rng.integers(0, [4 * hw[1], 4 * hw[0]], (count, 2, 2), endpoint=True) / 4
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    return boxes[(boxes[:, 2:] > boxes[:, :2]).all(axis=1)].astype(np.float32)


@pytest.mark.parametrize("hw", [(90, 120), (120, 90), (100, 100), (37, 211), (480, 640)])
def test_visible_boxes_are_those_that_remain_step_by_step(hw):
    rng = np.random.default_rng(hw)
    for _ in range(60):
        boxes = random_boxes(rng, 40, hw)
        crop = draw_crop(hw, SMALL if hw[0] < 400 else ViewGeometry(), rng)
        found, kept = visible_boxes(boxes, crop)
        expected = by_torchvision(boxes, crop)
        sides = (expected[:, 2:] - expected[:, :2]).min(axis=1, initial=np.inf)
        # A box that only touches the crop has no area to speak of: one may see it where the other doesn't.
        assert set(np.flatnonzero(sides > 2 * MIN_VISIBLE_PX)) <= set(kept.tolist()) <= set(np.flatnonzero(sides > 0))
        np.testing.assert_allclose(found, expected[kept], atol=2e-3)
        assert tuple(drawn(apply_crop(Image.new("RGB", hw[::-1]), crop)).shape[1:]) == crop.out_hw
