"""Results in COCO's form: read back by pycocotools, and matched with annotations by names."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from richsem_schemas.errors import RichSemError
from richsem_schemas.scoring.detections import PictureDetections
from richsem_train.results.coco_results import IMAGES, RESULTS, AnnotatedIds, CocoResults
from richsem_train.results.predict import predict
from richsem_train.results.prediction import ClassTable

CLASSES = ClassTable(("none", "sofa", "zebra", "", "cat"), ("",) * 5, (-1, 7, 9, -1, -1))
ZEBRA_AND_SOFA = {1: "zebra", 4: "sofa"}
BOXES = [[10, 5, 30, 25], [0, 0, 8, 8], [1, 2, 3, 4]]


def detect(image):
    return PictureDetections(np.array([2, 1, 4]), np.array(BOXES, np.float32), np.array([0.9, 0.5, 0.25], np.float32))


def pictures(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40)).save(folder / name)
    return [folder / name for name in names]


def written(out):
    return [json.loads((out / name).read_text()) for name in (RESULTS, IMAGES)]


def annotations(path, names, categories=ZEBRA_AND_SOFA, box=(10, 5, 20, 20)):
    images = [{"id": 100 + number, "file_name": name, "height": 40, "width": 60} for number, name in enumerate(names)]
    boxes = [
        {"id": 1 + number, "image_id": image["id"], "category_id": 1, "bbox": list(box), "area": 400, "iscrowd": 0}
        for number, image in enumerate(images)
    ]
    kinds = [{"id": number, "name": name} for number, name in categories.items()]
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": kinds}))
    return path


def test_pictures_are_numbered_in_order_and_named_in_the_companion(tmp_path):
    paths = pictures(tmp_path / "in", "b.jpg", "broken.jpg", "deep/a.jpg")
    paths[1].write_bytes(b"no picture")
    coco = CocoResults(tmp_path / "out", CLASSES, {path: place for place, path in enumerate(paths, start=1)})
    predict(paths, detect, tmp_path / "out", classes=CLASSES, coco=coco)
    results, images = written(tmp_path / "out")
    assert results[:2] == [
        {"image_id": 1, "category_id": 9, "bbox": [10.0, 5.0, 20.0, 20.0], "score": pytest.approx(0.9)},
        {"image_id": 1, "category_id": 7, "bbox": [0.0, 0.0, 8.0, 8.0], "score": 0.5},
    ]
    # The cat has no category id, and the broken picture's number is left out.
    assert [each["image_id"] for each in results] == [1, 1, 3, 3]
    assert images["categories"] == [{"id": 7, "name": "sofa"}, {"id": 9, "name": "zebra"}]
    assert images["images"] == [
        {"id": number, "file_name": str(path), "height": 40, "width": 60}
        for number, path in ((1, paths[0]), (3, paths[2]))
    ]


def test_pycocotools_reads_both_files(tmp_path):
    paths = pictures(tmp_path, "a.jpg", "b.jpg")
    coco = CocoResults(tmp_path / "out", CLASSES, {path: place for place, path in enumerate(paths, start=1)})
    predict(paths, detect, tmp_path / "out", classes=CLASSES, coco=coco)
    loaded = COCO(str(tmp_path / "out" / IMAGES)).loadRes(str(tmp_path / "out" / RESULTS))
    assert [loaded.anns[key]["area"] for key in loaded.getAnnIds(imgIds=[2])] == [400.0, 64.0]


def test_results_with_the_ids_of_annotations_are_scored_by_pycocotools(tmp_path):
    """The zebra is where it is annotated, in both pictures; sofas are annotated nowhere."""
    paths = pictures(tmp_path, "a.jpg", "b.jpg")
    file = annotations(tmp_path / "val.json", ["b.jpg", "a.jpg"])
    known = AnnotatedIds.read(file)
    assert known.image_ids(paths) == {paths[0]: 101, paths[1]: 100}
    classes = known.classes(CLASSES)
    assert classes.category_ids == (-1, 4, 1, -1, -1)
    coco = CocoResults(tmp_path / "out", classes, known.image_ids(paths))
    predict(paths, detect, tmp_path / "out", classes=CLASSES, coco=coco)
    truth = COCO(str(file))
    evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "out" / RESULTS)), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)
    # The other file keeps the detector's own ids.
    record = json.loads((tmp_path / "out" / "predictions.json").read_text())["pictures"][0]
    assert [each["category_id"] for each in record["detections"]] == [9, 7, None]


def test_pictures_are_found_by_as_many_parts_of_their_names_as_tell_them_apart(tmp_path):
    known = AnnotatedIds.read(annotations(tmp_path / "a.json", ["train/1.jpg", "val/1.jpg", "val/2.jpg"]))
    # As annotated; by its last part alone, the only one; and one that could be either.
    paths = [Path("/data/val/1.jpg"), Path("elsewhere/2.jpg"), Path("elsewhere/1.jpg")]
    assert known.image_ids(paths) == {paths[0]: 101, paths[1]: 102}


def test_two_pictures_that_are_called_like_one_of_the_file_are_refused(tmp_path):
    known = AnnotatedIds.read(annotations(tmp_path / "a.json", ["1.jpg"]))
    with pytest.raises(
        RichSemError, match=r"x/1\.jpg and y/1\.jpg are both called like picture 100 of .*a\.json; name"
    ):
        known.image_ids([Path("x/1.jpg"), Path("y/1.jpg")])


def test_annotations_of_other_pictures_or_classes_are_refused(tmp_path):
    known = AnnotatedIds.read(annotations(tmp_path / "a.json", ["1.jpg"], {1: "Zebra", 2: "lamp"}))
    with pytest.raises(RichSemError, match=r"has none of the 1 pictures, such as 2\.jpg; give the annotations"):
        known.image_ids([Path("2.jpg")])
    with pytest.raises(RichSemError, match=r"none of its 2 categories \('Zebra', 'lamp'\) is one of the detector's 3"):
        known.classes(CLASSES)


def test_categories_of_one_name_are_refused(tmp_path):
    file = annotations(tmp_path / "a.json", ["1.jpg"], {1: "cat", 5: "cat"})
    with pytest.raises(RichSemError, match="categories 1 and 5 are both called 'cat'"):
        AnnotatedIds.read(file)
