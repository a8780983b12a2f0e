"""How often a training step makes the host wait for the device: the same number of times whatever the batch.

Figures that are copied to the host for later count as waits here, although nobody waits for them.
"""

from collections import Counter
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch

from richsem_train.config import CenternetCascadeConfig, DinoConfig, LossConfig
from richsem_train.run import engine
from richsem_train.run.distributed import Ranks
from richsem_train.targets import SoftLabels
from tests.trainer.pretended_device import DEVICE, pretended_device
from tests.trainer.steps import CLASSES, as_whole_image, make_batch, make_trainer
from tests.trainer.tiny import TWO_STAGE, VALUES

DINO, CASCADE = "dino", "centernet-cascade"
MODELS = {
    DINO: DinoConfig.model_validate(VALUES["model"]),
    CASCADE: CenternetCascadeConfig.model_validate(TWO_STAGE["model"]),
}
CLIPPING = {DINO: {"clip_norm": 0.1}, CASCADE: {"clip_norm": None, "clip_value": 1.0}}
MOST_WAITS = 2
"""A forward pass."""


def plain(target):
    return replace(target, soft_labels=None)


def cached(target):
    return target


def cached_top_k(target):
    log_probs = torch.randn(len(target.labels), CLASSES, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    kept, ids = log_probs.topk(3)
    rest = log_probs.scatter(-1, ids, -torch.inf).logsumexp(-1)
    is_known = torch.arange(len(target.labels)) > 0
    return replace(target, soft_labels=SoftLabels(class_ids=ids, log_probs=kept, log_rest=rest, is_known=is_known))


def extra(target):
    return replace(target, is_extra=True)


def whole_image(target):
    return as_whole_image(extra(target), np.random.default_rng(target.image_id))


def pseudo(target):
    return replace(target, supervision="pseudo", labels=torch.zeros_like(target.labels), is_extra=True)


def pseudo_top_k(target):
    return pseudo(cached_top_k(target))


KINDS = [plain, cached, cached_top_k, extra, whole_image, pseudo, pseudo_top_k]


def batch_of(kind, pictures, *, objects=2):
    batch = make_batch(range(pictures), objects=objects)
    return replace(batch, targets=tuple(kind(target) for target in batch.targets))


def trainer_of(detector, **where):
    return make_trainer(**where, model=MODELS[detector], loss=LossConfig(federated=3), **CLIPPING[detector])


@pytest.fixture(scope="module")
def waits():
    """Of a step, by detector and batch."""
    trainers = {}

    def count(detector, batch):
        with pretended_device() as device:
            if detector not in trainers:
                trainers[detector] = trainer_of(detector, ranks=Ranks(0, 1, DEVICE))
            device.waits.clear()
            trainers[detector].step(0, 0, batch)
            return Counter(device.waits)

    return count


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("detector", MODELS)
def test_the_host_waits_at_most_twice_a_step_whatever_the_batch(waits, detector, kind):
    found = [waits(detector, batch_of(kind, pictures)) for pictures in (2, 4)]
    assert found[0] == found[1]
    # Else nothing was counted: there are figures, and matches or what survives suppression.
    assert found[0].total() == MOST_WAITS, found


@pytest.mark.parametrize("detector", MODELS)
def test_and_once_more_a_part_of_a_batch(detector):
    parts = 3
    with pretended_device() as device:
        trainer = trainer_of(detector, ranks=Ranks(0, 1, DEVICE), accumulate=parts, global_batch_size=2 * parts)
        device.waits.clear()
        trainer.step(0, 0, batch_of(cached, 2 * parts))
    assert device.waits.total() == parts + 1


@pytest.mark.parametrize("detector", MODELS)
def test_ranks_say_nothing_on_the_device(detector):
    """Counts of one of two ranks whose gradients nobody averages; what ranks say, `Ranks.sum` says."""
    told = []
    with (
        pretended_device() as device,
        patch.object(engine, "_parallel", lambda learner, _: learner),
        patch.object(Ranks, "sum", lambda _, values: [told.append(each) or 2 * each for each in values]),
    ):
        trainer = trainer_of(detector, ranks=Ranks(0, 2, DEVICE), global_batch_size=4)
        device.waits.clear()
        trainer.step(0, 0, batch_of(cached, 2))
    assert device.waits.total() == MOST_WAITS
    assert len(told) == trainer.learner.counted


@pytest.mark.parametrize("detector", MODELS)
def test_the_number_does_not_grow_with_the_objects(waits, detector):
    assert waits(detector, batch_of(cached, 2, objects=1)) == waits(detector, batch_of(cached, 2, objects=7))


def test_the_only_shape_that_depends_on_values_is_that_of_one_suppression(waits):
    shapes = {reason: count for reason, count in waits(CASCADE, batch_of(cached, 4)).items() if "shape of" in reason}
    assert list(shapes.values()) == [1]
    assert "shape of nms" in next(iter(shapes))


@pytest.mark.parametrize("detector", MODELS)
def test_what_is_counted_is_a_step_as_the_cpu_takes_it(detector):
    batch = batch_of(cached, 4)
    with pretended_device():
        found = trainer_of(detector, ranks=Ranks(0, 1, DEVICE)).step(0, 0, batch)
    wanted = trainer_of(detector).step(0, 0, batch)
    assert found.losses == pytest.approx(wanted.losses, rel=1e-5)
    assert found.grad_norm == pytest.approx(wanted.grad_norm, rel=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("detector", MODELS)
def test_a_step_on_a_gpu_is_as_the_cpu_takes_it(detector, kind):
    batch = batch_of(kind, 4)
    found = trainer_of(detector, ranks=Ranks(0, 1, torch.device("cuda", 0))).step(0, 0, batch)
    wanted = trainer_of(detector).step(0, 0, batch)
    # In float64; some of what leads there is float32 in both.
    assert found.losses == pytest.approx(wanted.losses, rel=1e-5)
    assert found.grad_norm == pytest.approx(wanted.grad_norm, rel=1e-4)
