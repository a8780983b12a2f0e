"""The figure of the sweep over partial annotations, from runs as they lie on disk."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "drop_annotations.py"


def write_run(folder, arm, ratio, seed, **metrics):
    out = folder / f"{arm.replace(' ', '_')}-{ratio}-{seed}"
    out.mkdir(parents=True)
    (out / "config.yaml").write_text(f"base: demo\nname: {arm}\nseed: {seed}\n")
    (out / "results.json").write_text(json.dumps({"step": 9, "seconds_a_step": 0.1, "metrics": metrics}))
    return out


def run(folder):
    command = [sys.executable, SCRIPT, folder, "--out", folder / "figures"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_line_an_arm_has_means_and_deviations_over_seeds(tmp_path):
    for arm, gain in (("without semantics", 0.0), ("with semantics", 0.1)):
        for ratio, ap in (("0", 0.5), ("0.75", 0.2)):
            for seed, noise in enumerate((-0.02, 0.0, 0.02)):
                write_run(tmp_path, arm, ratio, seed, AP=ap + gain + noise, APr=ap if ratio == "0" else None)
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    runs = json.loads((tmp_path / "figures/drop_annotations.json").read_text())["runs"]
    assert [(each["arm"], each["ratio"]) for each in runs] == [
        ("without semantics", 0.0),
        ("without semantics", 0.75),
        ("with semantics", 0.0),
        ("with semantics", 0.75),
    ]
    assert [each["AP"]["mean"] for each in runs] == pytest.approx([0.5, 0.2, 0.6, 0.3])
    assert all(each["AP"]["standard_deviation"] == pytest.approx(0.02) for each in runs)
    assert (runs[1]["APr"]["mean"], runs[1]["seeds"], runs[1]["steps"]) == (None, [0, 1, 2], [9.0] * 3)
    with Image.open(tmp_path / "figures/drop_annotations.png") as image:
        assert image.width > 1000


def test_a_run_that_is_not_finished_is_named(tmp_path):
    (write_run(tmp_path, "with semantics", "0", 0, AP=0.5) / "results.json").unlink()
    done = run(tmp_path)
    assert done.returncode != 0
    assert "with_semantics-0-0: the run isn't finished" in done.stderr.replace("\n", "")
    assert not (tmp_path / "figures").exists()
