"""The rows of table 4 on the demo: what sets them apart, and that one command trains and compares all of them."""

import re
import subprocess
from pathlib import Path

import pytest
import typer

from richsem_train.cli import app
from richsem_train.config import config_differences, load_config

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "benchmarks" / "table4"
DETECTORS, METHODS = ("dino", "c2"), ("baseline", "detic", "richsem")
ROWS = [f"{detector}_{method}" for detector in DETECTORS for method in METHODS]

METHOD_KEYS = re.compile(r"name|(extra|text)(\..*)?|detection\.(labels|cache)|model\.semantic_branch|schedule\.epochs")
DETECTOR_KEYS = re.compile(r"name|model\..*|loss\.(bbox_weight|giou_weight|image_candidates)|schedule\.clip_\w+")
WHOLE_TABLE = {
    "dino_baseline": "table4_dino_baseline",
    "dino_detic": "table4_dino_detic",
    "dino_richsem": "table4_dino_richsem",
    "c2_baseline": "c2_r50_21k_lvis",
    "c2_detic": "c2_detic_r50_21k_inet_lvis",
    "c2_richsem": "c2_richsem_r50_21k_inet_lvis",
}

RECORDED = """#!/bin/sh
echo "$(basename "$0") $*" >> calls
while [ $# -gt 1 ]; do
  if [ "$1" = --out ]; then mkdir -p "$2"; touch "$2/config.yaml"; fi
  shift
done
"""
"""In the place of programs: notes how it was called, and leaves what says that a run was begun."""


def row(name):
    return load_config(CONFIGS / f"{name}.yaml")


def steps_a_detection_epoch(config):
    """Extra batches come on top, one for each detection batch."""
    return config.schedule.epochs * (2 if config.extras else 1)


def test_there_are_six_rows():
    assert sorted(path.stem for path in CONFIGS.iterdir()) == sorted(ROWS)
    assert len({row(name).name for name in ROWS}) == len(ROWS)


@pytest.mark.parametrize("method", ["detic", "richsem"])
@pytest.mark.parametrize("detector", DETECTORS)
def test_rows_of_a_detector_differ_in_the_method_alone(detector, method):
    found = config_differences(row(f"{detector}_baseline"), row(f"{detector}_{method}"))
    assert {key for key in found if not METHOD_KEYS.fullmatch(key)} == set()


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_the_same_for_both_detectors(method):
    found = config_differences(row(f"dino_{method}"), row(f"c2_{method}"))
    assert {key for key in found if not DETECTOR_KEYS.fullmatch(key)} - {"extra.views"} == set()


@pytest.mark.parametrize(("small", "whole"), WHOLE_TABLE.items())
def test_methods_are_those_of_the_whole_table(small, whole):
    shown = [row(small), load_config(whole)]
    semantics = [(each.model.semantic_branch, each.detection.labels) for each in shown]
    extra = [[(data.views, data.supervision, data.labels) for data in each.extras.values()] for each in shown]
    assert semantics[0] == semantics[1]
    assert extra[0] == extra[1]


def test_all_rows_take_as_many_steps_and_classify_by_text():
    assert {steps_a_detection_epoch(row(name)) for name in ROWS} == {2}
    assert all(row(name).model.classifies_by_text for name in ROWS)


@pytest.fixture
def called(tmp_path):
    """A function that makes the target with programs that only note how they were called: its calls, in order."""
    for name in ("python", "richsem-prep"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(RECORDED)
        program.chmod(0o755)
    for name in ("pyproject.toml", "requirements.txt", "ready"):
        (tmp_path / name).touch()

    def make():
        (tmp_path / "calls").unlink(missing_ok=True)
        command = ["make", "--file", ROOT / "Makefile", "demo-table4", "BIN=bin", "READY=ready"]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
        calls = [line.split() for line in (tmp_path / "calls").read_text().splitlines()]
        return [call[3:] for call in calls if call[:3] == ["python", "-m", "richsem_train"]]

    return make


def test_the_target_trains_every_row_with_every_seed_and_compares_by_detector(called):
    group = typer.main.get_command(app)
    calls = called()
    compared, trained = ([call for call in calls if (call[0] == "compare") is told] for told in (True, False))
    outs = {}
    for call in trained:
        given = group.make_context("richsem-train", list(call)).params
        config = load_config(ROOT / given["config"], given["changes"])
        outs.setdefault(Path(given["config"]).stem, {})[config.seed] = given["out"]
    assert {name: sorted(seeds) for name, seeds in outs.items()} == {name: [0, 1, 2] for name in ROWS}
    wanted = [[outs[f"{detector}_{method}"][seed] for method in METHODS for seed in range(3)] for detector in DETECTORS]
    assert [group.commands["compare"].make_context("compare", call[1:]).params["runs"] for call in compared] == wanted


def test_runs_that_were_begun_go_on(called):
    assert not any("--resume" in call for call in called())
    assert all(("--resume" in call) is (call[0] != "compare") for call in called())
