import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as oracle

from richsem_schemas.cache.geometry import MIN_VISIBLE_PX, draw_crop, visible_boxes
from richsem_schemas.cache.manifest import ViewGeometry
from richsem_schemas.pictures import resize as resizer
from richsem_train.data.transforms import Augmentation, apply, augment, crop, flip, resize


@pytest.fixture
def picture():
    noise = np.random.default_rng(0).integers(0, 256, (47, 83, 3), dtype=np.uint8)
    return Image.fromarray(noise)


@pytest.fixture
def boxes():
    return np.array([[0, 0, 83, 47], [10.5, 3.25, 40, 30], [70, 40, 80, 45], [1, 1, 2, 2]], np.float32)


def tv(boxes, image):
    return tv_tensors.BoundingBoxes(torch.from_numpy(boxes), format="XYXY", canvas_size=(image.height, image.width))


def assert_same(ours, theirs):
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


def test_flip_equals_torchvision(picture, boxes):
    image, flipped = flip(picture, boxes)
    assert_same(image, oracle.horizontal_flip(picture))
    np.testing.assert_allclose(flipped, oracle.horizontal_flip(tv(boxes, picture)).numpy(), atol=1e-5)


@pytest.mark.parametrize("out_hw", [(94, 166), (20, 35), (47, 83), (50, 30)])
def test_resize_equals_torchvision_up_to_a_grey_level_and_by_pillows_kernel_exactly(
    picture, boxes, out_hw, monkeypatch
):
    image, resized = resize(picture, boxes, out_hw)
    theirs = oracle.resize(picture, list(out_hw), antialias=True)
    assert np.abs(np.asarray(image).astype(int) - np.asarray(theirs)).max() <= 1
    monkeypatch.setattr(resizer, "cykooz_resizer", None)
    assert_same(resize(picture, boxes, out_hw)[0], theirs)
    np.testing.assert_allclose(resized, oracle.resize(tv(boxes, picture), list(out_hw)).numpy(), rtol=1e-5)
    assert resized.dtype == np.float32


def test_crop_equals_torchvision(picture, boxes):
    image, cropped, kept = crop(picture, boxes, (9, 4, 59, 34))
    assert_same(image, oracle.crop(picture, 4, 9, 30, 50))
    theirs = oracle.clamp_bounding_boxes(oracle.crop(tv(boxes, picture), 4, 9, 30, 50)).numpy()
    assert kept.tolist() == [0, 1]
    np.testing.assert_allclose(cropped, theirs[kept], atol=1e-5)


def test_a_box_that_only_touches_the_crop_is_dropped(picture):
    touching = np.array([[0, 0, 10, 10], [50, 0, 60, 10], [49.5, 0, 60, 10]], np.float32)
    _, cropped, kept = crop(picture, touching, (10, 0, 50, 47))
    assert kept.tolist() == [2]
    assert cropped.tolist() == [[39.5, 0, 40, 10]]


def test_pictures_without_boxes_pass_through(picture):
    none = np.zeros((0, 4), np.float32)
    result = augment(picture, none, Augmentation(), np.random.default_rng(0))
    assert result.boxes_xyxy_px.shape == (0, 4)
    assert result.kept.shape == (0,)


def draw_many(picture, augmentation, count=400):
    boxes = np.array([[5, 5, 60, 40]], np.float32)
    return [augment(picture, boxes, augmentation, np.random.default_rng([seed, 9])) for seed in range(count)]


def test_augmentation_draws_every_short_side(picture):
    sizes = Augmentation(short_sides=(24, 32, 40), longest_side=90, first_short_sides=(30,), crop_sides=(16, 28))
    results = draw_many(picture, sizes)
    assert {min(result.image.size) for result in results} == {24, 32, 40}
    assert max(max(result.image.size) for result in results) <= 90


def test_half_of_the_pictures_are_cropped(picture):
    sizes = Augmentation(short_sides=(32,), longest_side=200, first_short_sides=(30,), crop_sides=(16, 28))
    whole = sum(result.image.size == (56, 32) for result in draw_many(picture, sizes))
    assert 160 < whole < 240


def test_without_first_sides_nothing_is_cropped(picture):
    sizes = Augmentation(short_sides=(32,), longest_side=200, first_short_sides=())
    assert {result.image.size for result in draw_many(picture, sizes, 60)} == {(56, 32)}


def test_half_of_the_pictures_are_mirrored_unless_told_otherwise(picture):
    same_size = {"short_sides": (47,), "first_short_sides": ()}
    untouched = [np.array_equal(r.image, picture) for r in draw_many(picture, Augmentation(**same_size))]
    assert 160 < sum(untouched) < 240
    assert all(np.array_equal(r.image, picture) for r in draw_many(picture, Augmentation(**same_size, flip=False), 40))


def test_boxes_follow_their_object_through_everything():
    """A bright rectangle on black is where its box says, whatever was drawn."""
    pixels = np.zeros((100, 150, 3), np.uint8)
    pixels[30:70, 40:110] = 255
    sizes = Augmentation(short_sides=(80, 120), longest_side=300, first_short_sides=(90, 110), crop_sides=(50, 90))
    for seed in range(60):
        result = augment(
            Image.fromarray(pixels), np.array([[40, 30, 110, 70]], np.float32), sizes, np.random.default_rng(seed)
        )
        bright = np.asarray(result.image)[..., 0] > 127
        if not result.kept.size:
            assert bright.mean() < 0.01
            continue
        rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
        seen = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        np.testing.assert_allclose(result.boxes_xyxy_px[0], seen, atol=1.6)


def test_the_same_generator_gives_the_same_picture(picture, boxes):
    first, second = (augment(picture, boxes, Augmentation(), np.random.default_rng(5)) for _ in range(2))
    assert_same(first.image, second.image)
    assert_same(first.boxes_xyxy_px, second.boxes_xyxy_px)


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
        drawn = draw_crop(hw, SMALL if hw[0] < 400 else ViewGeometry(), rng)
        expected = apply(Image.new("RGB", (hw[1], hw[0])), boxes, drawn)
        found, kept = visible_boxes(boxes, drawn)
        assert (expected.image.height, expected.image.width) == drawn.out_hw
        sides = (expected.boxes_xyxy_px[:, 2:] - expected.boxes_xyxy_px[:, :2]).min(axis=1, initial=np.inf)
        # A box that only touches the crop may be seen by one and not by the other; it has no area to speak of.
        sure = sides > 2 * MIN_VISIBLE_PX
        assert set(expected.kept[sure].tolist()) <= set(kept.tolist()) <= set(expected.kept.tolist())
        both = np.isin(expected.kept, kept)
        np.testing.assert_allclose(found, expected.boxes_xyxy_px[both], atol=2e-3)
