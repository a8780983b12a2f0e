"""Training pictures by scale jitter: drawn anew without and with a cache, and as stored."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from richsem_schemas.annotations import read_annotations
from richsem_schemas.cache.manifest import ScaleJitter
from richsem_schemas.cache.render import render_view
from richsem_schemas.cache.view import PAD_VALUE
from richsem_train.config import ScaleJitterConfig
from richsem_train.data import detection
from richsem_train.data.collate import collate
from richsem_train.data.detection import DetectionDataset, draw_window
from tests.caches import GEOMETRY, WindowsCache
from tests.trainer.data.datasets import PICTURES, WINDOWS, corners_px, extra_of, fresh_of, pixels_of, stored_of
from tests.trainer.data.datasets import stored_views as views_of_pass
from tests.trainer.data.test_fresh_windows import nearest_by_hand, stored_regions

SIDE = 56
JITTER = ScaleJitterConfig(kind="scale-jitter", side=SIDE, factors=(0.25, 2.0))
HW = (90, 120)
BOXES_XYWH = [[40, 30, 40, 30], [0, 0, 6, 90]]


@pytest.fixture(scope="module")
def red(tmp_path_factory):
    """A red object on blue, and a green rim at the left, which crops may leave out."""
    folder = tmp_path_factory.mktemp("red")
    picture = Image.new("RGB", HW[::-1], (0, 0, 255))
    picture.paste((255, 0, 0), (40, 30, 80, 60))
    picture.paste((0, 255, 0), (0, 0, 6, 90))
    picture.save(folder / "0.png")
    annotations = [{"image_id": 1, "category_id": 1 + n, "bbox": box} for n, box in enumerate(BOXES_XYWH)]
    images = [{"id": 1, "file_name": "0.png", "height": HW[0], "width": HW[1]}]
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    path = folder / "annotations.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return read_annotations(path, folder, file_format="coco")


@pytest.fixture(scope="module")
def jittered(data, tmp_path_factory):
    """Windows by scale jitter of the split's pictures."""
    geometry = GEOMETRY.model_copy(update={"scale_jitter": ScaleJitter(side=SIDE, factors=(0.25, 2.0))})
    return WindowsCache(data, tmp_path_factory.mktemp("jittered") / "out", windows=WINDOWS, geometry=geometry).make()


def extent_of(is_coloured):
    rows, columns = is_coloured.nonzero()
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_boxes_lie_where_the_object_is_and_nothing_is_grey(red):
    dataset = DetectionDataset(red, ScaleJitterConfig(kind="scale-jitter", side=160, factors=(0.2, 2.0)), seed=1)
    seen = lost = cut = small = 0
    for position in range(120):
        sample = dataset[0, position, 0]
        pixels, boxes = pixels_of(sample).astype(int), corners_px(sample.target)
        height, width = sample.target.image_hw
        assert pixels.shape == (height, width, 3)
        assert max(height, width) <= 160
        small += max(height, width) < 160
        cut += height < 120 * width / 160 - 1 or height > 120 * width / 160 + 1
        assert not (np.abs(pixels - PAD_VALUE) < 10).all(axis=2).any()
        labels = sample.target.labels.tolist()
        is_red = (pixels[..., 0] > 128) & (pixels[..., 2] < 128)
        assert (1 in labels) or not is_red.any()
        lost += len(labels) < 2
        if 1 in labels and is_red.any():
            np.testing.assert_allclose(extent_of(is_red), boxes[labels.index(1)], atol=1.01)
            seen += 1
    assert min(seen, lost, cut, small) > 20


def test_a_sample_depends_on_its_seed_epoch_and_position_alone(data):
    dataset = DetectionDataset(data, JITTER, seed=5)
    first = dataset[2, 9, 4]
    dataset[0, 1, 30]
    for other in (dataset, DetectionDataset(data, JITTER, seed=5)):
        assert torch.equal(other[2, 9, 4].pixels, first.pixels)
    shapes = {tuple(dataset[0, position, 4].pixels.shape) for position in range(20)}
    assert len(shapes) > 8


def test_pictures_that_may_not_be_mirrored_are_not(red):
    dataset = DetectionDataset(red, JITTER.model_copy(update={"flip": False}), seed=0)
    tiles = [draw_window(red, 0, HW, dataset.augmentation, key=(0, n, 0), seed=0)[1].tiles for n in range(20)]
    assert {int(tile["flip"][0]) for tile in tiles} == {0}


def test_batches_pad_and_mask_what_is_smaller(data):
    dataset = DetectionDataset(data, JITTER, seed=3)
    samples = [dataset[0, position, position] for position in range(8)]
    batch = collate(samples)
    for sample, pixels, mask in zip(samples, batch.pixels, batch.padding_mask, strict=True):
        height, width = sample.target.image_hw
        assert torch.equal(pixels[:, :height, :width], sample.pixels)
        assert not mask[:height, :width].any()
        assert mask.sum() == mask.numel() - height * width


# --- caches ---------------------------------------------------------------------------------------------------------


def test_stored_windows_are_shown_without_the_rest_of_their_canvas(jittered, data):
    dataset = stored_of(jittered, data)
    smaller = 0
    for number in range(WINDOWS):
        for name, (labelled, pictures) in views_of_pass(jittered, "window", number).items():
            position = int(name[:6]) * 16 + int(name[7:12])
            sample = dataset[number, 0, dataset.windows.positions.tolist().index(position)]
            whole = render_view(labelled.view, pictures)
            assert whole.shape == (SIDE, SIDE, 3)
            height, width = sample.target.image_hw
            assert labelled.view.tiles["paste_xyxy_px"].tolist() == [[0, 0, width, height]]
            np.testing.assert_array_equal(pixels_of(sample), whole[:height, :width])
            np.testing.assert_allclose(corners_px(sample.target), labelled.view.regions["box_xyxy_px"], atol=1e-3)
            assert len(sample.target.soft_labels.embeddings) == len(sample.target.labels)
            smaller += (height, width) != (SIDE, SIDE)
    assert smaller > PICTURES


def test_windows_as_extra_data_are_shown_without_it_too(jittered):
    dataset = extra_of(jittered, views="windows")
    shapes = {tuple(dataset[counter].pixels.shape[1:]) for counter in range(20)}
    assert len(shapes) > 5
    for counter in range(20):
        sample = dataset[counter]
        assert sample.target.image_hw == tuple(sample.pixels.shape[1:])


def test_fresh_pictures_are_those_of_a_run_without_soft_labels(jittered, data):
    dataset = fresh_of(jittered, data, augmentation=JITTER)
    plain = DetectionDataset(dataset.data, JITTER, seed=5)
    for position in range(PICTURES):
        one, other = dataset[1, position, position], plain[1, position, position]
        assert torch.equal(one.pixels, other.pixels)
        assert torch.equal(one.target.boxes_cxcywh_norm, other.target.boxes_cxcywh_norm)
        assert one.target.image_hw == other.target.image_hw == tuple(one.pixels.shape[1:])


def part_scale_mirror(view, region):
    """As in tests of other windows, for one whose tile may leave some of its canvas."""
    _, _, width, height = view.tiles[0]["paste_xyxy_px"].tolist()
    x1, y1, x2, y2 = view.tiles[0]["source_xyxy_px"].tolist()
    left, top, right, bottom = view.regions[region]["box_xyxy_px"].tolist()
    if view.tiles[0]["flip"]:
        left, right = width - right, width - left
    x, y = (x2 - x1) / width, (y2 - y1) / height
    part = (x1 + left * x, y1 + top * y, x1 + right * x, y1 + bottom * y)
    return part, (x * y) ** -0.5, bool(view.tiles[0]["flip"])


def test_each_box_has_the_label_of_the_nearest_window_that_shows_it(jittered, data, monkeypatch):
    drawn, draw = [], detection.box_view
    monkeypatch.setattr(detection, "box_view", lambda *args: drawn.append(draw(*args)) or drawn[-1])
    monkeypatch.setattr("tests.trainer.data.test_fresh_windows.part_scale_mirror", part_scale_mirror)
    dataset, stored = fresh_of(jittered, data, augmentation=JITTER, labels="topk"), stored_regions(jittered)
    positions = dataset.windows.positions.tolist()
    known = 0
    for position in range(60):
        picture = position % PICTURES
        soft_labels = dataset[0, position, picture].target.soft_labels
        view = drawn[-1]
        assert view.canvas_hw == (SIDE, SIDE)
        for region, annotation in enumerate(view.regions["annotation"].tolist()):
            regions = stored.get((positions[picture], annotation), [])
            best = nearest_by_hand(part_scale_mirror(view, region), regions)
            is_known = soft_labels.is_known is None or bool(soft_labels.is_known[region])
            assert is_known == (best is not None)
            if best is not None:
                _, labelled, row = best
                assert soft_labels.class_ids[region].tolist() == labelled.labels.class_ids[row].tolist()
                known += 1
    assert known > 60
