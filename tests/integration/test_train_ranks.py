"""Several ranks on the CPU, as torchrun starts them: the same pictures in the same order, and the same results."""

import json
import shutil
import signal
import sys

import pytest
import torch

from richsem_schemas.cache.layout import CacheLayout
from richsem_train.data.extra import ExtraDataset
from richsem_train.data.loaders import TrainingLoaders
from richsem_train.data.order import RankShare
from richsem_train.run.assemble import assemble
from richsem_train.run.checkpoint import load_checkpoint
from richsem_train.run.distributed import Ranks
from richsem_train.run.log import LOG_NAME, read_log
from richsem_train.run.open_data import open_data
from tests.trainer.processes import start_command_ranks, start_function
from tests.trainer.tiny import EPOCH_STEPS, WHOLE_IMAGES, Quiet, losses_of

SLOW = {"schedule__lr": 1e-5, "schedule__backbone_lr": 1e-5}
"""Steps so small that rounding doesn't grow to another matching."""


@pytest.fixture(scope="module")
def one_rank(world, tmp_path_factory):
    """OUT of one process."""
    out = tmp_path_factory.mktemp("one") / "out"
    world.run(out, **SLOW)
    return out


def arguments(world, tmp_path, **changes):
    config = world.write_config(tmp_path / "tiny.yaml", **(SLOW | changes))
    return ("--config", config, "--out", tmp_path / "out", "--device", "cpu")


def assert_about_equal(out, one_rank):
    ours, theirs = losses_of(out), losses_of(one_rank)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for our, their in zip(ours, theirs, strict=True):
        assert our["losses"] == pytest.approx(their["losses"], rel=1e-4, abs=1e-5), our["step"]


def test_two_ranks_train_and_score_as_one_does(world, one_rank, tmp_path):
    ranks = start_command_ranks(tmp_path, 2, *arguments(world, tmp_path))
    for rank in ranks:
        assert rank.wait() == 0, rank.output
    out = tmp_path / "out"
    assert "2 x cpu" in ranks[0].errors
    assert ranks[1].output == ""
    assert_about_equal(out, one_rank)
    found = read_log(out / LOG_NAME).evaluations
    assert [line["step"] for line in found] == [EPOCH_STEPS, 2 * EPOCH_STEPS]
    for one, other in zip(found, read_log(one_rank / LOG_NAME).evaluations, strict=True):
        assert one["metrics"] == pytest.approx(other["metrics"], abs=0.02)
    assert len(list((out / "detections").iterdir())) == 2
    assert (out / "results.json").exists()


def test_two_ranks_learn_whole_images_in_batches_of_their_own_size_as_one_does(world, tmp_path):
    changes = {**WHOLE_IMAGES, "schedule__accumulate": 2, "schedule__pictures_a_draw": 1, "schedule__epochs": 1}
    reporter = Quiet()
    world.run(tmp_path / "one", reporter=reporter, **(SLOW | changes))
    assert any("steps of 4 detection or 8 extra pictures" in line for line in reporter.said)
    for rank in start_command_ranks(tmp_path, 2, *arguments(world, tmp_path, **changes)):
        assert rank.wait() == 0, rank.output
    assert_about_equal(tmp_path / "out", tmp_path / "one")


def test_a_signal_to_one_rank_stops_both_and_one_rank_goes_on(world, one_rank, tmp_path):
    ranks = start_command_ranks(tmp_path, 2, *arguments(world, tmp_path, workers=1))
    out = tmp_path / "out"
    ranks[0].wait_until(lambda: (out / LOG_NAME).exists() and len(losses_of(out)) >= 2)
    ranks[1].send(signal.SIGTERM, group=True)
    for rank in ranks:
        assert rank.wait() == 143, rank.output
        assert "Traceback" not in rank.output
    assert load_checkpoint(out / "checkpoints" / "last.pt").step == len(losses_of(out))
    world.run(out, resume=True, **SLOW)
    assert_about_equal(out, one_rank)


def test_what_a_rank_that_is_not_the_first_replaces_is_counted(world, tmp_path):
    cache = shutil.copytree(world.cache, tmp_path / "cache")
    tar = CacheLayout(cache, "folder").pictures_tar(1)
    tar.write_bytes(tar.read_bytes()[:1000])
    changes = {"extra__cache": str(cache), "extra__on_damage": "skip"}
    ranks = start_command_ranks(tmp_path, 2, *arguments(world, tmp_path, **changes))
    for rank in ranks:
        assert rank.wait() == 0, rank.output
    assert json.loads((tmp_path / "out" / "results.json").read_text())["damaged"] == 8


def test_a_refusal_ends_all_ranks_in_words(world, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    ranks = start_command_ranks(tmp_path, 2, *arguments(world, tmp_path))
    for rank in ranks:
        assert rank.wait() == 1
        assert "Traceback" not in rank.output
    assert "holds something that is no run" in ranks[0].errors


@pytest.mark.parametrize("how", ["missing", "broken"])
def test_what_stops_one_rank_ends_all_of_them_and_is_told_once(world, tmp_path, how):
    """Missing pictures are seen by the first rank before the first step, broken ones by whichever reads them."""
    data = shutil.copytree(world.data, tmp_path / "data")
    path = data / "train" / "000000000003.png"
    path.unlink() if how == "missing" else path.write_bytes(path.read_bytes()[:50])
    ranks = start_command_ranks(tmp_path, 2, *arguments(world, tmp_path, data=str(data)))
    for rank in ranks:
        assert rank.wait(60) == 1, rank.output
        assert "Traceback" not in rank.output, rank.output
    assert sum("000000000003.png" in rank.errors for rank in ranks) == 1
    assert (tmp_path / "out").exists() == (how == "broken")


def test_two_ranks_score_a_checkpoint_as_one_does_and_leave_nothing_behind(one_rank, tmp_path):
    checkpoint = shutil.copy(one_rank / "checkpoints" / "last.pt", tmp_path / "last.pt")
    (alone,) = start_command_ranks(tmp_path / "1", 1, "eval", checkpoint)
    assert alone.wait(60) == 0, alone.output
    ranks = start_command_ranks(tmp_path / "2", 2, "eval", checkpoint)
    assert [rank.wait(60) for rank in ranks] == [0, 0], [rank.output for rank in ranks]
    assert table(ranks[0]) == table(alone)
    assert ranks[1].output == ""
    assert not (tmp_path / "last.detections").exists()


def table(command):
    return [line for line in command.output.splitlines() if "│" in line]


def test_ranks_that_would_tear_a_draw_are_refused_before_anything_is_read(world, tmp_path):
    ranks = start_command_ranks(tmp_path, 2, *arguments(world, tmp_path, schedule__global_batch_size=2, data="nowhere"))
    assert [rank.wait() for rank in ranks] == [1, 1]
    assert "2 pictures can't be shared by 2 ranks in whole draws of 2; use a multiple of 4" in " ".join(
        ranks[0].errors.split()
    )
    assert not (tmp_path / "out").exists()


def _torchrun(arguments):
    from torch.distributed.run import main

    sys.argv = ["torchrun", *arguments]
    main()


@pytest.mark.slow
def test_torchrun_trains_and_evaluates(world, one_rank, tmp_path):
    command = start_function(
        tmp_path,
        _torchrun,
        ["--nproc-per-node", "2", "-m", "richsem_train", *map(str, arguments(world, tmp_path))],
        env={"OMP_NUM_THREADS": "1"},
    )
    assert command.wait() == 0, command.output
    assert_about_equal(tmp_path / "out", one_rank)


@pytest.mark.parametrize(("world_size", "workers"), [(1, 0), (1, 2), (2, 0), (4, 1)])
def test_ranks_and_workers_see_the_same_pictures_at_each_step(world, tmp_path, world_size, workers):
    config = world.config()
    data = open_data(config)
    run = assemble(config, data, Ranks(0, 1, torch.device("cpu")))
    extra = ExtraDataset(data.extras["extra"], seed=config.seed, lanes=config.extra.lanes, world_size=world_size)
    start, end = 3, EPOCH_STEPS + 5
    seen = [
        list(
            TrainingLoaders(run.feed, extra, share=RankShare(4, rank, world_size), workers=workers).batches(start, end)
        )
        for rank in range(world_size)
    ]
    expected = TrainingLoaders(run.feed, run.extra, share=RankShare(4), workers=0).batches(0, end)
    for step, whole in enumerate(list(expected)[start:]):
        parts = [rank[step] for rank in seen]
        assert {part.step for part in parts} == {whole.step}
        for index, target in enumerate(whole.batch.targets):
            part = parts[index % world_size].batch
            found = part.targets[index // world_size]
            height, width = found.image_hw
            assert found.image_hw == target.image_hw
            assert torch.equal(found.boxes_cxcywh_norm, target.boxes_cxcywh_norm)
            ours = part.pixels[index // world_size, :, :height, :width]
            assert torch.equal(ours, whole.batch.pixels[index, :, :height, :width])
