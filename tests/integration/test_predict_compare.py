"""`richsem-train predict --compare`: two checkpoints on the same pictures."""

import json
import os
import re

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.trainer.tiny import LINEAR

LOW = "0.01"
"""A threshold that detectors of few steps reach."""


@pytest.fixture(scope="module")
def baseline(world, tmp_path_factory):
    """A run of another config."""
    out = tmp_path_factory.mktemp("baseline") / "out"
    world.run(out, name="plain", schedule__epochs=1, seed=1, **LINEAR)
    return out / "checkpoints" / "best.pt"


@pytest.fixture
def best(trained):
    return trained / "checkpoints" / "best.pt"


@pytest.fixture
def pictures(world):
    return sorted((world.data / "val").iterdir())[:3]


def report(folder):
    return json.loads((folder / "predictions.json").read_text())


def test_each_finds_what_it_finds_alone(command, best, baseline, pictures, tmp_path):
    low = ("--threshold", LOW, "--device", "cpu")
    both = tmp_path / "both"
    assert command("predict", best, *pictures, "--compare", baseline, "--out", both, *low) == 0, command.stderr
    printed = command.stdout
    for name, checkpoint in (("a", best), ("b", baseline)):
        assert command("predict", checkpoint, *pictures, "--out", tmp_path / name, *low) == 0
        for alone, compared in zip(report(tmp_path / name)["pictures"], report(both)["pictures"], strict=True):
            assert len(alone["detections"]) > 10
            records = [dict(each) for each in compared["detections"][name]]
            assert {each.pop("found_by_other") for each in records} <= {True, False, None}
            for each in records:
                del each["score_of_other"]
            assert records == alone["detections"]
    told = report(both)
    total = told["found"]["all"]
    assert min(total["both"], total["only_a"] + total["only_b"]) > 0, total
    assert (told["a"]["title"], told["b"]["title"]) == ("tiny", "plain")
    for picture in told["pictures"]:
        assert f"{picture['name']}: {picture['found']['all']['both']} by both" in printed
        for side, alone in (("a", "only_a"), ("b", "only_b")):
            answers = [each["found_by_other"] for each in picture["detections"][side]]
            assert answers.count(True) == picture["found"]["all"]["both"]
            assert answers.count(False) == picture["found"]["all"][alone]
    assert "objects found in all pictures" in printed
    assert f"{both}: 3 pictures and predictions.json" in printed
    assert {path.name for path in both.iterdir()} == {
        *(path.name for path in pictures),
        "predictions.json",
        "sheet.jpg",
    }


def test_a_checkpoint_and_itself_find_the_same(command, best, pictures, tmp_path):
    arguments = ("predict", best, pictures[0], "--compare", best, "--threshold", LOW, "--device", "cpu", "--json")
    assert command(*arguments, "--out", tmp_path / "same") == 0, command.stderr
    told = json.loads(command.stdout)
    assert told["found"]["all"]["both"] > 0
    assert told["found"]["all"]["only_a"] == told["found"]["all"]["only_b"] == 0
    assert told["found_in"] == [told["found"]]
    assert (told["a"], told["b"]) == (str(best), str(best))
    assert told["pictures"] == [str(tmp_path / "same" / pictures[0].name)]
    with Image.open(told["pictures"][0]) as pair:
        assert pair.width > 1.5 * pair.height


def test_another_vocabulary_is_joined_by_name_and_its_own_classes_are_said(command, best, pictures, tmp_path):
    content = torch.load(best, weights_only=True)
    info = json.loads(content["info"])
    names = info["class_names"]
    lost, info["class_names"] = names[1], [names[0], "a unicorn", *names[2:]]
    torch.save(content | {"info": json.dumps(info)}, tmp_path / "other.pt")
    arguments = (pictures[0], "--compare", tmp_path / "other.pt", "--threshold", "0", "--device", "cpu")
    assert command("predict", best, *arguments, "--out", tmp_path / "seen") == 0, command.stderr
    assert re.search(rf"1 that only \S+best\.pt knows \({lost}\) and 1 that only \S+other\.pt knows", command.stderr)
    told = report(tmp_path / "seen")
    assert (told["a"]["only_it_knows"], told["b"]["only_it_knows"]) == ([lost], ["a unicorn"])
    assert told["found"]["all"]["unknown_to_a"] == told["found"]["all"]["unknown_to_b"] > 0
    assert told["found"]["all"]["only_a"] == 0

    info["class_names"] = ["", *(f"unicorn {row}" for row, _ in enumerate(names[1:], start=1))]
    torch.save(content | {"info": json.dumps(info)}, tmp_path / "none.pt")
    arguments = (pictures[0], "--compare", tmp_path / "none.pt", "--device", "cpu")
    assert command("predict", best, *arguments, "--out", tmp_path / "none") == 1
    assert "the two detectors have no class in common" in command.error
    assert not (tmp_path / "none").exists()


def test_what_is_no_checkpoint_to_compare_with_is_named(command, best, pictures, tmp_path):
    (tmp_path / "notes.pt").write_text("no checkpoint")
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    for name, message in (
        ("gone.pt", "there is no such checkpoint"),
        ("", "there is no such checkpoint"),
        ("notes.pt", "not a readable checkpoint"),
        ("other.safetensors", "safetensors of another program"),
    ):
        arguments = ("--compare", tmp_path / name, "--out", tmp_path / "seen", "--device", "cpu")
        assert command("predict", best, *pictures, *arguments) == 1
        assert command.error.startswith(str(tmp_path / name))
        assert message in command.error
    assert not (tmp_path / "seen").exists()


def test_the_config_of_nothing_to_compare_with_is_refused(command, best, pictures, tmp_path):
    arguments = ("--compare-config", "demo", "--out", tmp_path / "seen")
    assert command("predict", best, *pictures, *arguments) == 1
    assert "--compare-config is of the checkpoint that --compare names" in command.error


def test_the_checkpoint_to_compare_with_is_not_written_over(command, best, baseline, pictures, tmp_path):
    out = tmp_path / "seen"
    out.mkdir()
    os.link(baseline, out / "predictions.json")
    before = (out / "predictions.json").read_bytes()
    assert command("predict", best, *pictures, "--compare", baseline, "--out", out, "--device", "cpu") == 1
    assert f"{out / 'predictions.json'} would be overwritten" in command.error
    assert (out / "predictions.json").read_bytes() == before


def test_exported_weights_and_weights_of_other_programs_can_be_compared(command, best, baseline, pictures, tmp_path):
    exported = tmp_path / "weights.safetensors"
    assert command("export", best, "--out", exported) == 0
    arguments = ("--threshold", LOW, "--device", "cpu", "--json")
    assert command("predict", best, pictures[0], "--compare", exported, "--out", tmp_path / "1", *arguments) == 0
    assert json.loads(command.stdout)["found"]["all"]["only_b"] == 0

    weights = torch.load(baseline, weights_only=True)
    torch.save({"model": weights["averaged"] or weights["model"]}, tmp_path / "published.pth")
    config = command.world.write_config(tmp_path / "plain.yaml", name="published", **LINEAR)
    compared = ("--compare", tmp_path / "published.pth", "--compare-config", config, "--out", tmp_path / "2")
    assert command("predict", baseline, pictures[0], *compared, *arguments) == 0, command.stderr
    told = json.loads(command.stdout)
    assert told["b"] == "published"
    assert told["found"]["all"]["both"] > 0
    assert told["found"]["all"]["only_a"] == told["found"]["all"]["only_b"] == 0
