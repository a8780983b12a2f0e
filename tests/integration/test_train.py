"""`richsem-train` as a user runs it: train, eval, predict, export, and what they leave behind."""

import argparse
import json
import re

import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open

from richsem_train import cli
from richsem_train.config import builtin_configs, load_config
from richsem_train.run.checkpoint import load_checkpoint
from richsem_train.run.log import LOG_NAME, read_log
from tests.integration.programs import call
from tests.trainer.tiny import EPOCH_STEPS, WHOLE_IMAGES, losses_of

METRICS = ["AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"]


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    """OUT of a run with all that a run may leave behind."""
    folder = tmp_path_factory.mktemp("trained")
    config = world.write_config(folder / "tiny.yaml", log__tensorboard=True, schedule__ema=0.5)
    assert call(cli, "richsem-train", "--config", config, "--out", folder / "out") == 0
    return folder / "out"


def numbers(text):
    """The metrics of a printed table."""
    return re.findall(r"\d\.\d{3}", text)


def test_a_run_leaves_checkpoints_log_curves_and_results(trained):
    files = {str(path.relative_to(trained)) for path in trained.rglob("*") if path.is_file()}
    assert {
        "config.yaml",
        LOG_NAME,
        "results.json",
        "curves.png",
        "checkpoints/last.pt",
        "checkpoints/best.pt",
    } <= files
    assert any(name.startswith("tensorboard/") for name in files)
    assert not any(".tmp" in name for name in files)
    Image.open(trained / "curves.png").verify()


def test_the_log_tells_each_step_and_each_evaluation(trained):
    log = read_log(trained / LOG_NAME)
    assert [line["step"] for line in log.steps] == list(range(1, 2 * EPOCH_STEPS + 1))
    assert [line["data"] for line in log.steps] == ["detection", "extra"] * EPOCH_STEPS
    assert [line["lr"] for line in log.steps] == pytest.approx([1e-3] * EPOCH_STEPS + [1e-4] * EPOCH_STEPS)
    assert [line["epoch"] for line in log.steps] == [0] * EPOCH_STEPS + [1] * EPOCH_STEPS
    assert [line["step"] for line in log.evaluations] == [EPOCH_STEPS, 2 * EPOCH_STEPS]
    assert list(log.evaluations[0]["metrics"]) == METRICS
    for line in log.steps:
        assert line["loss"] == pytest.approx(sum(line["losses"].values()))
        # Only the extra data have soft labels here.
        assert (line["losses"]["loss_soft"] > 0) == (line["data"] == "extra")
    assert log.steps[-1]["loss"] < log.steps[0]["loss"]


def test_listed_configs_are_all_there_are(command):
    assert command("--list-configs") == 0
    lines = command.stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(builtin_configs())
    assert all(len(line.split()) > 3 for line in lines)


def test_a_shown_config_is_one(command, tmp_path):
    assert command("--config", "demo", "--set", "schedule.epochs=3", "--show-config") == 0
    assert yaml.safe_load(command.stdout)["schedule"]["epochs"] == 3
    (tmp_path / "shown.yaml").write_text(command.stdout)
    assert load_config(str(tmp_path / "shown.yaml")) == load_config("demo", ["schedule.epochs=3"])


def test_the_default_config_says_what_it_lacks(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command() == 1
    assert "caches/inet-lvis" in command.error
    assert not any(tmp_path.iterdir())


# JSON


def test_json_of_a_run_is_what_its_results_say(command):
    assert command.train("--json", schedule__epochs=1) == 0, command.stderr
    assert json.loads(command.stdout) == json.loads((command.out / "results.json").read_text())


def test_json_of_configs(command):
    assert command("--list-configs", "--json") == 0
    assert list(json.loads(command.stdout)) == list(builtin_configs())
    assert command("--config", "demo", "--show-config", "--json") == 0
    assert json.loads(command.stdout) == load_config("demo").model_dump(mode="json")


def test_json_of_eval_has_the_metrics_of_the_table(command, trained):
    arguments = ("eval", trained / "checkpoints" / "last.pt", "--device", "cpu")
    assert command(*arguments, "--json") == 0, command.stderr
    told = json.loads(command.stdout)
    assert (told["checkpoint"], told["annotations"]) == (str(arguments[1]), "val.json")
    last = read_log(trained / LOG_NAME).evaluations[-1]["metrics"]
    assert told["metrics"] == {name: value if value >= 0 else None for name, value in last.items()}


def test_json_of_predict_export_and_compare(command, trained, tmp_path):
    best, out = trained / "checkpoints" / "best.pt", tmp_path / "seen"
    picture = next((command.world.data / "val").iterdir())
    missing = tmp_path / "gone.jpg"
    assert command("predict", best, picture, missing, "--out", out, "--device", "cpu", "--json") == 1
    seen = json.loads(command.stdout)
    assert (seen["out"], seen["pictures"], seen["failed"][0][0]) == (str(out), [str(out / picture.name)], str(missing))

    weights = tmp_path / "detector.safetensors"
    assert command("export", best, "--out", weights, "--json") == 0
    exported = json.loads(command.stdout)
    with safe_open(weights, framework="pt") as file:
        assert (exported["out"], exported["tensors"]) == (str(weights), len(list(file.keys())))
    assert exported["bytes"] == weights.stat().st_size

    assert command("compare", trained, "--out", tmp_path / "compared", "--json") == 0
    compared = json.loads(command.stdout)
    assert compared == json.loads((tmp_path / "compared" / "comparison.json").read_text())
    assert "comparison.png" in command.stderr


# eval


def test_eval_scores_as_the_run_did(command, trained):
    assert command("eval", trained / "checkpoints" / "last.pt", "--device", "cpu") == 0, command.stderr
    last = read_log(trained / LOG_NAME).evaluations[-1]["metrics"]
    assert numbers(command.stdout) == [f"{value:.3f}" for value in last.values() if value >= 0]


def test_eval_keeps_the_detections_where_told(command, trained, tmp_path):
    out = tmp_path / "kept"
    assert command("eval", trained / "checkpoints" / "best.pt", "--out", out, "--device", "cpu") == 0
    assert any(out.iterdir())


def test_eval_on_another_split(command, trained):
    change = ("--set", "detection.val={annotations: train.json, images: train}")
    assert command("eval", trained / "checkpoints" / "best.pt", *change, "--device", "cpu") == 0, command.stderr
    assert "train.json" in command.stdout


def test_eval_without_a_checkpoint_is_refused(command, tmp_path):
    assert command("eval", tmp_path / "no.pt") == 1
    assert "no.pt" in command.error


# export


def test_exported_weights_have_no_semantic_branch_and_detect_the_same(command, trained, tmp_path):
    best = trained / "checkpoints" / "best.pt"
    saved = load_checkpoint(best)
    semantic = {name for name in saved.model if "clip_visual_proj" in name}
    assert semantic
    exported = tmp_path / "detector.safetensors"
    assert command("export", best, "--out", exported) == 0, command.stderr
    with safe_open(exported, framework="pt") as file:
        kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    assert kept.keys() == saved.averaged.keys() - semantic
    assert all(torch.equal(kept[name], saved.averaged[name]) for name in kept)

    answers = []
    pictures = sorted((command.world.data / "val").iterdir())
    for weights in (best, exported):
        out = tmp_path / weights.suffix[1:]
        assert command("predict", weights, *pictures, "--out", out, "--threshold", 0, "--device", "cpu") == 0
        answers.append(json.loads((out / "predictions.json").read_text()))
    assert answers[0] == answers[1]
    assert command("eval", exported, "--device", "cpu") == 0
    table = numbers(command.stdout)
    assert command("eval", best, "--device", "cpu") == 0
    assert numbers(command.stdout) == table


def test_the_semantic_branch_changes_no_detection(command, trained, tmp_path):
    """Whatever its weights are."""
    best = trained / "checkpoints" / "best.pt"
    content = torch.load(best, weights_only=True)
    for weights in (content["model"], content["averaged"]):
        for name in weights:
            if "clip_visual_proj" in name:
                weights[name] = torch.full_like(weights[name], 1e3)
    torch.save(content, tmp_path / "other.pt")
    picture = next((command.world.data / "val").iterdir())
    answers = []
    for number, weights in enumerate((best, tmp_path / "other.pt")):
        out = tmp_path / str(number)
        assert command("predict", weights, picture, "--out", out, "--device", "cpu") == 0
        answers.append((out / "predictions.json").read_bytes())
    assert answers[0] == answers[1]


@pytest.mark.parametrize("name", ["x.pt", "x"])
def test_export_into_another_format_is_refused(command, trained, tmp_path, name):
    assert command("export", trained / "checkpoints" / "best.pt", "--out", tmp_path / name) == 1
    assert ".safetensors" in command.error


# predict


def test_predict_draws_what_it_can_and_names_the_rest(command, trained, tmp_path):
    good = sorted((command.world.data / "val").iterdir())[:2]
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    out = tmp_path / "seen"
    pictures = (good[0], tmp_path / "bad.jpg", tmp_path / "gone.jpg", good[1])
    assert command("predict", trained / "checkpoints" / "best.pt", *pictures, "--out", out, "--device", "cpu") == 1
    assert "2 pictures couldn't be read" in command.error
    assert "bad.jpg" in command.stderr
    assert "gone.jpg" in command.stderr
    assert {path.name for path in good} <= {path.name for path in out.iterdir()}
    assert (out / "predictions.json").exists()


def test_predict_says_once_what_numbers_in_the_place_of_names_are(command, trained, tmp_path, monkeypatch):
    pictures = sorted((command.world.data / "val").iterdir())[:2]
    arguments = (trained / "checkpoints" / "best.pt", *pictures, "--threshold", "0", "--device", "cpu")
    assert command("predict", *arguments, "--out", tmp_path / "named") == 0
    assert "#" not in command.stdout
    monkeypatch.setattr("richsem_train.results.pictures.can_be_drawn", lambda _: False)
    assert command("predict", *arguments, "--out", tmp_path / "seen") == 0
    assert re.search(r"; #\d+ and the like stand for names that no font has, predictions.json has them", command.stdout)


# Checkpoints of other programs


@pytest.fixture(scope="module")
def published(trained, tmp_path_factory):
    """The same weights as DINO and RichSem publish theirs."""
    path = tmp_path_factory.mktemp("published") / "checkpoint.pth"
    model = dict(load_checkpoint(trained / "checkpoints" / "last.pt").averaged)
    for name in list(model):
        if name.startswith("bbox_embed.0."):
            model[name.replace("bbox_embed.0.", "bbox_embed.1.")] = model[name]
    model = {f"module.{name}": value for name, value in model.items() if name not in ("text_features", "logit_scale")}
    torch.save({"model": model, "args": argparse.Namespace(lr=1e-4), "epoch": 11}, path)
    return path


def test_a_published_checkpoint_is_scored_with_a_config(command, published, trained, tmp_path):
    config = command.world.write_config(tmp_path / "tiny.yaml")
    assert command("eval", published, "--config", config, "--device", "cpu") == 0, command.stderr
    last = read_log(trained / LOG_NAME).evaluations[-1]["metrics"]
    assert numbers(command.stdout) == [f"{value:.3f}" for value in last.values() if value >= 0]
    assert command("eval", published, "--device", "cpu") == 1
    assert "--config" in command.error


def test_a_run_starts_from_a_published_checkpoint(command, published):
    assert command.train(start_from=str(published), schedule__epochs=1) == 0, command.stderr
    assert "weights loaded" in command.stderr


# What else a config may say


@pytest.mark.parametrize(
    "changes",
    [
        {"extra": None, "text": None, "model__semantic_branch": False, "model__classifier": "linear",
         "model__encoder_classifier": "linear", "model__label_embedding": "embedding", "detection__format": "coco",
         "loss__federated": None},
        {"extra__labels": "topk", "extra__views": "crops", "extra__supervision": "unlabelled",
         "schedule__precision": "bf16", "schedule__accumulate": 2, "loss__tail": "uniform"},
        {"extra__views": "free-mosaics", "extra__supervision": "pseudo", "workers": 1},
        {"extra__labels": "hard", "detection__labels": "hard", "schedule__clip_norm": None},
        {**WHOLE_IMAGES, "loss__image_candidates": 3, "loss__image_negatives": True},
        {"model__backbone": {"name": "resnet18", "weights": None, "out_strides": [16, 32]}, "model__denoising__queries":
         0, "model__deformable_attention": "torch-checkpoint"},
    ],
    ids=["plain DINO", "top-k of unlabelled crops in parts and bf16", "pseudo-labelled free mosaics", "hard labels",
         "whole images",
         "resnet18 without denoising"],
)  # fmt: skip
def test_other_settings_train_too(command, changes):
    assert command.train(schedule__epochs=1, **changes) == 0, command.stderr
    steps = losses_of(command.out)
    assert len(steps) == (EPOCH_STEPS if changes.get("extra", 0) is not None else EPOCH_STEPS // 2)
    assert "AP" in command.stdout
    assert command("eval", command.out / "checkpoints" / "last.pt", "--device", "cpu") == 0, command.stderr


def test_weights_and_biases_offline(command, monkeypatch, tmp_path):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    assert command.train(log__wandb="tests", schedule__epochs=1) == 0, command.stderr
    assert list((command.out / "wandb").glob("offline-run-*"))
