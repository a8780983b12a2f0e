import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.ops import box_convert
from torchvision.transforms.v2 import functional as oracle

from richsem_schemas.annotations import read_annotations
from richsem_schemas.errors import PictureError
from richsem_train.config import AugmentationConfig
from richsem_train.data.collate import collate
from richsem_train.data.detection import DetectionDataset, EvaluationDataset
from tests.trainer.data.datasets import seen_pixels

COCO128 = Path(__file__).parents[4] / "shared" / "data" / "coco128"
SMALL = AugmentationConfig(short_sides=(40, 48), longest_side=96, first_short_sides=(40, 50), crop_sides=(24, 40))
AS_IT_IS = AugmentationConfig(short_sides=(40,), longest_side=1000, first_short_sides=(), flip=False)


@pytest.fixture
def dataset(tmp_path):
    """Ten 40x60 pictures, each of one grey; picture i has i % 3 boxes."""
    images, annotations = [], []
    for index in range(10):
        Image.new("RGB", (60, 40), (20 * index,) * 3).save(tmp_path / f"{index}.png")
        images.append({"id": 100 + index, "file_name": f"{index}.png", "height": 40, "width": 60})
        for box in range(index % 3):
            annotations.append({"image_id": 100 + index, "category_id": 1 + box, "bbox": [6, 4, 30, 20]})
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return read_annotations(path, tmp_path, file_format="coco")


def assert_equal_samples(first, second):
    assert first.name == second.name
    assert torch.equal(first.pixels, second.pixels)
    assert torch.equal(first.target.boxes_cxcywh_norm, second.target.boxes_cxcywh_norm)


def test_a_sample_holds_the_picture_and_its_normalised_boxes(dataset):
    sample = DetectionDataset(dataset, AS_IT_IS, seed=0)[0, 0, 5]
    assert sample.name == "5.png"
    assert sample.pixels.dtype == torch.uint8
    assert sample.pixels.shape == (3, 40, 60)
    assert (sample.pixels == 100).all()
    target = sample.target
    assert (target.image_id, target.image_hw, target.original_hw) == (105, (40, 60), (40, 60))
    assert (target.supervision, target.soft_labels) == ("labelled", None)
    torch.testing.assert_close(target.boxes_cxcywh_norm, torch.tensor([[0.35, 0.35, 0.5, 0.5]] * 2))
    assert target.labels.tolist() == [1, 2]
    assert target.labels.dtype == torch.int64


def test_a_picture_without_boxes_gives_an_empty_target(dataset):
    target = DetectionDataset(dataset, SMALL, seed=0)[0, 0, 3].target
    assert target.boxes_cxcywh_norm.shape == (0, 4)
    assert target.boxes_cxcywh_norm.dtype == torch.float32
    assert target.labels.shape == (0,)


def test_a_sample_depends_on_seed_epoch_and_position_only(dataset):
    first, again = DetectionDataset(dataset, SMALL, seed=4), DetectionDataset(dataset, SMALL, seed=4)
    for position in range(20):
        again[0, position, 1]
    assert_equal_samples(first[2, 3, 5], again[2, 3, 5])
    shapes = {DetectionDataset(dataset, SMALL, seed=4)[0, position, 5].pixels.shape for position in range(30)}
    assert len(shapes) > 5
    for other in (first[1, 3, 5], first[2, 4, 5], DetectionDataset(dataset, SMALL, seed=5)[2, 3, 5]):
        assert not torch.equal(other.target.boxes_cxcywh_norm, first[2, 3, 5].target.boxes_cxcywh_norm)


def test_boxes_stay_inside_whatever_is_drawn(dataset):
    augmented = DetectionDataset(dataset, SMALL, seed=1)
    for position in range(100):
        target = augmented[0, position, 8].target
        corners = box_convert(target.boxes_cxcywh_norm, "cxcywh", "xyxy")
        assert len(target.labels) == len(corners)
        assert ((corners >= -1e-6) & (corners <= 1 + 1e-6)).all()
        assert (target.boxes_cxcywh_norm[:, 2:] > 0).all()


def test_workers_give_the_same_batches_as_none(dataset):
    keys = [(0, position, position % 10) for position in range(8)]
    augmented = DetectionDataset(dataset, SMALL, seed=2)
    batches = [
        list(DataLoader(augmented, batch_sampler=[keys[:4], keys[4:]], collate_fn=collate, num_workers=workers))
        for workers in (0, 2)
    ]
    for alone, shared in zip(*batches, strict=True):
        assert alone.names == shared.names
        assert torch.equal(seen_pixels(alone), seen_pixels(shared))
        assert torch.equal(alone.padding_mask, shared.padding_mask)


def test_a_missing_picture_stops_training_by_name(dataset):
    dataset.path(4).unlink()
    with pytest.raises(PictureError, match=r"4\.png: can't be read \(No such file"):
        DetectionDataset(dataset, SMALL, seed=0)[0, 0, 4]


@pytest.mark.parametrize("damage", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n", "cut short"])
def test_a_broken_picture_stops_training_by_name(dataset, damage):
    path = dataset.path(4)
    path.write_bytes(path.read_bytes()[:60] if damage == "cut short" else damage)
    with pytest.raises(PictureError, match=r"4\.png: .*take it out of the annotations"):
        DetectionDataset(dataset, SMALL, seed=0)[0, 0, 4]


def test_a_picture_of_another_size_than_annotated_stops_training(dataset):
    Image.new("RGB", (40, 60)).save(dataset.path(4))
    with pytest.raises(PictureError, match="is 60 high and 40 wide, its annotations say 40 and 60"):
        DetectionDataset(dataset, SMALL, seed=0)[0, 0, 4]


def test_damaged_pictures_are_skipped_for_the_next_whole_one_where_asked(dataset):
    dataset.path(9).unlink()
    dataset.path(0).write_bytes(b"")
    augmented = DetectionDataset(dataset, SMALL, seed=0, on_damage="skip")
    sample = augmented[0, 3, 9]
    assert_equal_samples(sample, augmented[0, 3, 1])
    first, second = sample.damage
    assert "9.png" in first
    assert "0.png" in second
    assert augmented[0, 3, 1].damage == ()


def test_a_folder_of_damaged_pictures_stops_even_where_skipping_is_asked(dataset):
    for index in range(10):
        dataset.path(index).unlink()
    with pytest.raises(PictureError, match="check the folder"):
        DetectionDataset(dataset, SMALL, seed=0, on_damage="skip")[0, 0, 2]


def test_evaluation_shows_every_picture_in_order_and_keeps_its_size(dataset):
    evaluation = EvaluationDataset(dataset, short_side=80, longest_side=100)
    samples = list(evaluation)
    assert [sample.name for sample in samples] == [f"{index}.png" for index in range(10)]
    assert samples[5].pixels.shape == (3, 67, 100)
    assert samples[5].target.image_hw == (67, 100)
    assert samples[5].target.original_hw == (40, 60)
    torch.testing.assert_close(samples[5].target.boxes_cxcywh_norm, torch.tensor([[0.35, 0.35, 0.5, 0.5]] * 2))


def test_evaluation_stops_at_a_missing_picture(dataset):
    dataset.path(4).unlink()
    with pytest.raises(PictureError, match=r"4\.png"):
        EvaluationDataset(dataset)[4]


def test_real_pictures_and_boxes_equal_those_of_torchvision():
    if not COCO128.is_dir():
        pytest.skip(f"no real pictures at {COCO128}")
    data = read_annotations(COCO128 / "annotations/lvis_style_train.json", COCO128)
    evaluation = EvaluationDataset(data, short_side=200, longest_side=300)
    for index in range(0, 128, 16):
        sample = evaluation[index]
        hw = sample.target.image_hw
        with Image.open(data.path(index)) as file:
            theirs = oracle.pil_to_tensor(oracle.resize(file.convert("RGB"), list(hw)))
        # Two kernels of one filter: each rounds after columns and after rows, in its own order.
        assert (sample.pixels.int() - theirs.int()).abs().max() <= 1
        boxes = tv_tensors.BoundingBoxes(
            torch.from_numpy(data.objects(index)[0]), format="XYWH", canvas_size=sample.target.original_hw
        )
        expected = oracle.convert_bounding_box_format(oracle.resize(boxes, list(hw)), new_format="CXCYWH")
        scale = torch.tensor([hw[1], hw[0]] * 2)
        torch.testing.assert_close(sample.target.boxes_cxcywh_norm, expected.as_subclass(torch.Tensor) / scale)
    assert np.diff(data.offsets).sum() == len(data.category_ids)
