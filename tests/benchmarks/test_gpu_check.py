"""The check for machines with a GPU, in small on a CPU: every part runs and yields its figures."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECK = ROOT / "benchmarks" / "gpu" / "check.py"

FIGURES = {
    "environment": {"machine", "versions", "device", "compiler", "copy", "product bf16", "to device, pinned"},
    "kernel": {
        "fault",
        "errors, encoder 64x96, batch 1, bfloat16",
        "errors, decoder 64x96, batch 1, bfloat16",
        "times of torch, encoder 96x96, batch 2, float32",
        "times of grid_sample, decoder 64x96, batch 2, float32",
        "launch, host microseconds",
        "tiles and warps, encoder 64x96, batch 2, bfloat16",
    },
    "tests": {"gpu tests"},
    "steps": {
        "attention",
        "bf16, batch 2",
        "fp32, batch 2, the default",
        "fp32 with TF32, batch 2",
        "where time goes, bf16, batch 2",
    },
    "two-stage": {
        "plain, bf16, batch 8",
        "cached, bf16, batch 8",
        "image, bf16, batch 32 of half the side",
        "inference, bf16, batch 8",
        "inference of DINO, bf16, batch 8",
    },
    "steps-rn50": {
        f"{arm}, RN50-quickgelu, bf16, batch 2"
        for arm in ("cached embeddings", "cached top-k labels", "online teacher", "teacher alone")
    },
    "preparation-rn50": {
        "pictures",
        "threads",
        "packing",
        "mosaics, RN50, roi-align, second run",
        "the same bytes twice",
        "bare forward of mosaics, RN50",
        "crops, RN50, roi-align",
        "bare forward of crops, RN50",
        "1 crop and 4 mosaic passes, RN50, roi-align",
        "INet-LVIS, RN50, roi-align",
    },
    "loader": {"0 workers", "1 workers"},
    "steps-vit": {
        "cached embeddings, ViT-B-32-quickgelu, bf16, batch 2",
        "teacher alone, ViT-B-32-quickgelu, bf16, batch 2",
    },
    "preparation-vit": {
        "pictures",
        "1 crop and 4 mosaic passes, ViT-L/14, crop",
        "INet-LVIS, ViT-L/14, crop",
        "bare forward, ViT-L/14",
    },
}


def check(out, *arguments):
    command = [sys.executable, str(CHECK), "--out", str(out), *arguments]
    done = subprocess.run(command, env=os.environ | {"SMOKE": "1"}, capture_output=True, text=True, check=False)
    return done, json.loads((out / "gpu_check.json").read_text()) if (out / "gpu_check.json").is_file() else None


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_part_yields_its_figures_in_small_on_a_cpu(tmp_path):
    done, result = check(tmp_path / "out")
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "out" / "log.txt").read_text()
    assert list(result["parts"]) == list(FIGURES)
    for name, wanted in FIGURES.items():
        part = result["parts"][name]
        assert part["exit"] == 0, log
        assert wanted <= part["figures"].keys()
        failed = [figure for figure, value in part["figures"].items() if isinstance(value, dict) and "error" in value]
        assert not failed, log
    same = result["parts"]["preparation-rn50"]["figures"]["the same bytes twice"]
    assert same["tars"] > 0
    assert same["differing"] == []
    assert result["parts"]["kernel"]["figures"]["errors, encoder 64x96, batch 1, float32"]["out"] < 1e-5
    assert result["parts"]["tests"]["figures"]["gpu tests"]["failed"] == []


def test_a_limit_loses_no_part_that_was_through(tmp_path):
    # Long enough for no part at all: what can't be done is said, and the file is there.
    done, result = check(tmp_path, "--limit", "1", "environment", "kernel")
    assert done.returncode == 0, done.stderr
    assert {name: part["skipped"] for name, part in result["parts"].items()} == dict.fromkeys(
        ("environment", "kernel"), "no time left"
    )


def test_an_unknown_part_is_refused(tmp_path):
    done, result = check(tmp_path, "kernels")
    assert done.returncode == 2
    assert "no such part: kernels; choose of environment, kernel," in done.stderr
    assert result is None


@pytest.mark.slow
def test_wheels_at_hand_are_installed_for_the_parts_alone(tmp_path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "deformops-9.9-py3-none-any.whl", "w") as wheel:
        wheel.writestr("deformops/__init__.py", '__version__ = "9.9"\n')
        wheel.writestr("deformops-9.9.dist-info/METADATA", "Metadata-Version: 2.1\nName: deformops\nVersion: 9.9\n")
        wheel.writestr(
            "deformops-9.9.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("deformops-9.9.dist-info/RECORD", "")
    done, result = check(tmp_path / "out", "--wheels", str(wheels), "environment")
    assert done.returncode == 0, done.stderr
    assert result["parts"]["environment"]["figures"]["versions"]["deformops"] == "9.9"
