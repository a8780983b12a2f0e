"""What a run is given may be wrong, broken or unlucky: one line that names it, or counted and gone on; never a hang."""

import json
import shutil

import pytest
import torch

from richsem_schemas.cache.layout import CacheLayout
from richsem_schemas.io.sealed_json import read_sealed_json, write_sealed_json
from richsem_train.run.checkpoint import load_checkpoint
from richsem_train.run.log import LOG_NAME, read_log
from tests.damage import cut
from tests.integration.train_command import altered_data
from tests.trainer.tiny import EPOCH_STEPS, LABELS, losses_of

ONE_EPOCH = {"schedule__epochs": 1}


def results(out):
    return json.loads((out / "results.json").read_text())


# Annotations


def strange_boxes(content):
    """A good box and four that can't be learned."""
    first = content["annotations"][0]
    boxes = ([1, 1, 0, 5], [500, 500, 5, 5], [float("nan"), 1, 5, 5], [-3, -3, 500, 500])
    for number, box in enumerate(boxes):
        content["annotations"].append(first | {"id": 1000 + number, "bbox": box})


def test_boxes_that_cannot_be_learned_are_counted_and_left_out(command, world, tmp_path):
    data = altered_data(world, tmp_path / "data", train=strange_boxes)
    assert command.train(data=data, **ONE_EPOCH) == 0, command.stderr
    for line in (
        "1 boxes with NaN or infinite numbers left out",
        "1 boxes of zero or negative size left out",
        "1 boxes outside of their picture left out",
        "1 boxes clipped by more than a pixel",
    ):
        assert f"annotations: {line}" in command.stderr


@pytest.mark.parametrize("kept", [0, 1])
def test_pictures_and_batches_without_objects_are_trained_on(command, world, tmp_path, kept):
    def without(content):
        del content["annotations"][kept:]

    data = altered_data(world, tmp_path / "data", train=without)
    extra = {"extra": None, "text": {"cache": str(world.cache)}}
    assert command.train(data=data, schedule__global_batch_size=2, **ONE_EPOCH, **extra) == 0, command.stderr
    assert len(losses_of(command.out)) == 6


@pytest.mark.parametrize("split", ["train", "val"])
def test_unknown_category_ids_are_named(command, world, tmp_path, split):
    def unknown(content):
        content["annotations"][0]["category_id"] = 77

    assert command.train(data=altered_data(world, tmp_path / "data", **{split: unknown})) == 1
    assert "77" in command.error
    assert f"{split}.json" in command.error
    assert not command.out.exists()


@pytest.mark.parametrize("split", ["train", "val"])
def test_categories_of_another_vocabulary_than_the_caches_are_named(command, world, tmp_path, split):
    def renamed(content):
        content["categories"][2]["name"] = "unicorn"

    assert command.train(data=altered_data(world, tmp_path / "data", **{split: renamed})) == 1
    assert "1 of 6 categories don't fit" in command.error
    assert "'unicorn' (category_id 3) has no row" in command.error


@pytest.mark.parametrize("split", ["train", "val"])
def test_missing_annotations_are_named(command, world, tmp_path, split):
    data = altered_data(world, tmp_path / "data")
    (tmp_path / "data" / f"{split}.json").unlink()
    assert command.train(data=data) == 1
    assert f"{split}.json" in command.error


# Pictures


def unprobed_picture(folder):
    """A picture whose absence isn't seen before the first epoch."""
    return folder / "train" / "000000000003.png"


@pytest.fixture
def own_pictures(world, tmp_path):
    """A copy of the detection data, to be spoilt."""
    return shutil.copytree(world.data, tmp_path / "data")


def test_a_folder_without_the_pictures_is_refused_before_anything_is_written(command, own_pictures):
    for path in (own_pictures / "train").iterdir():
        path.unlink()
    assert command.train(data=str(own_pictures)) == 1
    assert "000000000001.png" in command.error
    assert not command.out.exists()


@pytest.mark.parametrize("how", ["missing", "broken"])
def test_a_bad_picture_stops_the_run_or_is_replaced_and_counted_as_told(command, own_pictures, how):
    path = unprobed_picture(own_pictures)
    path.unlink() if how == "missing" else path.write_bytes(path.read_bytes()[:50])
    assert command.train(data=str(own_pictures), **ONE_EPOCH) == 1
    assert path.name in command.error
    # That a picture is there is asked of all of them before the first step; that it is whole shows when it is read.
    assert command.out.exists() == (how == "broken")

    shutil.rmtree(command.out, ignore_errors=True)
    assert command.train(data=str(own_pictures), detection__on_damage="skip", **ONE_EPOCH) == 0, command.stderr
    assert f"replaced (1 since the start): {path}" in command.stderr
    assert len(losses_of(command.out)) == EPOCH_STEPS
    assert results(command.out)["damaged"] == 1


# The cache


@pytest.fixture
def own_cache(world, tmp_path):
    """A copy of the cache, to be spoilt."""
    return shutil.copytree(world.cache, tmp_path / "cache")


@pytest.mark.parametrize("what", ["pictures", "labels"])
def test_a_truncated_shard_stops_the_run_in_the_middle_and_is_named(command, own_cache, what):
    layout = CacheLayout(own_cache, "folder")
    cut(layout.pictures_tar(1) if what == "pictures" else layout.label_set(LABELS).tar(1))
    assert command.train(extra__cache=str(own_cache)) == 1
    assert f"shard {layout.shard_name(1)} of {own_cache} (label set '{LABELS}') is damaged" in command.error
    assert "richsem-prep verify" in command.error
    assert "extra.on_damage=skip" in command.error


def test_a_truncated_shard_is_replaced_and_counted_where_told(command, own_cache):
    layout = CacheLayout(own_cache, "folder")
    cut(layout.pictures_tar(1))
    assert command.train(extra__cache=str(own_cache), extra__on_damage="skip") == 0, command.stderr
    assert len(losses_of(command.out)) == 2 * EPOCH_STEPS
    damage = [json.loads(line) for line in (command.out / LOG_NAME).read_text().splitlines() if '"damage"' in line]
    # Each epoch shows all six mosaics twice, two of them of the second shard.
    assert len(damage) == results(command.out)["damaged"] == 8
    assert all(layout.shard_name(1) in line["message"] for line in damage)
    assert f"replaced (8 since the start): shard {layout.shard_name(1)}" in command.stderr


def test_what_was_replaced_before_a_resume_is_counted_too(command, own_cache):
    cut(CacheLayout(own_cache, "folder").pictures_tar(1))
    changes = {"extra__cache": str(own_cache), "extra__on_damage": "skip"}
    assert command.train(**changes, **ONE_EPOCH) == 0
    before = results(command.out)["damaged"]
    assert command.train("--resume", **changes) == 0
    assert (before, results(command.out)["damaged"]) == (4, 8)


def test_a_cache_of_another_teacher_is_refused_by_the_field(command):
    assert command.train(extra__teacher="RN50:openai") == 1
    assert "teacher.name is 'hash' there, 'RN50:openai' here" in command.error


def test_a_cache_without_what_the_config_learns_is_refused_by_the_field(command, own_cache):
    assert command.train(extra__views="free-mosaics", extra__label_set="others") == 1
    assert "others" in command.error
    shutil.rmtree(own_cache)
    assert command.train(extra__cache=str(own_cache)) == 1
    assert str(own_cache) in command.error


def test_a_cache_of_another_version_is_refused(command, own_cache):
    path = CacheLayout(own_cache, "folder").manifest
    content = read_sealed_json(path)
    key = next(key for key in content if "version" in key)
    write_sealed_json(path, content | {key: 99})
    assert command.train(extra__cache=str(own_cache)) == 1
    assert "99" in command.error
    assert "version" in command.error


def test_a_resume_with_labels_of_another_making_is_refused(command, own_cache, world):
    assert command.train(**ONE_EPOCH) == 0
    path = command.out / "checkpoints" / "last.pt"
    content = torch.load(path, weights_only=True)
    torch.save(content | {"fingerprints": {"extra": "0" * 64}}, path)
    assert command.train("--resume") == 1
    assert "another label set than the run began with" in command.error


def test_fewer_blocks_than_workers_are_said_and_do(command):
    assert command.train(workers=3, **ONE_EPOCH) == 0, command.stderr
    assert "2 blocks for 1 ranks x 3 workers" in command.stderr
    assert len(losses_of(command.out)) == EPOCH_STEPS


# The run


def test_soft_labels_on_detection_pictures_need_a_cache(command):
    assert command.train(detection__labels="cache") == 1
    assert "name it as detection.cache, or train without them by detection.labels=none" in command.error
    assert not command.out.exists()


def test_an_unknown_key_is_refused_with_the_nearest_known_one(command):
    assert command.train("--set", "schedule.epoch=3") == 1
    assert "unknown key schedule.epoch; did you mean schedule.epochs?" in command.error


def test_an_out_that_holds_another_run_is_refused_and_left_alone(command, trained):
    shutil.copytree(trained, command.out)
    files = {path: path.read_bytes() for path in command.out.rglob("*") if path.is_file()}
    assert command.train(seed=5) == 1
    assert "holds a run already" in command.error
    assert command.train("--resume", seed=5) == 1
    assert "seed is 0 there, 5 here" in command.error
    assert {path: path.read_bytes() for path in command.out.rglob("*") if path.is_file()} == files


def test_a_run_that_could_not_begin_leaves_its_out_free(command, tmp_path):
    (tmp_path / "x.pth").write_bytes(b"nothing")
    assert command.train(start_from=str(tmp_path / "x.pth")) == 1
    assert "x.pth" in command.error
    assert command.train(schedule__global_batch_size=98) == 1
    assert "doesn't fill one batch of 98" in command.error
    assert not command.out.exists()
    assert command.train(**ONE_EPOCH) == 0, command.stderr


def test_a_checkpoint_of_another_architecture_is_refused(command, trained, world, tmp_path):
    shutil.copytree(trained, command.out)
    last = command.out / "checkpoints" / "last.pt"
    assert command("eval", last, "--set", "model.hidden_dim=64", "--device", "cpu") == 1
    assert "don't fit its own config" in command.error
    world.run(tmp_path / "other", **ONE_EPOCH, model__ffn_dim=64)
    shutil.copy(tmp_path / "other" / "checkpoints" / "last.pt", last)
    assert command.train("--resume") == 1
    assert f"{last}: a checkpoint of another architecture" in command.error
    assert len(command.error) < 600


def test_a_damaged_checkpoint_is_named(command, trained):
    shutil.copytree(trained, command.out)
    last = command.out / "checkpoints" / "last.pt"
    cut(last)
    assert command.train("--resume") == 1
    assert str(last) in command.error


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_a_good_checkpoint(command):
    assert command.train(schedule__lr=1e30, schedule__backbone_lr=1e30, log__checkpoint_every_steps=1) == 1
    assert "the loss is not finite at step 1" in command.error
    assert "In the batch: " in command.error
    assert "boxes, labels [" in command.error
    assert len(losses_of(command.out)) == 1
    assert load_checkpoint(command.out / "checkpoints" / "last.pt").step == 1


def test_more_ranks_than_the_batch_has_pictures_are_refused(command):
    assert command.train(schedule__global_batch_size=14) == 1
    assert "doesn't fill one batch of 14" in command.error


@pytest.mark.parametrize("device", ["tpu", "cuda:99", "mps"])
def test_a_device_that_is_not_there_is_named(command, device):
    config = command.world.write_config(command.folder / "c.yaml")
    assert command("--config", config, "--out", command.out, "--device", device) == 1
    assert "--device" in command.error


def test_a_log_without_evaluations_is_no_reason_to_fail(command, trained):
    shutil.copytree(trained, command.out)
    (command.out / LOG_NAME).unlink()
    assert command.train("--resume") == 0, command.stderr
    assert [line["step"] for line in read_log(command.out / LOG_NAME).evaluations][-1] == 2 * EPOCH_STEPS
