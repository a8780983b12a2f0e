"""`richsem-train predict` on files, folders and patterns, and its results in COCO's form."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from richsem_train import Detector

LOW = ("--threshold", "0.01", "--device", "cpu")


@pytest.fixture
def best(trained):
    return trained / "checkpoints" / "best.pt"


@pytest.fixture
def folder(world, tmp_path):
    """Pictures of the val split, two of them of one name, a damaged one, and what is no picture."""
    first, second, third, _ = sorted((world.data / "val").iterdir())
    for path, name in ((first, "10.png"), (second, "2.png"), (third, "deep/2.png")):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(path.read_bytes())
    (tmp_path / "photos" / "3.jpg").write_bytes(b"\xff\xd8\xff no more")
    (tmp_path / "photos" / "notes.txt").write_text("not a picture")
    return tmp_path / "photos"


def test_a_folder_is_shown_in_natural_order_and_its_results_stay_out_of_the_next_run(command, best, folder):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    out = folder / "seen"
    for _ in range(2):
        # The damaged one is told, and the others are there.
        assert command("predict", best, folder, "--out", out, *LOW) == 1
        assert "1 pictures couldn't be read" in command.error
        told = json.loads((out / "predictions.json").read_text())
        assert [each["name"] for each in told["pictures"]] == ["2.png", "10.png", "2-2.png"]
        assert [each["source"] for each in told["failed"]] == [str(folder / "3.jpg")]
    assert all(path.read_bytes() == content for path, content in before.items())
    truth = COCO(str(out / "coco_images.json"))
    names = [(folder / name) for name in ("2.png", "10.png", "deep/2.png")]
    assert [(each["id"], each["file_name"]) for each in truth.dataset["images"]] == [
        (number, str(path)) for number, path in zip((1, 3, 4), names, strict=True)
    ]
    results = json.loads((out / "coco_results.json").read_text())
    detector = Detector.load(best, "cpu")
    arrays = [np.asarray(Image.open(path).convert("RGB")) for path in names]
    wanted = [
        result
        for number, found in zip((1, 3, 4), detector.predict(arrays), strict=True)
        for result in found.to_coco(number)
    ]
    assert [(each["image_id"], each["category_id"]) for each in results] == [
        (each["image_id"], each["category_id"]) for each in wanted
    ]
    np.testing.assert_allclose([each["bbox"] for each in results], [each["bbox"] for each in wanted], atol=1e-3)


def test_with_annotations_results_have_their_ids(command, best, world, tmp_path):
    pattern, file = world.data / "val" / "*.png", world.data / "val.json"
    assert command("predict", best, pattern, "--annotations", file, "--out", tmp_path, *LOW) == 0, command.stderr
    results = json.loads((tmp_path / "coco_results.json").read_text())
    known = {each["id"]: each["file_name"] for each in json.loads(file.read_text())["images"]}
    assert {each["image_id"] for each in results} == set(known)
    images = json.loads((tmp_path / "coco_images.json").read_text())["images"]
    assert all(each["file_name"].endswith(known[each["id"]]) for each in images)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("photos/deep/*.gif", "the pattern matches no picture: no file is called so"),
        ("empty", "a folder without pictures: it holds no file"),
    ],
)
def test_places_without_pictures_are_refused_before_anything_is_written(command, best, folder, place, said):
    (folder.parent / "empty").mkdir()
    assert command("predict", best, folder.parent / place, "--out", folder.parent / "seen") == 1
    assert said in command.error
    assert not (folder.parent / "seen").exists()


def test_annotations_beside_a_comparison_are_refused(command, best, folder):
    arguments = ("predict", best, folder, "--compare", best, "--annotations", "x.json", "--out", folder / "seen")
    assert command(*arguments) == 1
    assert "leave it or --compare out" in command.error
