"""The two-stage detector learns the demo's world."""

import contextlib
import json
from unittest.mock import patch

import numpy as np
import pytest

import richsem_train
from richsem_prep import cli as prep_cli
from richsem_prep.demo.dataset import write_demo
from richsem_train.console import SilentReporter
from richsem_train.run.log import read_log
from tests.integration.programs import call
from tests.trainer.tiny import one_thread

PICTURES = {"lvis_demo_train.json": 80, "lvis_demo_val.json": 8}


def make_demo(folder, *options):
    """The demo's data and its cache, below a folder."""
    with contextlib.chdir(folder):
        demo = ("shard", "--dataset", "demo", "--root", "data/demo", "--out", "caches/demo", "--executor", "inline")
        assert call(prep_cli, "richsem-prep", *demo, *options) == 0


def train_in(folder, config):
    with contextlib.chdir(folder):
        return richsem_train.train(config, "out", device="cpu", reporter=SilentReporter())


def leave_some_pictures(data):
    """So many of each split, with their boxes."""
    for path in (data / "demo" / "detection" / "annotations").iterdir():
        content = json.loads(path.read_text())
        content["images"] = content["images"][: PICTURES[path.name]]
        kept = {image["id"] for image in content["images"]}
        content["annotations"] = [each for each in content["annotations"] if each["image_id"] in kept]
        path.write_text(json.dumps(content))


def test_losses_of_all_stages_fall_in_a_few_steps(tmp_path):
    write_demo(tmp_path / "data" / "demo", pictures_per_class=1, val_instances_per_class=1)
    make_demo(tmp_path, "--limit", "16")
    leave_some_pictures(tmp_path / "data")
    config = {
        "base": "c2_demo",
        "workers": 0,
        "extra": None,
        "text": {"cache": "caches/demo", "label_set": "demo"},
        "model": {"semantic_branch": False},
        "detection": {"repeat_threshold": None},
        "schedule": {"warmup_steps": 0},
        "log": {"every_steps": 1, "tensorboard": False},
    }
    with one_thread(), patch("richsem_train.results.plots.plot_run"):
        trained = train_in(tmp_path, config)
    steps = read_log(tmp_path / trained.out / "log.jsonl").steps
    losses = [step["losses"] for step in steps]
    assert len(losses) == 10
    for name in ("loss_heatmap", "loss_proposal_giou", "loss_class_0", "loss_class_1", "loss_class"):
        before, after = (np.mean([each[name] for each in part]) for part in (losses[:3], losses[-3:]))
        assert after < before, name
    assert losses[-1]["loss_class"] < 0.1 * losses[0]["loss_class"]


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_demo_is_learnt_in_the_steps_of_its_config(tmp_path):
    make_demo(tmp_path)
    trained = train_in(tmp_path, "c2_demo")
    assert trained.last.metrics["AP"] >= 0.35, trained.last.metrics
