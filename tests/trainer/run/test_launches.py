"""How many operators a step launches on the device at full size: host time that the device may have to wait for.

Counted forward and backward, up to the gradient's norm, on a device of shapes alone and in float32: half precision adds
the casts of autocast. The kernel of deformable attention counts once a pass. What comes after is few launches on CUDA,
where optimisers are fused, and many on a device that PyTorch doesn't know.
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
from richsem_train.run.detectors import dino as dino_kind
from richsem_train.run.distributed import Ranks
from richsem_train.run.engine import Trainer
from tests.trainer.pretended_device import DEVICE, PretendedDevice, pretended_device
from tests.trainer.run.test_waits import cached, plain, whole_image
from tests.trainer.steps import make_batch, make_trainer

SIDE, OBJECTS = 1280, 4
DINO, CASCADE = "richsem_r50_inet_lvis", "c2_richsem_r50_21k_inet_lvis"
KINDS = {"plain": plain, "cached": cached, "image-level": whole_image}


def full_size_batch(kind, pictures):
    batch = make_batch(range(pictures), objects=OBJECTS, side=SIDE)
    return replace(batch, targets=tuple(kind(target) for target in batch.targets))


def count_launches(name, kind, accumulate=1):
    config = load_config(name)
    with pretended_device(has_values=False) as device, counted_without_a_gpu(device) as counted:
        trainer = make_trainer(
            Ranks(0, 1, DEVICE),
            model=config.model,
            loss=config.loss,
            dtype=torch.float32,
            accumulate=accumulate,
            global_batch_size=2 * accumulate,
            clip_norm=config.schedule.clip_norm,
            clip_value=config.schedule.clip_value,
        )
        device.launches.clear()
        trainer.step(0, 0, full_size_batch(kind, 2 * accumulate))
    return counted


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
    ):
        yield counted


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("config", [DINO, CASCADE])
def test_a_step_launches_at_most_so_many_operators(config, kind):
    found = count_launches(config, KINDS[kind])
    print("COUNT", config, kind, found.total(), found.most_common(25))
