import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from richsem_schemas.errors import RichSemError
from richsem_schemas.scoring.detections import PictureDetections
from richsem_train.results.predict import predict
from tests.trainer.results.classes import class_table

NAMES = {1: "sofa", 2: "zebra"}
CLASSES = class_table(NAMES)


def detect(image):
    width, height = image.size
    boxes = np.array([[0, 0, width / 2, height], [1, 2, 3, 4]], np.float32)
    return PictureDetections(np.array([2, 1]), boxes, np.array([0.75, 0.01], np.float32))


def picture(path: Path, size=(60, 40)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (100, 120, 140)).save(path)
    return path


def test_pictures_and_json_are_written(tmp_path):
    paths = [picture(tmp_path / "in" / "a.jpg"), picture(tmp_path / "in" / "b.png", (30, 50))]
    done = predict(paths, detect, tmp_path / "out", classes=class_table(NAMES, {2: "r"}))
    assert [path.name for path in done.pictures] == ["a.jpg", "b.png"]
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"a.jpg", "b.png", "predictions.json", "sheet.jpg"}
    for path, extension in zip(done.pictures, ("JPEG", "PNG"), strict=True):
        with Image.open(path) as image:
            assert image.format == extension
    first, second = json.loads((tmp_path / "out" / "predictions.json").read_text())["pictures"]
    assert (first["name"], first["height"], first["width"]) == ("a.jpg", 40, 60)
    assert second["detections"] == [
        {"name": "zebra", "category_id": 2, "frequency": "r", "score": 0.75, "box_xyxy_px": [0.0, 0.0, 15.0, 50.0]},
        {"name": "sofa", "category_id": 1, "frequency": None, "score": 0.01, "box_xyxy_px": [1.0, 2.0, 3.0, 4.0]},
    ]


def test_pictures_that_fail_are_named_and_the_others_done(tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff nothing more")
    paths = [tmp_path / "missing.jpg", broken, picture(tmp_path / "fine.jpg"), tmp_path]
    seen = []
    done = predict(
        paths, detect, tmp_path / "out", classes=CLASSES, on_picture=lambda path, problem: seen.append((path, problem))
    )
    assert [path.name for path in done.pictures] == ["fine.jpg"]
    assert [path for path, _ in done.failed] == [paths[0], paths[1], paths[3]]
    assert "no such file" in done.failed[0][1]
    assert [path for path, _ in seen] == paths
    assert [problem is None for _, problem in seen] == [False, False, True, False]
    report = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [failure["source"] for failure in report["failed"]] == [str(paths[i]) for i in (0, 1, 3)]


def test_pictures_of_one_name_do_not_overwrite_each_other(tmp_path):
    paths = [picture(tmp_path / folder / "cat.jpg") for folder in "ab"] + [picture(tmp_path / "c" / "CAT.jpg")]
    done = predict(paths, detect, tmp_path / "out", classes=CLASSES)
    assert [path.name for path in done.pictures] == ["cat.jpg", "cat-2.jpg", "CAT-3.jpg"]
    assert all(path.is_file() for path in done.pictures)


def test_no_pictures_give_an_empty_report(tmp_path):
    assert predict([], detect, tmp_path, classes=CLASSES).pictures == []
    assert json.loads((tmp_path / "predictions.json").read_text()) == {"pictures": [], "failed": []}


@pytest.mark.parametrize(
    ("names", "number"),
    [(NAMES, None), (NAMES | {2: "\U000e0fff"}, "#2"), (NAMES | {1: "\U000e0fff"}, None)],
    ids=["drawn", "no font", "below the threshold"],
)
def test_what_is_drawn_for_a_name_that_no_font_has_is_told(tmp_path, names, number):
    paths = [picture(tmp_path / name) for name in ("a.jpg", "b.jpg")]
    done = predict(paths, detect, tmp_path / "out", classes=class_table(names))
    assert done.number_for_name == number
    report = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert report["pictures"][0]["detections"][0]["name"] == names[2]


def test_long_names_of_large_letters_are_cut_to_what_file_systems_take_and_stay_apart(tmp_path):
    paths = [picture(tmp_path / "in" / f"{'猫' * 80}{number}.jpg") for number in (1, 2)] + [picture(tmp_path / "b.jpg")]
    done = predict(paths, detect, tmp_path / "out", classes=CLASSES)
    assert [path.name for path in done.pictures] == ["猫" * 66 + ".jpg", "猫" * 66 + "-2.jpg", "b.jpg"]
    report = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [one["source"] for one in report["pictures"]] == [str(path) for path in paths]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["score", "box"])
def test_detections_that_are_no_numbers_are_refused_before_anything_is_written(tmp_path, value, where):
    def diverged(image):
        found = detect(image)
        (found.scores if where == "score" else found.boxes_xyxy_px[:, 3])[1] = value
        return found

    path = picture(tmp_path / "a.jpg")
    with pytest.raises(RichSemError, match="1 detections have a score or a box that is not finite") as caught:
        predict([path], diverged, tmp_path / "out", classes=CLASSES)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "out").exists()
