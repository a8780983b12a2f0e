"""RichSem's published weights: a text folder and their file give a score, without a cache."""

import argparse
import math

import numpy as np
import pytest
import torch

from richsem_prep import cli as prep_cli
from richsem_schemas.cache.text_folder import read_text_folder
from richsem_train.config import load_config
from richsem_train.data.category_rows import scored_split
from richsem_train.data.detection import EvaluationDataset
from richsem_train.results.rank_files import merge_detections
from richsem_train.run.open_data import read_split
from tests.integration.programs import call
from tests.trainer.models.dino.published_checkpoints import (
    FFN,
    HEADS,
    LEVELS,
    POINTS,
    QUERIES,
    SHAPES,
    TEXT,
    WIDTH,
    random_weight,
)
from tests.trainer.models.dino.published_rule import Shape, detect

MEAN, STD = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]
SMALLER = [
    f"model.hidden_dim={WIDTH}",
    f"model.feature_levels={LEVELS}",
    f"model.heads={HEADS}",
    f"model.points={POINTS}",
    f"model.ffn_dim={FFN}",
    f"model.queries={QUERIES}",
    "detection.val={annotations: val.json, images: val}",
    "evaluation.short_side=80",
    "evaluation.longest_side=120",
    "evaluation.batch_size=2",
    "workers=0",
]
"""What is not the paper's, so that the test takes seconds."""


@pytest.fixture(scope="module")
def text(world, tmp_path_factory):
    """What `richsem-prep text` makes of the names of the annotations."""
    out = tmp_path_factory.mktemp("text") / "names"
    arguments = ["text", "--teacher", "demo", "--names", str(world.data / "val.json"), "--out", str(out)]
    assert call(prep_cli, "richsem-prep", *arguments, "--device", "cpu") == 0
    return out


@pytest.fixture(scope="module", params=["richsem", "baseline"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def published(kind, text, tmp_path_factory):
    """A checkpoint with the names of RichSem's, the teacher within, and its weights."""
    bank = read_text_folder(text).bank
    width = bank.features.shape[1]
    shapes = {name: tuple(width if side == TEXT else side for side in shape) for name, shape in SHAPES[kind]().items()}
    state = {name: random_weight(name, shape) for name, shape in shapes.items()}
    for name in state:
        if name.endswith("logit_scale"):
            state[name] = torch.tensor(math.log(bank.logit_scale))
    unlike = torch.linalg.pinv(state["transformer.enc_out_class_embed.dino_visual_proj.weight"]) @ -torch.from_numpy(
        bank.features.sum(0)
    )
    state["transformer.enc_output.bias"] = torch.zeros(WIDTH)
    state["transformer.enc_output_norm.bias"] = unlike / unlike.norm()
    path = tmp_path_factory.mktemp(kind) / "checkpoint.pth"
    torch.save({"model": state, "args": argparse.Namespace(lr=1e-4), "epoch": 23}, path)
    return path, state


def settings(kind, text):
    """The commands of docs/training.md."""
    name = {"richsem": "richsem_r50_inet_lvis", "baseline": "baseline_r50_lvis"}[kind]
    changes = [f"text={{folder: {text}}}", *SMALLER]
    return name, changes


def test_they_are_scored_with_a_text_folder_and_no_cache(command, kind, text, published, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, changes = settings(kind, text)
    path, state = published
    options = [part for change in changes for part in ("--set", change)]
    out = tmp_path / "detections"
    assert command("eval", path, "--config", name, *options, "--out", out, "--device", "cpu") == 0, command.stderr
    assert "APr" in command.stdout
    assert not (tmp_path / "caches").exists()

    config, bank = load_config(name, changes), read_text_folder(text).bank
    val = scored_split(read_split(config, config.detection.val, class_names=None), bank.class_names)
    samples = list(EvaluationDataset(val.data, short_side=80, longest_side=120))
    found = merge_detections([*out.iterdir()], set(val.data.image_ids.tolist()))
    for first in range(0, len(samples), 2):
        batch = samples[first : first + 2]
        expected = detect(
            state,
            Shape(HEADS, POINTS, QUERIES),
            [(sample.pixels / 255 - MEAN) / STD for sample in batch],
            size_divisor=32,
            text_features=torch.from_numpy(bank.features.copy()),
        )
        assert not expected.is_stray.any()
        for row, sample in enumerate(batch):
            scores = expected.logits[row, :, 1 : 1 + len(val.data.categories)].sigmoid().flatten().sort(descending=True)
            ours = np.sort(found.scores[found.image_ids == sample.target.image_id])[::-1]
            np.testing.assert_allclose(ours, scores.values[: len(ours)], atol=1e-4)


def test_they_detect_in_pictures_of_ones_own(command, kind, text, published, tmp_path):
    name, changes = settings(kind, text)
    path, _ = published
    options = [part for change in changes for part in ("--set", change)]
    picture = next((command.world.data / "val").glob("*.png"))
    arguments = ["predict", path, picture, "--config", name, *options, "--out", tmp_path / "seen"]
    assert command(*arguments, "--threshold", 0, "--device", "cpu") == 0, command.stderr
    assert (tmp_path / "seen" / "predictions.json").exists()


def test_another_text_than_that_of_the_weights_is_refused(command, kind, text, published, tmp_path):
    name, changes = settings(kind, text)
    _, state = published
    other = tmp_path / "other.pth"
    torch.save({"model": state | {"transformer.enc_out_class_embed.logit_scale": torch.tensor(1.0)}}, other)
    options = [part for change in changes for part in ("--set", change)]
    assert command("eval", other, "--config", name, *options, "--device", "cpu") == 1
    assert "trained with a teacher of logit scale 2.718" in command.error
