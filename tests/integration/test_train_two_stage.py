"""The two-stage detector from config to figures: commands, stops, ranks, and checkpoints of the other detector."""

import json

import pytest

from richsem_schemas.errors import RichSemError
from richsem_train.run.log import LOG_NAME, read_log
from tests.trainer.processes import start_command_ranks
from tests.trainer.stopping import StopAt, assert_same
from tests.trainer.tiny import EPOCH_STEPS, TWO_STAGE, WHOLE_IMAGES, losses_of

CHANGES = TWO_STAGE | {"schedule__ema": 0.9}


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """OUT of a run of two epochs, with soft labels of extra data."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert world.run(out, **CHANGES).stopped_by is None
    return out


def learnt(out, data):
    """Losses that steps on a kind of data had."""
    lines = [line["losses"] for line in losses_of(out) if line["data"] == data]
    return {name for losses in lines for name, value in losses.items() if value > 0}


def test_detection_data_teach_all_and_extra_data_what_is_in_their_boxes(whole):
    stages = ("_0", "_1", "")
    of_regions = {f"loss_{kind}{stage}" for kind in ("class", "bbox") for stage in stages}
    assert learnt(whole, "detection") == {"loss_heatmap", "loss_proposal_giou"} | of_regions
    assert learnt(whole, "extra") == {f"loss_{kind}{stage}" for kind in ("class", "soft") for stage in stages}


@pytest.mark.parametrize("step", [3, EPOCH_STEPS + 2])
def test_a_run_stopped_after_any_step_goes_on_as_if_it_had_not_been(world, whole, tmp_path, step):
    assert world.run(tmp_path, reporter=StopAt(step), **CHANGES).stopped_by == "SIGTERM"
    world.run(tmp_path, resume=True, **CHANGES)
    assert_same(tmp_path, whole)


def test_whole_images_teach_their_labels_alone_and_go_on_after_a_stop(world, tmp_path):
    changes = CHANGES | WHOLE_IMAGES | {"loss__image_candidates": 5}
    world.run(tmp_path / "whole", **changes)
    assert learnt(tmp_path / "whole", "extra") == {"loss_image_0", "loss_image_1", "loss_image"}
    assert world.run(tmp_path / "stopped", reporter=StopAt(EPOCH_STEPS + 1), **changes).stopped_by == "SIGTERM"
    world.run(tmp_path / "stopped", resume=True, **changes)
    assert_same(tmp_path / "stopped", tmp_path / "whole")


def test_two_ranks_train_and_score_as_one_does(world, tmp_path):
    slow = TWO_STAGE | {"schedule__lr": 1e-5, "schedule__backbone_lr": 1e-5, "schedule__epochs": 1}
    world.run(tmp_path / "one", **slow)
    config = world.write_config(tmp_path / "tiny.yaml", **slow)
    for rank in start_command_ranks(tmp_path, 2, "--config", config, "--out", tmp_path / "out", "--device", "cpu"):
        assert rank.wait() == 0, rank.output
    for our, their in zip(losses_of(tmp_path / "out"), losses_of(tmp_path / "one"), strict=True):
        assert our["losses"] == pytest.approx(their["losses"], rel=1e-4, abs=1e-5), our["step"]
    (ours,), (theirs,) = (read_log(tmp_path / name / LOG_NAME).evaluations for name in ("out", "one"))
    assert ours["metrics"] == pytest.approx(theirs["metrics"], abs=0.02)


def test_the_commands_take_its_checkpoints(command, world, whole, tmp_path):
    last = whole / "checkpoints" / "last.pt"
    assert command("eval", last, "--device", "cpu", "--json") == 0, command.stderr
    scored = json.loads(command.stdout)
    exported = tmp_path / "exported.safetensors"
    assert command("export", last, "--out", exported) == 0, command.stderr
    assert command("eval", exported, "--device", "cpu", "--json") == 0, command.stderr
    assert json.loads(command.stdout)["metrics"] == scored["metrics"]
    pictures = sorted((world.data / "val").iterdir())
    arguments = ("--device", "cpu", "--threshold", "0.01")
    assert command("predict", exported, *pictures, "--out", tmp_path / "found", *arguments) == 0, command.stderr
    found = json.loads((tmp_path / "found" / "predictions.json").read_text())
    assert all(len(picture["detections"]) > 0 for picture in found["pictures"])
    assert command("predict", last, pictures[0], "--compare", exported, "--out", tmp_path / "both", *arguments) == 0
    assert json.loads((tmp_path / "both" / "predictions.json").read_text())["found"]["all"]["only_a"] == 0


def test_runs_of_both_detectors_are_compared(command, whole, trained):
    assert command("compare", whole, trained, "--json") == 1
    assert "same name" in command.error or "seed" in command.error


@pytest.mark.parametrize("ours", ["dino", "centernet-cascade"])
def test_a_checkpoint_of_the_other_detector_is_refused_in_words(world, whole, trained, tmp_path, ours):
    checkpoints = {"dino": trained, "centernet-cascade": whole}
    changes = {"dino": {}, "centernet-cascade": TWO_STAGE}
    other = next(name for name in checkpoints if name != ours)
    with pytest.raises(RichSemError, match=r"model\.detector"):
        world.run(checkpoints[other], resume=True, **changes[ours])
    with pytest.raises(RichSemError, match=r"of another architecture: .*; choose a config of its model\.detector"):
        world.run(tmp_path / "out", start_from=str(checkpoints[other] / "checkpoints" / "last.pt"), **changes[ours])


def test_a_run_starts_from_another(world, whole, tmp_path):
    world.run(tmp_path, start_from=str(whole / "checkpoints" / "last.pt"), **CHANGES, schedule__epochs=1)
    first, fresh = losses_of(tmp_path)[0], losses_of(whole)[0]
    assert first["losses"]["loss_class"] < 0.8 * fresh["losses"]["loss_class"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"loss__image_negatives": True},
            "loss.image_negatives is true, which model.detector=centernet-cascade has no",
        ),
        ({"loss__matcher": {"giou_cost": 3.0}}, '"giou_cost": 3.0}, which model.detector=centernet-cascade has no use'),
        ({"model__rois": 3}, "model.rois: Input should be greater than or equal to 4"),
        ({"model__backbone__out_strides": [8, 16]}, "model.backbone.out_strides is [8, 16]; the pyramid"),
        ({"model__queries": 30}, "it is of another model.detector"),
    ],
)
def test_what_it_does_not_have_is_refused(command, changes, said):
    command.train(**(TWO_STAGE | changes))
    assert said in command.error
