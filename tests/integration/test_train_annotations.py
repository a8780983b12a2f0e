"""Training and scoring on annotation files as people have them, and the official scorer from the command line."""

import json
import re

import numpy as np
import pyarrow as pa
import pytest

from richsem_train.run.log import LOG_NAME, read_log
from tests.integration.train_command import altered_data
from tests.trainer.tiny import LINEAR

ONE_EPOCH = LINEAR | {"schedule__epochs": 1}


def without_boxes(content):
    content["annotations"] = []


def test_a_val_split_without_boxes_claims_no_best_checkpoint(command, world, tmp_path):
    data = altered_data(world, tmp_path / "data", val=without_boxes)
    assert command.train(data=data, **ONE_EPOCH) == 0, command.stderr
    said = " ".join(command.stderr.split())
    assert "AP is undefined: the val split has no boxes that count, so no checkpoint is kept as the best" in said
    assert "best.pt" not in said + command.stdout
    assert f"last: {command.out}" in said
    checkpoints = command.out / "checkpoints"
    assert [path.name for path in checkpoints.iterdir()] == ["last.pt"]
    results = json.loads((command.out / "results.json").read_text())
    assert results["best"] is None
    assert results["best_step"] is None
    assert set(results["metrics"].values()) == {None}

    assert command("eval", checkpoints / "last.pt", "--device", "cpu") == 0, command.stderr
    assert "AP is undefined: the val split has no boxes" in command.stderr
    assert command("compare", command.out, "--out", tmp_path) == 0, command.stderr


def test_curves_are_drawn_where_ap_is_undefined(command, world, tmp_path):
    data = altered_data(world, tmp_path / "data", val=without_boxes)
    config = world.write_config(tmp_path / "tiny.yaml", data=data, **ONE_EPOCH)
    assert command("--config", config, "--out", command.out, "--device", "cpu") == 0, command.stderr
    assert (command.out / "curves.png").is_file()


def moved(ids, picture=0):
    """Edits that give categories and pictures other ids."""

    def edit(content):
        for category in content["categories"]:
            category["id"] = ids[category["id"] - 1]
        for annotation in content["annotations"]:
            annotation["category_id"] = ids[annotation["category_id"] - 1]
            annotation["image_id"] += picture
            del annotation["id"]
        for image in content["images"]:
            image["id"] += picture
            image["neg_category_ids"] = [ids[each - 1] for each in image["neg_category_ids"]]

    return edit


@pytest.mark.parametrize("ids", [(0, 1, 2, 3, 4, 5), (1, 2, 3, 4, 5, 900_000)], ids=["from 0", "a large gap"])
def test_strange_ids_train_and_score_as_others_do_and_results_have_them(command, world, tmp_path, ids):
    assert command.train(**ONE_EPOCH) == 0, command.stderr
    expected = read_log(command.out / LOG_NAME).evaluations[-1]["metrics"]
    size = re.search(r"([\d,]+) trained parameters", command.stderr)[1]

    command.out = tmp_path / "strange"
    edit = moved(ids, picture=2**60)
    data = altered_data(world, tmp_path / "data", train=edit, val=edit)
    assert command.train(data=data, **ONE_EPOCH) == 0, command.stderr
    assert read_log(command.out / LOG_NAME).evaluations[-1]["metrics"] == expected
    assert f"{size} trained parameters" in command.stderr
    assert f"category ids {min(ids):,} to {max(ids):,} are rows 1 to 6" in " ".join(command.stderr.split())

    last = command.out / "checkpoints" / "last.pt"
    kept = tmp_path / "kept"
    assert command("eval", last, "--out", kept, "--device", "cpu") == 0, command.stderr
    with pa.ipc.open_stream(next(kept.iterdir())) as stream:
        table = stream.read_all()
    assert set(np.concatenate(table["category_ids"].to_pylist()).astype(int)) <= set(ids)
    assert min(table["image_id"].to_pylist()) > 2**60
    picture = next((world.data / "val").iterdir())
    assert command("predict", last, picture, "--out", tmp_path / "seen", "--threshold", "0", "--device", "cpu") == 0
    (record,) = json.loads((tmp_path / "seen" / "predictions.json").read_text())["pictures"]
    assert {each["category_id"] for each in record["detections"]} <= set(ids)


def test_what_only_the_metric_needs_is_needed_of_val_alone(command, world, tmp_path):
    def without(content):
        for image in content["images"]:
            del image["neg_category_ids"]
        for category in content["categories"]:
            del category["frequency"]

    data = altered_data(world, tmp_path / "train", train=without)
    assert command.train(data=data, **ONE_EPOCH) == 0, command.stderr

    command.out = tmp_path / "refused"
    data = altered_data(world, tmp_path / "val", val=without)
    assert command.train(data=data, **ONE_EPOCH) == 1
    assert "val.json: `neg_category_ids` of images[0] must be a list of integers" in command.error
    assert "detection.format: coco" in command.error
    assert not command.out.exists()
    assert command.train(data=data, detection__format="coco", **ONE_EPOCH) == 0, command.stderr


def test_the_official_scorer_says_what_it_takes_and_gives_the_same_figures(command):
    assert command.train(**ONE_EPOCH) == 0, command.stderr
    last = command.out / "checkpoints" / "last.pt"
    assert command("eval", last, "--device", "cpu") == 0, command.stderr
    table = command.stdout
    assert "lvis will take" not in command.stderr
    assert command("eval", last, "--scorer", "lvis", "--device", "cpu") == 0, command.stderr
    assert command.stdout == table
    assert re.search(r"lvis will take about \d+\.\d GB of memory and \d+ seconds", " ".join(command.stderr.split()))


def test_the_official_scorer_is_refused_for_other_data(command, world):
    assert command.train(detection__format="coco", **ONE_EPOCH) == 0, command.stderr
    assert command("eval", command.out / "checkpoints" / "last.pt", "--scorer", "lvis", "--device", "cpu") == 1
    assert "leave --scorer out" in command.error
    assert command("eval", command.out / "checkpoints" / "last.pt", "--scorer", "mine") == 2


def as_fractions(content):
    size = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    for annotation in content["annotations"]:
        width, height = size[annotation["image_id"]]
        x, y, w, h = annotation["bbox"]
        annotation["bbox"] = [x / width, y / height, w / width, h / height]


def test_boxes_written_as_fractions_are_told_in_training_and_in_scoring(command, world, tmp_path):
    data = altered_data(world, tmp_path / "data", val=as_fractions)
    assert command.train(data=data, **ONE_EPOCH) == 0, command.stderr
    told = "boxes within the first pixel of their picture: they seem to be fractions of its sides"
    assert re.search(rf"annotations: val: [\d,]+ {told}", " ".join(command.stderr.split()))
    assert command("eval", command.out / "checkpoints" / "last.pt", "--device", "cpu") == 0, command.stderr
    assert re.search(rf"annotations: [\d,]+ {told}", " ".join(command.stderr.split()))


@pytest.mark.parametrize("split", ["train", "val"])
def test_two_records_of_one_picture_are_refused_as_a_cache_refuses_them(command, world, tmp_path, split):
    def doubled(content):
        first, second = content["images"][:2]
        second["file_name"] = first["file_name"]

    assert command.train(data=altered_data(world, tmp_path / "data", **{split: doubled}), **ONE_EPOCH) == 1
    said = " ".join(command.stderr.split())
    assert "2 images are called" in said
    assert "list each picture once, with all of its boxes" in said
    assert "Traceback" not in said
