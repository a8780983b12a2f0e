import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch.utils.data import Dataset

from richsem_schemas.errors import PictureError
from richsem_train.data.collate import Sample
from richsem_train.data.damage import DamagedViewError
from richsem_train.data.loaders import DetectionFeed, TrainingLoaders, _begin_worker, _signals_wait
from richsem_train.data.order import RankShare
from richsem_train.targets import Target
from tests.trainer.data.datasets import extra_of, seen_pixels

GLOBAL_BATCH = 4
PICTURES = 18
STEPS = 18


class FakeDetection(Dataset):
    """One grey picture a key; `broken` ones can't be read."""

    def __init__(self, broken=()):
        self._broken = broken

    def __getitem__(self, key):
        epoch, position, picture = key
        if picture in self._broken:
            raise PictureError(f"picture {picture} is broken")
        name = f"{epoch}/{position}/{picture}"
        target = Target(torch.zeros(1, 4), torch.ones(1, dtype=torch.int64), picture, (2, 3), (2, 3))
        return Sample(torch.full((3, 2, 3), picture, dtype=torch.uint8), target, name)


def epoch_indices(epoch):
    return np.random.default_rng(epoch).permutation(PICTURES)


def loaders(cache=None, *, workers=0, broken=(), on_damage="stop", extra_batch=None, **share):
    extra = None if cache is None else extra_of(cache, on_damage=on_damage)
    feed = DetectionFeed(FakeDetection(broken), epoch_indices, PICTURES // GLOBAL_BATCH)
    extra_share = None if extra_batch is None else RankShare(extra_batch, **share)
    return TrainingLoaders(
        feed, extra, share=RankShare(GLOBAL_BATCH, **share), extra_share=extra_share, workers=workers
    )


def read(steps):
    """Names and a digest of the pixels by (step, kind)."""
    return {
        (loaded.step, loaded.kind): [
            (name, int(pixels.long().sum()), target.boxes_cxcywh_norm.tolist(), target.soft_labels is not None)
            for name, pixels, target in zip(
                loaded.batch.names, seen_pixels(loaded.batch), loaded.batch.targets, strict=True
            )
        ]
        for loaded in steps
    }


@pytest.fixture(scope="module")
def sequence(finished_cache):
    """What a run of one rank reads, in this process."""
    return read(loaders(finished_cache).batches(0, STEPS))


def test_detection_and_extra_steps_alternate(sequence):
    assert list(sequence) == [(step, ("detection", "extra")[step % 2]) for step in range(STEPS)]
    assert all(len(batch) == GLOBAL_BATCH for batch in sequence.values())


def test_an_epoch_shows_whole_batches_of_its_list_once(sequence):
    shown = [name for (_, kind), batch in sequence.items() if kind == "detection" for name, *_ in batch]
    by_epoch = defaultdict(list)
    for name in shown:
        epoch, position, picture = map(int, name.split("/"))
        assert picture == epoch_indices(epoch)[position]
        by_epoch[epoch].append(position)
    assert by_epoch[0] == by_epoch[1] == list(range(16))


def test_the_extra_counter_runs_across_epochs(sequence, finished_cache):
    dataset = extra_of(finished_cache)
    shown = [name for (_, kind), batch in sequence.items() if kind == "extra" for name, *_ in batch]
    assert shown == [dataset[n].name for n in range(len(shown))]


@pytest.mark.parametrize(("world_size", "pictures_a_draw"), [(2, 1), (4, 1), (2, 2)])
@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_together_read_what_one_rank_reads(finished_cache, sequence, world_size, pictures_a_draw, workers):
    for rank in range(world_size):
        options = {"rank": rank, "world_size": world_size, "pictures_a_draw": pictures_a_draw}
        shared = read(loaders(finished_cache, workers=workers, **options).batches(0, STEPS))
        own = RankShare(GLOBAL_BATCH, **options).counters(0)
        assert shared == {key: [whole[position] for position in own] for key, whole in sequence.items()}


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_number_of_workers_changes_nothing(finished_cache, sequence, workers):
    assert read(loaders(finished_cache, workers=workers).batches(0, STEPS)) == sequence


@pytest.mark.parametrize(("start", "workers"), [*((start, 0) for start in range(STEPS)), (7, 2)])
def test_a_run_goes_on_from_any_step(finished_cache, sequence, start, workers):
    rest = read(loaders(finished_cache, workers=workers).batches(start, STEPS))
    assert rest == {key: batch for key, batch in sequence.items() if key[0] >= start}


@pytest.mark.parametrize("extra_batch", [2, 8])
def test_extra_batches_may_be_of_another_size(finished_cache, sequence, extra_batch):
    steps = read(loaders(finished_cache, extra_batch=extra_batch).batches(0, STEPS))
    dataset = extra_of(finished_cache)
    shown = [name for (_, kind), batch in steps.items() if kind == "extra" for name, *_ in batch]
    assert list(steps) == list(sequence)
    assert {len(batch) for (_, kind), batch in steps.items() if kind == "extra"} == {extra_batch}
    assert shown == [dataset[n].name for n in range(extra_batch * STEPS // 2)]
    assert all(batch == sequence[key] for key, batch in steps.items() if key[1] == "detection")
    # From any step on, and by ranks together.
    for start in (5, 6):
        rest = read(loaders(finished_cache, extra_batch=extra_batch).batches(start, STEPS))
        assert rest == {key: batch for key, batch in steps.items() if key[0] >= start}
    for rank in range(2):
        shared = read(loaders(finished_cache, extra_batch=extra_batch, rank=rank, world_size=2).batches(0, STEPS))
        assert shared == {key: batch[rank::2] for key, batch in steps.items()}


def test_without_extra_data_all_steps_are_detection():
    steps = list(loaders().batches(3, 6))
    assert [(loaded.step, loaded.kind) for loaded in steps] == [(step, "detection") for step in (3, 4, 5)]
    assert steps[0].batch.names[0].startswith("0/12/")


def test_targets_come_whole_out_of_workers(finished_cache):
    here, there = (list(loaders(finished_cache, workers=workers).batches(0, 4)) for workers in (0, 2))
    for one, other in zip(here, there, strict=True):
        assert torch.equal(seen_pixels(one.batch), seen_pixels(other.batch))
        assert torch.equal(one.batch.padding_mask, other.batch.padding_mask)
        for left, right in zip(one.batch.targets, other.batch.targets, strict=True):
            assert isinstance(right.labels, torch.Tensor)
            assert torch.equal(left.labels, right.labels)
            assert left.image_id == right.image_id
            assert (left.soft_labels is None) == (right.soft_labels is None)
            if left.soft_labels is not None:
                assert torch.equal(left.soft_labels.embeddings, right.soft_labels.embeddings)


def padded_as_before(samples):
    """Pictures in fresh zeros, and what of them is padding: the obvious way."""
    height, width = (max(sample.pixels.shape[axis] for sample in samples) for axis in (1, 2))
    pixels = torch.zeros(len(samples), 3, height, width, dtype=torch.uint8)
    mask = torch.ones(len(samples), height, width, dtype=torch.bool)
    for index, sample in enumerate(samples):
        _, rows, columns = sample.pixels.shape
        pixels[index, :, :rows, :columns] = sample.pixels
        mask[index, :rows, :columns] = False
    return pixels, mask


@pytest.mark.parametrize("views", ["mosaics", "crops", "free-mosaics"])
@pytest.mark.parametrize("workers", [0, 1])
def test_batches_that_are_kept_stay_as_they_came(finished_cache, views, workers):
    """More of them than there are buffers, so that some lie in memory of their own."""
    extra = extra_of(finished_cache, views=views)
    feed = DetectionFeed(FakeDetection(), epoch_indices, PICTURES // GLOBAL_BATCH)
    share = RankShare(GLOBAL_BATCH)
    kept = list(TrainingLoaders(feed, extra, share=share, workers=workers).batches(0, 16))
    dataset = extra_of(finished_cache, views=views)
    for number, loaded in enumerate(step for step in kept if step.kind == "extra"):
        pixels, mask = padded_as_before([dataset[counter] for counter in share.counters(number)])
        assert torch.equal(seen_pixels(loaded.batch), pixels)
        assert torch.equal(loaded.batch.padding_mask, mask)


@pytest.mark.parametrize("views", ["mosaics", "crops"])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_memory_of_batches_is_used_again(finished_cache, views, workers):
    extra = extra_of(finished_cache, views=views)
    feed = DetectionFeed(FakeDetection(), epoch_indices, PICTURES // GLOBAL_BATCH)
    steps = TrainingLoaders(feed, extra, share=RankShare(GLOBAL_BATCH), workers=workers).batches(0, 40)
    places = {step.batch.pixels.data_ptr() for step in steps if step.kind == "extra"}
    assert len(places) <= 2 * workers + 2


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_larger_than_a_buffer_come_whole(finished_cache, sequence, workers, monkeypatch):
    monkeypatch.setattr("richsem_train.data.loaders._BUFFER_BYTES", 100)
    assert read(loaders(finished_cache, workers=workers).batches(0, STEPS)) == sequence


def test_waiting_is_measured(finished_cache):
    class Slow(FakeDetection):
        def __getitem__(self, key):
            time.sleep(0.02)
            return super().__getitem__(key)

    feed = DetectionFeed(Slow(), epoch_indices, PICTURES // GLOBAL_BATCH)
    (loaded,) = TrainingLoaders(feed, None, share=RankShare(GLOBAL_BATCH), workers=0).batches(0, 1)
    assert 0.08 <= loaded.wait_seconds < 5


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_shard_stops_the_run_with_a_clean_message(cache, workers):
    cache.layout.pictures_tar(1).unlink()
    with pytest.raises(DamagedViewError) as caught:
        read(loaders(cache, workers=workers).batches(0, STEPS))
    assert str(caught.value).startswith("shard folder-000001 of ")
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_detection_picture_stops_the_run_with_a_clean_message(workers):
    with pytest.raises(PictureError, match=r"^picture 5 is broken$"):
        read(loaders(broken={5}, workers=workers).batches(0, 4))


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_damage_is_counted_in_its_batch_and_no_batch_is_short(cache, sequence, workers):
    cache.layout.pictures_tar(1).unlink()
    steps = list(loaders(cache, workers=workers, on_damage="skip").batches(0, STEPS))
    for loaded in steps:
        names = [name for name, *_ in sequence[loaded.step, loaded.kind]]
        assert len(loaded.batch.names) == GLOBAL_BATCH
        assert len(loaded.damage) == sum(name.startswith("000001-") for name in names)
    assert sum(len(loaded.damage) for loaded in steps) > 0


def test_closing_ends_the_workers(finished_cache):
    others = set(children(os.getpid()))
    steps = loaders(finished_cache, workers=2).batches(0, STEPS)
    next(steps)
    assert len(set(children(os.getpid())) - others) >= 4
    steps.close()
    assert wait_until(lambda: not set(children(os.getpid())) - others)


PARENT = """
import os, sys, time
from richsem_train.data.loaders import TrainingLoaders, DetectionFeed
sys.path.insert(0, {folder!r})
from test_loaders import FakeDetection, epoch_indices, RankShare
feed = DetectionFeed(FakeDetection(), epoch_indices, 4)
steps = TrainingLoaders(feed, None, share=RankShare(4), workers=2).batches(0, 10**6)
next(steps)
print("ready", flush=True)
{then}
"""


def start_parent(then):
    code = PARENT.format(folder=str(Path(__file__).parent), then=then)
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "ready\n"
    return parent


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_die_with_the_training_process():
    parent = start_parent("time.sleep(60)")
    workers = children(parent.pid)
    assert len(workers) == 2
    parent.kill()
    parent.wait()
    # Well before the five seconds after which PyTorch's own watch over the parent would end them.
    assert wait_until(lambda: all(map(is_ended, workers)), seconds=3)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_terminated_worker_leaves_the_training_process_time_for_a_checkpoint():
    parent = start_parent("time.sleep(1.5); print('checkpoint written', flush=True); os._exit(0)")
    for worker in children(parent.pid):
        os.kill(worker, signal.SIGINT)
        os.kill(worker, signal.SIGTERM)
    out, err = parent.communicate(timeout=30)
    assert out == "checkpoint written\n", err


def test_a_signal_waits_until_a_worker_knows_what_to_do_with_it():
    with _signals_wait():
        if not (worker := os.fork()):
            time.sleep(0.3)
            _begin_worker(os.getppid(), 0)
            time.sleep(0.3)
            os._exit(7)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(worker, number)
    assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == 7
    assert not {signal.SIGINT, signal.SIGTERM} & signal.pthread_sigmask(signal.SIG_BLOCK, ())


def children(pid):
    """Child processes that are still running."""
    return [child.pid for child in psutil.Process(pid).children() if not is_ended(child.pid)]


def is_ended(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return condition()
