"""OpenImages, Visual Genome and Objects365: fractions as boxes, classes that a file doesn't list, AP and AP50."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from richsem_schemas.annotations import AnnotationFormat, read_annotations
from richsem_schemas.scoring.detections import Detections
from richsem_schemas.scoring.evaluation import score, truth_of
from richsem_train.config import AugmentationConfig, DetectionConfig
from richsem_train.data.detection import DetectionDataset, EvaluationDataset
from tests import detection_trees as trees
from tests.schemas.scoring.scoring_cases import coco_oracle
from tests.schemas.scoring.truth import truth_in
from tests.trainer.tiny import Quiet, losses_of, write_split

BOX_METRICS = ["AP", "AP50", "APr", "APc", "APf"]

AS_IT_IS = AugmentationConfig(short_sides=(40,), longest_side=1000, first_short_sides=(), flip=False)


def write_openimages(data, split):
    """The same boxes as OpenImages has them; its names, too."""
    content = json.loads((data / f"{split}.json").read_text())
    images = {image["id"]: image for image in content["images"]}
    names = [each["name"].replace(",", "") for each in content["categories"]]
    (data / "class-descriptions-boxable.csv").write_text(
        "".join(f"/m/{number},{name}\n" for number, name in enumerate(names, 1))
    )
    lines = [
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
    ]
    for each in content["annotations"]:
        image, (x, y, w, h) = images[each["image_id"]], each["bbox"]
        sides = [x / image["width"], (x + w) / image["width"], y / image["height"], (y + h) / image["height"]]
        stem = image["file_name"].removesuffix(".png")
        lines.append(f"{stem},xclick,/m/{each['category_id']},1,{','.join(f'{side:.6f}' for side in sides)},0,0,0,0,0")
    (data / f"{split}-annotations-bbox.csv").write_text("\n".join(lines) + "\n")
    for path in (data / split).glob("*.png"):
        Image.open(path).save(path.with_suffix(".jpg"), quality=95)


@pytest.fixture(scope="module")
def openimages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("openimages")
    for split, pictures, seed in (("train", 12, 1), ("val", 4, 2)):
        write_split(folder, split, pictures, seed=seed)
        write_openimages(folder, split)
    return folder


def test_the_config_knows_the_formats_that_are_read():
    assert DetectionConfig.model_fields["format"].annotation == AnnotationFormat


def test_fractions_are_scaled_by_the_decoded_picture(openimages):
    relative = read_annotations(openimages / "val-annotations-bbox.csv", openimages / "val", file_format="openimages")
    in_pixels = read_annotations(openimages / "val.json", openimages / "val", file_format="coco")
    order = [in_pixels.files.index(name.replace(".jpg", ".png")) for name in relative.files]
    for index, same in enumerate(order):
        for dataset in (lambda data: DetectionDataset(data, AS_IT_IS, seed=0), EvaluationDataset):
            key = (lambda i: (0, 0, i)) if dataset is not EvaluationDataset else (lambda i: i)
            one, other = dataset(relative)[key(index)].target, dataset(in_pixels)[key(same)].target
            assert one.original_hw == other.original_hw
            torch.testing.assert_close(one.boxes_cxcywh_norm, other.boxes_cxcywh_norm, rtol=0, atol=1e-5)
            assert one.labels.tolist() == other.labels.tolist()


def noisy_detections(data, rng, *, scale=None):
    """Boxes of the truth, moved; some with another class."""
    owners = np.repeat(np.arange(len(data)), np.diff(data.offsets))
    boxes = data.boxes_xywh_px * rng.uniform(0.85, 1.1, data.boxes_xywh_px.shape)
    classes = np.where(rng.random(len(owners)) < 0.2, 1, data.category_ids)
    return Detections(data.image_ids[owners], classes, boxes.astype(np.float32), rng.random(len(owners)))


def test_fractions_score_as_pixels_do(openimages, tmp_path):
    relative = read_annotations(
        openimages / "train-annotations-bbox.csv", openimages / "train", file_format="openimages", is_scored=True
    )
    truth = truth_of(relative, "openimages")
    found = noisy_detections(relative, np.random.default_rng(0))
    metrics = score(truth, found)
    assert list(metrics) == BOX_METRICS
    sizes = {name: Image.open(openimages / "train" / name).size for name in relative.files}
    scale = np.array([sizes[relative.files[i]] * 2 for i in range(len(relative))], np.float64)
    by_id = {image_id: row for row, image_id in enumerate(relative.image_ids.tolist())}
    rows = np.array([by_id[image_id] for image_id in found.image_ids.tolist()])
    owners = np.repeat(np.arange(len(relative)), np.diff(relative.offsets))
    in_pixels = {
        "images": [{"id": i, "height": 1, "width": 1} for i in relative.image_ids.tolist()],
        "annotations": [
            {"id": n, "image_id": int(relative.image_ids[o]), "category_id": int(c), "bbox": (b * scale[o]).tolist(),
             "area": float(np.prod((b * scale[o])[2:])), "iscrowd": 0}
            for n, (o, c, b) in enumerate(zip(owners, relative.category_ids, relative.boxes_xywh_px, strict=True), 1)
        ],
        "categories": [{"id": each.id, "name": each.name} for each in relative.categories],
    }  # fmt: skip
    same = Detections(found.image_ids, found.category_ids, found.boxes_xywh_px * scale[rows], found.scores)
    path = tmp_path / "in_pixels.json"
    path.write_text(json.dumps(in_pixels))
    expected = score(truth_in(path, metric="coco"), same)
    assert 0.05 < metrics["AP"] < metrics["AP50"] < 1
    assert metrics == pytest.approx({name: expected[name] for name in BOX_METRICS}, abs=1e-6)


def test_groups_of_openimages_are_scored_as_pycocotools_scores_crowds(tmp_path):
    root = trees.challenge_tree(tmp_path, count=40)
    data = read_annotations(root / trees.CHALLENGE_VAL, root, file_format="openimages", is_scored=True)
    boxes, rng = data.scored.boxes, np.random.default_rng(0)
    owners = data.image_ids[boxes.image_index]
    # Each box is found, moved by a few percent, and half of them once more.
    again = np.concatenate([np.arange(len(owners)), np.flatnonzero(rng.random(len(owners)) < 0.5)])
    moved = boxes.boxes_xywh[again] * rng.uniform(0.8, 1.05, (len(again), 4))
    found = Detections(owners[again], boxes.category_ids[again], moved.astype(np.float32), rng.random(len(again)))
    content = {
        "images": [{"id": each, "height": 1, "width": 1} for each in data.image_ids.tolist()],
        "categories": [{"id": each.id, "name": each.name} for each in data.categories],
        "annotations": [
            {"id": n + 1, "image_id": int(owners[n]), "category_id": int(boxes.category_ids[n]),
             "bbox": box, "area": box[2] * box[3], "iscrowd": int(boxes.is_crowd[n])}
            for n, box in enumerate(boxes.boxes_xywh.astype(float).tolist())
        ],
    }  # fmt: skip
    assert 0 < boxes.is_crowd.sum() < len(owners)
    expected = coco_oracle(content, found)
    metrics = score(truth_of(data, "openimages"), found)
    assert 0 < metrics["AP"] < metrics["AP50"]
    assert metrics == pytest.approx({name: expected[name] for name in BOX_METRICS}, abs=1e-7)


def test_objects365_is_scored_as_coco_is(world):
    data = read_annotations(world.data / "val.json", world.data / "val", file_format="objects365", is_scored=True)
    found = noisy_detections(data, np.random.default_rng(1))
    truth = truth_of(data, "objects365")
    assert score(truth, found) == pytest.approx(score(truth_in(world.data / "val.json", metric="coco"), found))


def changes(data, file_format, annotations):
    return {
        "data": str(data),
        "extra": None,
        "detection__format": file_format,
        "detection__train": {"annotations": annotations.format("train"), "images": "train"},
        "detection__val": {"annotations": annotations.format("val"), "images": "val"},
        "model__classifier": "linear",
        "model__encoder_classifier": "linear",
        "model__semantic_branch": False,
        "loss__federated": None,
        "schedule__epochs": 1,
    }


def test_a_run_trains_and_scores_on_fractions(world, openimages, tmp_path):
    ended = world.run(tmp_path / "run", **changes(openimages, "openimages", "{}-annotations-bbox.csv"))
    assert [column.header for column in ended.table.columns][1:] == BOX_METRICS
    assert len(losses_of(tmp_path / "run")) == 3


def test_a_run_draws_as_many_pictures_by_class_as_it_is_told(world, openimages, tmp_path):
    sampling = {"detection__repeat_threshold": None, "detection__class_aware_pictures": 8}
    reporter = Quiet()
    options = changes(openimages, "openimages", "{}-annotations-bbox.csv") | sampling
    world.run(tmp_path / "run", reporter=reporter, **options)
    # 12 pictures, four a step.
    assert len(losses_of(tmp_path / "run")) == 2
    assert "an epoch shows 8 detection pictures, the same share of them for each category" in reporter.said


def write_visual_genome(folder, split, content):
    """The same boxes as Visual Genome has them, a folder a split, since its two files have fixed names."""
    names = {each["id"]: each["name"].upper() for each in content["categories"]}
    (folder / split / "images").mkdir(parents=True)
    (folder / split / "image_data.json").write_text(
        json.dumps([
            {"image_id": image["id"], "url": f"https://x/{image['file_name']}",
             "height": image["height"], "width": image["width"]}
            for image in content["images"]
        ])
    )  # fmt: skip
    objects = [
        {"image_id": image["id"], "objects": [
            dict(zip("xywh", each["bbox"], strict=True), object_id=each["id"], names=[names[each["category_id"]]])
            for each in content["annotations"] if each["image_id"] == image["id"]
        ]}
        for image in content["images"]
    ]  # fmt: skip
    (folder / split / "objects.json").write_text(json.dumps(objects))


def test_val_has_the_classes_of_train_where_files_list_none(world, tmp_path):
    for split in ("train", "val"):
        content = json.loads((world.data / f"{split}.json").read_text())
        if split == "train":
            # Names of fewer than 50 boxes don't count.
            content["annotations"] = content["annotations"] * 30
        write_visual_genome(tmp_path, split, content)
        for path in (world.data / split).glob("*.png"):
            (tmp_path / split / "images" / path.name).symlink_to(path)
    from richsem_train.run.open_data import open_data

    config = world.config(**changes(tmp_path, "visual-genome", "{}/objects.json") | {
        "detection__train": {"annotations": "train/objects.json", "images": "train/images"},
        "detection__val": {"annotations": "val/objects.json", "images": "val/images"},
    })  # fmt: skip
    data = open_data(config)
    assert [each.name for each in data.val.data.categories] == [each.name for each in data.train.categories]
    assert len(data.train.categories) > 2
    assert len(data.val.data.category_ids) > 0
