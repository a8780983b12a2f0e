import sys

import pytest
from PIL import Image

from richsem_train.results.plots import plot_comparison, plot_run
from tests.schemas.figures.scripts import NAMES


def training(step, loss=1.0, **more):
    losses = {"loss_class": loss, "loss_class_0": loss}
    return {"step": step, "loss": loss, "losses": losses, "lr": 1e-4, **more}


def evaluation(step, **metrics):
    return {"step": step, "metrics": metrics}


@pytest.mark.parametrize(
    ("steps", "evaluations"),
    [
        ([], []),
        ([training(1)], []),
        ([training(1, float("nan")), training(2, float("inf"))], []),
        ([], [evaluation(1, AP=0.0, APr=-1.0, APc=None), evaluation(2, AP=0.1, APr=0.2)]),
        ([training(step, 1 / step, lr=1e-4 / step) for step in range(1, 300)], []),
        ([{"step": 1, "loss": 1.0}, training(2), training(3, lr=0.0)], []),
    ],
    ids=["empty", "one-step", "not-finite", "evaluation-only", "long", "varied"],
)
def test_curves_of_any_log_are_drawn(tmp_path, steps, evaluations):
    out = tmp_path / "curves.png"
    plot_run(steps, evaluations, out, title="run")
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
    for name in "ab":
        plot_run([training(step) for step in range(1, 20)], [], tmp_path / name, title="run")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_drawing_leaves_pyplot_alone(tmp_path):
    import subprocess

    code = "import sys, richsem_train.results.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_plots_show_arms_of_any_name_and_warn_of_nothing(tmp_path, recwarn, capfd):
    arms = {name: [{"AP": 0.5, "APr": 0.3, "steps": 10.0}] for name in [*NAMES.values(), "a$b$^_{", "\\frac", "x\n\ny"]}
    plot_comparison(arms, tmp_path / "c.png", title="红 $x$")
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]
    assert "findfont" not in capfd.readouterr().err
    with Image.open(tmp_path / "c.png") as image:
        assert image.height > 1000
