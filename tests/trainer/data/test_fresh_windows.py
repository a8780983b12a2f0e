import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from richsem_schemas.cache import recipes
from richsem_schemas.cache.manifest import ViewGeometry
from richsem_schemas.cache.soft_labels import unit_rows
from richsem_train.config import AugmentationConfig
from richsem_train.data import detection
from richsem_train.data.damage import DamagedViewError
from richsem_train.data.detection import DetectionDataset, annotated_picture
from richsem_train.data.loaders import DetectionFeed, TrainingLoaders
from richsem_train.data.order import RankShare
from richsem_train.data.repeat_factor import epoch_indices
from tests.caches import SAMPLES_PER_SHARD, WindowsCache
from tests.trainer.data.datasets import (
    AUGMENTATION,
    OF_WINDOWS,
    PICTURES,
    WINDOWS,
    fresh_of,
    rewritten,
    seen_pixels,
    stored_of,
    stored_views,
)


def stored_regions(cache):
    """By (position in the plan, annotation): labelled view and row of each stored region, by pass."""
    found = {}
    for number in range(WINDOWS):
        for name, (labelled, _) in stored_views(cache, "window", number).items():
            position = int(name[:6]) * SAMPLES_PER_SHARD + int(name[7:12])
            for region, annotation in enumerate(labelled.view.regions["annotation"].tolist()):
                found.setdefault((position, annotation), []).append((labelled, region))
    return found


def part_scale_mirror(view, region):
    """What is there of a box in its picture, by hand, for a window that fills its canvas."""
    height, width = view.canvas_hw
    x1, y1, x2, y2 = view.tiles[0]["source_xyxy_px"].tolist()
    left, top, right, bottom = view.regions[region]["box_xyxy_px"].tolist()
    if view.tiles[0]["flip"]:
        left, right = width - right, width - left
    x, y = (x2 - x1) / width, (y2 - y1) / height
    part = (x1 + left * x, y1 + top * y, x1 + right * x, y1 + bottom * y)
    return part, (x * y) ** -0.5, bool(view.tiles[0]["flip"])


def nearest_by_hand(shown, regions):
    best = None
    for labelled, region in regions:
        part, scale, mirror = part_scale_mirror(labelled.view, region)
        overlap = box_iou(torch.tensor([shown[0]]).double(), torch.tensor([part]).double()).item()
        far = abs(np.log2(shown[1] / scale)) / 4 + (1 - overlap) + 0.1 * (mirror != shown[2])
        if overlap >= 0.5 and (best is None or far < best[0] - 1e-9):
            best = far, labelled, region
    return best


@pytest.fixture
def drawn_views(monkeypatch):
    """The views that a dataset draws, in turn."""
    views, draw = [], detection.box_view

    def kept(*args):
        views.append(draw(*args))
        return views[-1]

    monkeypatch.setattr(detection, "box_view", kept)
    return views


def test_pictures_are_those_of_a_run_without_soft_labels_but_for_one_resize(windows, data):
    dataset = fresh_of(windows, data)
    plain = DetectionDataset(dataset.data, AUGMENTATION, seed=5)
    for position in range(60):
        key = (1, position, position % PICTURES)
        one, other = dataset[key], plain[key]
        assert one.name == other.name
        assert one.pixels.shape == other.pixels.shape
        assert one.target.image_id == other.target.image_id
        assert one.target.original_hw == other.target.original_hw
        assert one.target.labels.tolist() == other.target.labels.tolist()
        torch.testing.assert_close(one.target.boxes_cxcywh_norm, other.target.boxes_cxcywh_norm, atol=1e-5, rtol=0)
        assert (one.pixels.float() - other.pixels.float()).abs().mean() < 12


@pytest.mark.parametrize("form", ["topk", "embedding"])
def test_each_box_has_the_label_of_the_nearest_window_that_shows_it(windows, data, drawn_views, form):
    dataset, stored = fresh_of(windows, data, labels=form), stored_regions(windows)
    positions = dataset.windows.positions.tolist()
    known = unknown = 0
    for position in range(80):
        picture = position % PICTURES
        soft_labels = dataset[0, position, picture].target.soft_labels
        view = drawn_views[-1]
        for region, annotation in enumerate(view.regions["annotation"].tolist()):
            regions = stored.get((positions[picture], annotation), [])
            best = nearest_by_hand(part_scale_mirror(view, region), regions)
            if best is None:
                assert not soft_labels.is_known[region]
                unknown += 1
                continue
            assert soft_labels.is_known is None or soft_labels.is_known[region]
            known += 1
            _, labelled, row = best
            if form == "topk":
                assert soft_labels.class_ids[region].tolist() == labelled.labels.class_ids[row].tolist()
                assert soft_labels.log_rest[region] == labelled.labels.log_rest[row]
            else:
                expected = unit_rows(labelled.embeddings[row : row + 1]).astype(np.float32)
                np.testing.assert_array_equal(soft_labels.embeddings[region], expected[0])
    assert known > 80
    assert unknown > 0


def test_what_was_drawn_as_it_is_stored_has_exactly_the_stored_pixels_and_labels(data, tmp_path):
    one_size = {"short_sides": (40,), "longest_side": 90, "first_short_sides": ()}
    geometry = ViewGeometry(**one_size, crop_sides=(12, 25), mosaic_tile=32)
    cache = WindowsCache(data, tmp_path / "out", windows=WINDOWS, geometry=geometry).make()
    dataset, stored = fresh_of(cache, data, augmentation=AugmentationConfig(**one_size)), stored_of(cache, data)
    same = 0
    for picture in range(PICTURES):
        sample = dataset[0, picture, picture]
        for pass_index in range(WINDOWS):
            window = stored[pass_index, 0, picture]
            if torch.equal(sample.pixels, window.pixels):
                assert sample.target.labels.tolist() == window.target.labels.tolist()
                assert torch.equal(sample.target.boxes_cxcywh_norm, window.target.boxes_cxcywh_norm)
                assert torch.equal(sample.target.soft_labels.embeddings, window.target.soft_labels.embeddings)
                assert sample.target.soft_labels.is_known is None
                same += 1
                break
    # All but those that were stored four times without, or four times with, a mirror.
    assert same > 0.8 * PICTURES


def test_a_sample_depends_on_its_seed_epoch_and_position_alone(windows, data):
    dataset = fresh_of(windows, data)
    first = dataset[2, 9, 4]
    dataset[0, 1, 30]
    assert torch.equal(dataset[2, 9, 4].pixels, first.pixels)
    assert torch.equal(
        fresh_of(windows, data)[2, 9, 4].target.soft_labels.embeddings, first.target.soft_labels.embeddings
    )
    for other in (dataset[2, 10, 4], dataset[3, 9, 4], fresh_of(windows, data, seed=6)[2, 9, 4]):
        assert not (other.pixels.shape == first.pixels.shape and torch.equal(other.pixels, first.pixels))


def test_boxes_may_stand_in_another_order(windows, data, folder, tmp_path):
    turned = rewritten(folder, tmp_path, lambda content: content["annotations"].reverse())
    one, other = fresh_of(windows, data), fresh_of(windows, turned)
    turned_round = 0
    for picture in range(PICTURES):
        here, there = one[0, picture, picture].target, other[0, picture, picture].target
        assert here.image_id == there.image_id
        order = [there.boxes_cxcywh_norm.tolist().index(box) for box in here.boxes_cxcywh_norm.tolist()]
        assert torch.equal(here.labels, there.labels[order])
        assert torch.equal(here.soft_labels.embeddings, there.soft_labels.embeddings[order])
        turned_round += order != sorted(order)
    assert turned_round > PICTURES / 4


def test_boxes_may_be_fractions_of_their_pictures(windows, data, tmp_path):
    hws = np.repeat(data.hws_px, np.diff(data.offsets), axis=0)
    relative = replace(
        data,
        boxes_xywh_px=(data.boxes_xywh_px / hws[:, [1, 0, 1, 0]]).astype(np.float32),
        hws_px=np.ones_like(data.hws_px),
        are_relative=True,
    )
    cache = WindowsCache(relative, tmp_path / "out", windows=WINDOWS).make()
    one, other = fresh_of(windows, data), fresh_of(cache, relative)
    for picture in range(0, PICTURES, 3):
        here, there = one[0, picture, picture].target, other[0, picture, picture].target
        torch.testing.assert_close(here.boxes_cxcywh_norm, there.boxes_cxcywh_norm, atol=1e-5, rtol=0)
        assert here.labels.tolist() == there.labels.tolist()
        assert (here.soft_labels.is_known is None) == (there.soft_labels.is_known is None)


def test_a_box_that_no_window_shows_has_no_label_that_is_known(data, tmp_path):
    """One window each, every other one a small crop."""
    tiny = ViewGeometry(short_sides=(32,), longest_side=66, first_short_sides=(24,), crop_sides=(4, 6), mosaic_tile=32)
    cache = WindowsCache(data, tmp_path / "out", windows=1, geometry=tiny).make()
    dataset = fresh_of(cache, data)
    known = Counter()
    for position in range(PICTURES):
        target = dataset[0, position, position].target
        is_known = target.soft_labels.is_known
        known.update([True] * len(target.labels) if is_known is None else is_known.tolist())
        assert len(target.soft_labels.embeddings) == len(target.labels)
        assert torch.isfinite(target.soft_labels.embeddings).all()
        torch.testing.assert_close(target.soft_labels.embeddings.norm(dim=1), torch.ones(len(target.labels)))
    assert min(known[False], known[True]) > PICTURES / 2


@pytest.mark.parametrize(
    ("forge", "message"),
    [
        (lambda kept: kept + 100, r"annotation"),
        (np.zeros_like, r"its annotations are not boxes of its picture, which has \d"),
        (lambda kept: kept[::-1], r"a region has another category than the box that it is said to be"),
    ],
)
def test_annotations_of_a_cache_are_not_trusted(data, tmp_path, monkeypatch, forge, message):
    honest = recipes._box_regions

    def forged(boxes_xyxy_px, rows, kept, noise_scale):
        return honest(boxes_xyxy_px, rows, forge(kept), noise_scale)

    with monkeypatch.context() as patch:
        patch.setattr(recipes, "_box_regions", forged)
        cache = WindowsCache(data, tmp_path / "out", windows=1).make()
    several = [index for index in range(PICTURES) if len(set(data.objects(index)[1].tolist())) == 3]
    for dataset_of in OF_WINDOWS.values():
        dataset = dataset_of(cache, data)
        refusals = [refusal(dataset, index) for index in several]
        told = [bool(re.search(rf"shard lvis-0.* is damaged: .*{message}", text)) for text in refusals if text]
        assert sum(told) > len(several) / 4


def refusal(dataset, index):
    """Why a picture can't be read, None where it can."""
    try:
        dataset[0, 0, index]
    except DamagedViewError as error:
        return str(error)
    return None


def test_shrunk_pictures_of_a_cache_have_boxes_of_their_own_size(data):
    height, width = data.hws_px[2].tolist()
    picture = annotated_picture(data, 2, (height * 2, width * 3))
    np.testing.assert_allclose(picture.boxes_xyxy_px, data.boxes_xyxy(2) * [3, 2, 3, 2])
    assert picture.rows.tolist() == data.objects(2)[1].tolist()


FACTORS = np.linspace(1, 2.6, PICTURES)
BATCH = 8


def epoch_list(epoch):
    return epoch_indices(FACTORS, 3, epoch)


def loaded(dataset, *, rank=0, world_size=1, workers=0, start=0, end=12):
    epoch_length = int(FACTORS.sum()) // BATCH
    feed = DetectionFeed(dataset, epoch_list, epoch_length)
    loaders = TrainingLoaders(feed, None, share=RankShare(BATCH, rank, world_size), workers=workers)
    return {
        step.step: [
            (name, int(pixels.long().sum()), target.soft_labels.embeddings.sum(dim=1).tolist())
            for name, pixels, target in zip(step.batch.names, seen_pixels(step.batch), step.batch.targets, strict=True)
        ]
        for step in loaders.batches(start, end)
    }


@pytest.mark.parametrize("views", OF_WINDOWS)
def test_any_number_of_ranks_and_workers_and_a_resume_show_the_same(windows, data, views):
    length = int(FACTORS.sum()) // BATCH * BATCH
    options = {"epoch_list": epoch_list, "epoch_length": length} if views == "stored" else {}

    def dataset():
        return OF_WINDOWS[views](windows, data, **options)

    alone = loaded(dataset())
    assert loaded(dataset(), workers=2) == alone
    resumed = loaded(dataset(), start=10)
    assert resumed == {step: alone[step] for step in (10, 11)}
    for world_size in (2, 4):
        ranks = [loaded(dataset(), rank=rank, world_size=world_size, end=10) for rank in range(world_size)]
        for step in range(10):
            assert sorted(each for rank in ranks for each in rank[step]) == sorted(alone[step])
