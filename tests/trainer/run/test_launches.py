"""How many operators a step launches on the device at full size: host time that the device may have to wait for.

Counted forward and backward, up to the gradient's norm, on a device of shapes alone and in float32: half precision adds
the casts of autocast. The kernel of deformable attention counts once a pass. What comes after is a few launches on
CUDA, where optimisers are fused, and many on a device that PyTorch doesn't know.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch

from richsem_train.config import load_config
from richsem_train.models.dino.deformable_attention import triton_backend
from richsem_train.run import engine
from richsem_train.run.detectors import dino as dino_kind
from richsem_train.run.distributed import Ranks
from richsem_train.run.engine import Trainer
from tests.trainer.pretended_device import DEVICE, PretendedDevice, pretended_device
from tests.trainer.run.test_waits import cached, plain, whole_image
from tests.trainer.steps import make_batch, make_trainer

SIDE, OBJECTS, BATCH = 1280, 4, 2
DINO, CASCADE = "richsem_r50_inet_lvis", "c2_richsem_r50_21k_inet_lvis"
KINDS = {"plain": plain, "cached": cached, "image-level": whole_image}

AT_FIRST = {
    (DINO, "plain"): 3173, (DINO, "cached"): 3244, (DINO, "image-level"): 2884,
    (CASCADE, "plain"): 2215, (CASCADE, "cached"): 2394, (CASCADE, "image-level"): 2199,
}  # fmt: skip
"""Launches before anything was done about their number."""

MOST_OF_FIRST = 1.01
"""How much of that a step may launch."""


@pytest.fixture(scope="module", params=[DINO, CASCADE])
def count_launches(request):
    """The config's name, and a function that counts what a step launches by kind of data, parts and ranks."""
    config = load_config(request.param)
    with pretended_device(has_values=False) as device, counted_without_a_gpu(device) as counted:

        def trainer_of(parts, ranks):
            return make_trainer(
                Ranks(0, ranks, DEVICE),
                model=config.model,
                loss=config.loss,
                dtype=torch.float32,
                accumulate=parts,
                global_batch_size=BATCH * parts * ranks,
                clip_norm=config.schedule.clip_norm,
                clip_value=config.schedule.clip_value,
            )

        trainers = {}

        def count(kind, parts=1, ranks=1):
            trainer = trainers[parts, ranks] = trainers.get((parts, ranks)) or trainer_of(parts, ranks)
            batch = make_batch(range(BATCH * parts), objects=OBJECTS, side=SIDE)
            device.launches.clear()
            counted.clear()
            trainer.step(0, 0, replace(batch, targets=tuple(KINDS[kind](target) for target in batch.targets)))
            return counted.total()

        count.trainers = trainers
        yield request.param, count


@contextmanager
def counted_without_a_gpu(device: PretendedDevice) -> Iterator[Counter[str]]:
    """The kernel, which wants a GPU, is a launch that does nothing. Yields what is launched before the norm."""
    counted: Counter[str] = Counter()
    clip = Trainer._clip

    def clip_after_counting(trainer):
        counted.update(device.launches)
        return clip(trainer)

    with (
        patch.object(dino_kind, "attention_backend", lambda *_: "triton"),
        patch.object(triton_backend, "_launch", lambda *_: device.launches.update(["kernel"])),
        patch.object(Trainer, "_clip", clip_after_counting),
        # Nobody averages the gradients of one of two ranks; what ranks say, they say on the hosts.
        patch.object(engine, "_parallel", lambda learner, _: learner),
        patch.object(Ranks, "sum", lambda ranks, values: [ranks.world_size * each for each in values]),
        # Fused optimisers know no shapes alone.
        patch.object(engine, "step_if_finite", lambda *_: None),
    ):
        yield counted


def test_a_step_launches_so_many_operators_at_most(count_launches):
    name, count = count_launches
    found = {kind: count(kind) for kind in KINDS}
    # A detector of such depth launches a thousand at least, or nothing was counted.
    assert all(1000 < number <= MOST_OF_FIRST * AT_FIRST[name, kind] for kind, number in found.items()), found


def test_and_as_many_again_for_each_part_and_one_to_add_each_gradient(count_launches):
    _, count = count_launches
    once, twice = count("cached"), count("cached", parts=2)
    assert 1.95 * once < twice - len(count.trainers[2, 1]._trained) <= 2.02 * once


def test_one_of_two_ranks_launches_what_it_does_alone(count_launches):
    _, count = count_launches
    assert count("cached", ranks=2) == count("cached")
