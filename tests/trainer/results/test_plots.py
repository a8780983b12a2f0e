import json
import sys

import pytest
from PIL import Image

from richsem_schemas.errors import RichSemError
from richsem_train.results.plots import plot_comparison, plot_run
from richsem_train.run.log import read_log


def log_file(tmp_path, lines):
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" if isinstance(line, dict) else line for line in lines))
    return path


def training(step, loss=1.0, **more):
    losses = {"loss_class": loss, "loss_class_0": loss}
    return {"event": "train", "step": step, "loss": loss, "losses": losses, "lr": 1e-4, **more}


def evaluation(step, **metrics):
    return {"event": "eval", "step": step, **metrics}


def test_log_separates_training_and_evaluation(tmp_path):
    damage = {"event": "damage", "step": 2, "message": "a crop is broken"}
    log = read_log(
        log_file(tmp_path, [training(1), evaluation(1, AP=0.1), training(2), damage, evaluation(2, AP=0.2, APr=-1.0)])
    )
    assert [line["step"] for line in log.steps] == [1, 2]
    assert log.evaluations == ({"step": 1, "metrics": {"AP": 0.1}}, {"step": 2, "metrics": {"AP": 0.2, "APr": -1.0}})


def test_later_lines_of_a_resumed_run_count(tmp_path):
    log = read_log(log_file(tmp_path, [training(1), training(2, 5.0), training(3, 5.0), training(2, 7.0)]))
    assert [(line["step"], line["loss"]) for line in log.steps] == [(1, 1.0), (2, 7.0), (3, 5.0)]


def test_a_last_line_cut_short_is_left_out(tmp_path):
    log = read_log(log_file(tmp_path, [training(1), '{"event": "train", "step": 2, "lo']))
    assert len(log.steps) == 1


def test_damage_elsewhere_is_named(tmp_path):
    with pytest.raises(RichSemError, match=r"log\.jsonl, line 2"):
        read_log(log_file(tmp_path, [training(1), "garbage\n", training(2)]))


def test_a_missing_log_is_named(tmp_path):
    with pytest.raises(RichSemError, match=r"log\.jsonl"):
        read_log(tmp_path / "log.jsonl")


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [training(1)],
        [training(1, float("nan")), training(2, float("inf"))],
        [evaluation(1, AP=0.0, APr=-1.0, APc=None)],
        [training(step, 1 / step, lr={"rest": 1e-4, "backbone": 0.0}) for step in range(1, 300)],
        [{"event": "train", "step": 1, "loss": 1.0}, training(2), training(3, lr=[1e-4, 1e-5])],
    ],
    ids=["empty", "one-step", "not-finite", "evaluation-only", "long", "varied"],
)
def test_curves_of_any_log_are_drawn(tmp_path, lines):
    out = tmp_path / "curves.png"
    plot_run(read_log(log_file(tmp_path, lines)), out, title="run")
    with Image.open(out) as image:
        assert image.format == "PNG"
        assert image.width > 1000
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "arms",
    [
        {"hard": [{"AP": 0.5, "APr": 0.3}, {"AP": 0.52, "APr": 0.2}], "soft": [{"AP": 0.6, "APr": -1.0}]},
        {"one": [{"AP": 0.5}]},
        {"nothing": []},
    ],
    ids=["two-arms", "one-seed", "no-runs"],
)
def test_comparisons_are_drawn(tmp_path, arms):
    out = tmp_path / "compare.png"
    plot_comparison(arms, out, title="demo")
    with Image.open(out) as image:
        assert image.format == "PNG"


def test_the_same_curves_are_the_same_bytes(tmp_path):
    log = read_log(log_file(tmp_path, [training(step) for step in range(1, 20)]))
    for name in "ab":
        plot_run(log, tmp_path / name, title="run")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_drawing_leaves_pyplot_alone(tmp_path):
    import subprocess

    code = "import sys, richsem_train.results.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
