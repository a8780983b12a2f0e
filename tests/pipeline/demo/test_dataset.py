import hashlib
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from richsem_prep.demo import dataset, world
from richsem_schemas.errors import SourceError


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo") / "data"
    dataset.write_demo(root, pictures_per_class=1, val_instances_per_class=2)
    return root


def test_the_demo_is_marked_complete(demo):
    assert dataset.is_demo(demo)
    assert not dataset.is_demo(demo / "detection")
    assert [each.name for each in demo.parent.iterdir()] == ["data"]


def test_classification_has_a_folder_a_class_in_category_order(demo):
    categories = json.loads((demo / dataset.CATEGORIES).read_text())
    folders = sorted(each.name for each in (demo / dataset.CLASSIFICATION).iterdir())

    assert [category["id"] for category in categories] == list(range(1, 97))
    assert [category["name"] for category in categories] == folders
    for name in folders:
        assert [each.name for each in (demo / dataset.CLASSIFICATION / name).iterdir()] == [f"{name}_0000.jpg"]


@pytest.mark.parametrize("annotations", [dataset.TRAIN_ANNOTATIONS, dataset.VAL_ANNOTATIONS])
def test_the_annotations_load_in_lvis(demo, annotations):
    pytest.importorskip("pycocotools")
    lvis = pytest.importorskip("lvis")

    loaded = lvis.LVIS(str(demo / annotations))

    assert loaded.get_cat_ids() == list(range(1, 97))
    annotation_ids = loaded.get_ann_ids()
    assert len(annotation_ids) == len(loaded.dataset["annotations"])
    (first,) = loaded.load_anns(annotation_ids[:1])
    mask = loaded.ann_to_mask(first)
    left, top, width, height = (int(each) for each in first["bbox"])
    assert mask[top : top + height, left : left + width].sum() >= 0.97 * mask.sum() > 0
    image_ids = set(loaded.get_img_ids())
    assert {each["image_id"] for each in loaded.dataset["annotations"]} == image_ids


def test_area_is_the_area_of_the_mask(demo):
    mask_utils = pytest.importorskip("pycocotools.mask")
    content = json.loads((demo / dataset.VAL_ANNOTATIONS).read_text())
    for annotation in content["annotations"][:100]:
        rle = mask_utils.merge(mask_utils.frPyObjects(annotation["segmentation"], *world.SCENE_SIZE))
        assert annotation["area"] == pytest.approx(float(mask_utils.area(rle)), rel=0.12)


def test_counts_of_the_categories_are_those_of_the_training_split(demo):
    content = json.loads((demo / dataset.TRAIN_ANNOTATIONS).read_text())
    instances = Counter(each["category_id"] for each in content["annotations"])
    images = Counter(category for _, category in {(a["image_id"], a["category_id"]) for a in content["annotations"]})
    wanted = {each.name: each for each in world.assignment().detection}

    for category in content["categories"]:
        assert category["instance_count"] == instances[category["id"]] == wanted[category["name"]].instance_count
        assert category["image_count"] == images[category["id"]]
        assert category["frequency"] == wanted[category["name"]].frequency


def test_images_are_where_the_annotations_say(demo):
    content = json.loads((demo / dataset.VAL_ANNOTATIONS).read_text())
    boxes = Counter(each["image_id"] for each in content["annotations"])

    for record in content["images"]:
        with Image.open(demo / dataset.VAL_PICTURES / record["file_name"]) as picture:
            assert picture.size == (record["width"], record["height"])
        assert record["coco_url"].split("/")[-2:] == ["val", record["file_name"]]
        assert 1 <= boxes[record["id"]] <= world.MAX_OBJECTS
    assert len(list((demo / dataset.VAL_PICTURES).iterdir())) == len(content["images"])


def test_every_class_of_an_image_is_positive_or_negative(demo):
    content = json.loads((demo / dataset.VAL_ANNOTATIONS).read_text())
    positive: dict[int, set[int]] = {}
    for annotation in content["annotations"]:
        positive.setdefault(annotation["image_id"], set()).add(annotation["category_id"])
    for record in content["images"]:
        assert sorted([*record["neg_category_ids"], *positive[record["id"]]]) == list(range(1, 97))


def test_val_measures_rare_classes_on_enough_instances():
    counts = Counter()
    share = {"r": 12, "c": 14, "f": 16}
    classes = world.assignment().detection
    counts_of_classes = [share[each.frequency] for each in classes]
    for scene in dataset._plan_scenes(np.random.default_rng(0), counts_of_classes, (1, world.MAX_OBJECTS)):
        assert 1 <= len(scene) <= world.MAX_OBJECTS
        counts.update(scene)
    assert min(counts.values()) == 12


def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(demo, tmp_path):
    dataset.write_demo(tmp_path / "again", pictures_per_class=1, val_instances_per_class=2)
    dataset.write_demo(tmp_path / "other", seed=1, pictures_per_class=1, val_instances_per_class=2)

    assert _digest(tmp_path / "again") == _digest(demo)
    assert _digest(tmp_path / "other") != _digest(demo)


def test_a_folder_that_is_no_demo_is_refused_and_kept(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")

    with pytest.raises(SourceError, match="no demo"):
        dataset.write_demo(tmp_path, pictures_per_class=1)

    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_args, **_kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(dataset, "_save_jpeg", fail)
    with pytest.raises(OSError, match="disk full"):
        dataset.write_demo(tmp_path / "data")

    assert list(tmp_path.iterdir()) == []


def test_a_complete_demo_is_left_as_it_is(demo, monkeypatch):
    monkeypatch.setattr(dataset, "_write_all", None)

    dataset.write_demo(demo, pictures_per_class=1, val_instances_per_class=2)


@pytest.mark.parametrize("sizes", [{"pictures_per_class": 0}, {"val_instances_per_class": 0}])
def test_empty_demos_are_refused(tmp_path, sizes):
    with pytest.raises(ValueError, match="at least 1"):
        dataset.write_demo(tmp_path / "data", **sizes)


def _digest(root):
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()


def test_the_backbone_is_the_teacher_without_its_attention_pool(demo):
    from safetensors.numpy import load_file

    from richsem_prep.demo import TEACHER_DIR

    teacher = load_file(TEACHER_DIR / "open_clip_model.safetensors")
    backbone = load_file(demo / dataset.BACKBONE)

    left_out = {name for name in teacher if name not in backbone and name.startswith("visual.")}
    assert {name.split(".")[1] for name in left_out} == {"attnpool"}
    assert all(np.array_equal(backbone[name], teacher[name]) for name in backbone)
