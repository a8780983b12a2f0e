"""From folders of five formats by two commands to a trained detector, on real pictures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.own_folders import FORMATS, NAMES, make_folder, small_coco

COCO = Path(__file__).parents[3] / "shared" / "data" / "coco128"
PICTURES = 8
TINY = (
    *("extra=null", "model.backbone.weights=null", "model.queries=50", "workers=0", "schedule.epochs=1"),
    *("schedule.global_batch_size=4", "schedule.warmup_steps=0", "detection.repeat_threshold=null"),
    *("detection.augmentation.kind=scale-jitter", "detection.augmentation.side=96"),
)

pytestmark = pytest.mark.skipif(not COCO.is_dir(), reason="needs coco128 of the shared data")


def program(*arguments, **more):
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **more)


def new(data, out, *words, **more):
    changes = [word for change in TINY for word in ("--set", change)]
    return program("richsem_train", "new", data, "--out", out, "--config", "demo", *changes, *words, **more)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return small_coco(
        COCO / "annotations" / "instances_train2017.json", PICTURES, tmp_path_factory.mktemp("s") / "s.json"
    )


def test_soft_labels_of_a_folder_of_yolo_by_one_command_are_trained_on(source, tmp_path):
    data = make_folder("yolo", source, COCO / "train2017", tmp_path / "data")
    done = new(data, tmp_path / "mine", "--teacher", "demo", "--run")
    assert done.returncode == 0, done.stderr
    require_detector(tmp_path / "mine", "yolo")
    assert "their boxes have soft labels" in done.stderr
    assert "they were drawn with other sizes" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_each_of_five_formats_leads_by_two_commands_to_a_detector(kind, source, tmp_path):
    data = make_folder(kind, source, COCO / "train2017", tmp_path / "data")
    done = new(data, tmp_path / "mine", "--teacher", "demo")
    assert done.returncode == 0, done.stderr
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        ["sh", tmp_path / "mine" / "commands.sh"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PATH": path},
    )
    assert ran.returncode == 0, ran.stderr
    require_detector(tmp_path / "mine", kind)


@pytest.mark.slow
def test_hard_labels_are_trained_on_without_a_teacher(source, tmp_path):
    data = make_folder("coco", source, COCO / "train2017", tmp_path / "data")
    done = new(data, tmp_path / "mine", "--teacher", "none", "--run", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["format"] == "COCO JSON"
    require_detector(tmp_path / "mine", "coco")


def test_a_teacher_without_weights_is_told_and_hard_labels_are_offered(source, tmp_path):
    data = make_folder("coco", source, COCO / "train2017", tmp_path / "data")
    done = new(data, tmp_path / "mine", "--teacher", "RN50:nowhere.pt", "--run")
    assert done.returncode == 1
    assert "Hard labels train, too, without a teacher:" in done.stderr
    assert f"richsem-train --config {tmp_path}/mine/hard_labels.yaml --out {tmp_path}/mine/run" in done.stderr
    assert "Traceback" not in done.stderr


def test_where_richsem_prep_is_not_installed_it_is_told_and_nothing_is_run(source, tmp_path):
    data = make_folder("coco", source, COCO / "train2017", tmp_path / "data")
    # As Python sees an environment without one of the packages of that extra.
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *more: None if name == 'ray' else find(name, *more)\n"
    )
    without_ray = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = new(data, tmp_path / "mine", "--teacher", "demo", env=without_ray)
    assert done.returncode == 0, done.stderr
    assert "richsem-prep needs ray; install with: pip install 'richsem[prep]'" in done.stdout
    assert f"richsem-train --config {tmp_path}/mine/hard_labels.yaml --out {tmp_path}/mine/run" in done.stdout
    ran = new(data, tmp_path / "other", "--teacher", "demo", "--run", env=without_ray)
    assert ran.returncode == 1
    assert "soft labels need richsem-prep, and the commands were not run" in ran.stderr
    assert not (tmp_path / "other" / "cache").exists()


def require_detector(mine, kind):
    found = json.loads((mine / "found.json").read_text())
    assert found["format"] == NAMES[kind]
    assert found["pictures"]["train"] + found["pictures"]["val"] == PICTURES
    assert found["problems"] == [] or {each["what"] for each in found["problems"]} == {
        "classes without a box, left out"
    }
    assert (mine / "run" / "results.json").is_file()
    assert list((mine / "run" / "checkpoints").glob("*.pt"))
