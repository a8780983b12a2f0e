"""Pictures that are missing are found before the first step, whichever they are, and done about as told."""

import json
import shutil

import pytest

from richsem_schemas.annotations import read_annotations
from tests.caches import WindowsCache
from tests.trainer.tiny import EPOCH_STEPS, losses_of

ONE_EPOCH = {"schedule__epochs": 1}


@pytest.fixture
def data(world, tmp_path):
    """A copy of the detection data, to be spoilt."""
    return shutil.copytree(world.data, tmp_path / "data")


@pytest.mark.parametrize("gone", [[1], [2], [12], [1, 2], [1, 3, 5, 7, 9, 11]])
def test_missing_training_pictures_stop_the_run_at_once_or_are_replaced(command, data, gone):
    for number in gone:
        (data / "train" / f"{number:012d}.png").unlink()
    assert command.train(data=str(data), **ONE_EPOCH) == 1
    assert (
        f"train: {len(gone)} of 12 pictures can't be read below {data / 'train'}: {gone[0]:012d}.png" in command.error
    )
    assert "detection.on_damage=skip" in command.error
    assert not command.out.exists()
    assert command.train(data=str(data), detection__on_damage="skip", **ONE_EPOCH) == 0, command.stderr
    assert f"train: {len(gone)} of 12 pictures can't be read" in command.stderr
    assert "the next ones take their place" in command.stderr
    assert len(losses_of(command.out)) == EPOCH_STEPS
    assert json.loads((command.out / "results.json").read_text())["damaged"] >= len(gone)


@pytest.mark.parametrize("on_damage", ["stop", "skip"])
@pytest.mark.parametrize("number", [1, 2, 4])
def test_a_missing_val_picture_stops_the_run_before_its_first_step(command, data, number, on_damage):
    (data / "val" / f"{number:012d}.png").unlink()
    assert command.train(data=str(data), detection__on_damage=on_damage, **ONE_EPOCH) == 1
    assert f"val: 1 of 4 pictures can't be read below {data / 'val'}: {number:012d}.png" in command.error
    assert not command.out.exists()


def test_eval_finds_it_before_it_detects_anything(command, world, data, tmp_path):
    world.run(tmp_path / "out", **ONE_EPOCH)
    (data / "val" / "000000000003.png").unlink()
    last = tmp_path / "out" / "checkpoints" / "last.pt"
    assert command("eval", last, "--set", f"data={data}", "--out", tmp_path / "found", "--device", "cpu") == 1
    assert "val: 1 of 4 pictures can't be read" in command.error
    assert not (tmp_path / "found").exists()


def test_pictures_that_a_cache_holds_need_not_lie_in_the_folder(command, world, data, tmp_path):
    annotated = read_annotations(data / "train.json", data / "train")
    windows = WindowsCache(annotated, tmp_path / "windows", pictures="copy").make()
    for number in range(2, 13):
        (data / "train" / f"{number:012d}.png").unlink()
    changes = {"detection__labels": "cache", "detection__cache": str(windows.layout.out)}
    assert command.train(data=str(data), **changes, **ONE_EPOCH) == 0, command.stderr
    assert "can't be read" not in command.stderr


def with_windows(windows, **more):
    return {"detection__labels": "cache", "detection__cache": str(windows.layout.out), **ONE_EPOCH, **more}


@pytest.mark.parametrize("views", ["fresh", "stored"])
def test_pictures_that_a_cache_refers_to_are_looked_for_where_they_will_be_read(command, data, tmp_path, views):
    annotated = read_annotations(data / "train.json", data / "train")
    windows = WindowsCache(annotated, tmp_path / "windows").make()
    changes = with_windows(windows, data=str(data), detection__views=views)
    moved = shutil.copytree(data / "train", tmp_path / "moved")
    (moved / "000000000004.png").unlink()
    assert command.train(**changes, detection__root=str(moved)) == 1
    assert f"train: 1 of 12 pictures can't be read below {moved}: 000000000004.png (No such file" in command.error
    assert not command.out.exists()
    assert command.train(**changes, detection__root=str(moved), detection__on_damage="skip") == 0, command.stderr
    assert f"train: 1 of 12 pictures can't be read below {moved}: 000000000004.png" in command.stderr
    assert len(losses_of(command.out)) == EPOCH_STEPS
    (data / "train" / "000000000004.png").unlink()
    shutil.rmtree(command.out)
    assert command.train(**changes) == 1
    assert f"train: 1 of 12 pictures can't be read below {data / 'train'}: 000000000004.png" in command.error


def test_pictures_of_a_cache_that_are_not_in_the_annotations_may_be_missing(command, data, tmp_path):
    annotated = read_annotations(data / "train.json", data / "train")
    windows = WindowsCache(annotated, tmp_path / "windows").make()
    content = json.loads((data / "train.json").read_text())
    content["images"] = [image for image in content["images"] if image["id"] != 5]
    content["annotations"] = [box for box in content["annotations"] if box["image_id"] != 5]
    (data / "train.json").write_text(json.dumps(content))
    (data / "train" / "000000000005.png").unlink()
    assert command.train(**with_windows(windows, data=str(data))) == 0, command.stderr
    assert "can't be read" not in command.stderr
