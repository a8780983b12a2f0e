"""Steps whose figures are read late are the steps that were taken one by one; a step that isn't finite is none."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn

from richsem_train.run.engine import split_batch
from richsem_train.run.optimiser import average_weights, make_optimiser, set_learning_rate
from richsem_train.run.step_result import NonFiniteLossError
from tests.trainer.steps import MIXED, make_trainer, mixed_batch

STEPS = 3
EMA = 0.5


def trainer_by_adam(**changes):
    trainer = make_trainer(global_batch_size=MIXED, federated=3, ema=EMA, warmup_steps=2, **changes)
    trainer.optimiser = make_optimiser(trainer.learner.detector, lr=1e-2, backbone_lr=1e-3, weight_decay=0.1)
    return trainer


def state(trainer):
    """Weights, averaged weights, moments and steps taken, as they are now."""
    detector, averaged, optimiser = trainer.learner.detector, trainer.averaged, trainer.optimiser
    return deepcopy([detector.state_dict(), averaged.state_dict(), optimiser.state_dict()["state"]])


def assert_equal(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def the_former_way(trainer, step, batch):
    """A step as it was when the host read losses and norm before it went on."""
    learner, schedule = trainer.learner, trainer._schedule
    set_learning_rate(trainer.optimiser, step=step, epoch=0, lr_drops=(20,), warmup_steps=schedule.warmup_steps)
    torch.manual_seed(trainer._random_seed(step, 2**32))
    ready = trainer.prepare(batch).batch
    totals = [max(count, MIXED // 2) for count in learner.counts(ready.targets).tolist()]
    learner.train()
    trainer.optimiser.zero_grad(set_to_none=True)
    summed = {}
    for part in split_batch(ready, schedule.accumulate, pictures_a_draw=2, size_divisor=1):
        generators = [torch.Generator().manual_seed(trainer._random_seed(step, draw)) for draw in part.draws]
        losses = learner(part.batch, totals, generators)
        stacked = torch.stack(list(losses.values()))
        weighted = stacked * torch.tensor([learner.weights[name] for name in losses], dtype=stacked.dtype)
        weighted.sum().backward()
        for name, value in zip(losses, weighted.tolist(), strict=True):
            summed[name] = summed.get(name, 0.0) + value
    norm = nn.utils.clip_grad_norm_([each for each in learner.parameters() if each.requires_grad], schedule.clip_norm)
    trainer.optimiser.step()
    average_weights(trainer.averaged, learner.detector, decay=EMA, step=step)
    return summed, float(norm)


def launch(trainer, step, batch):
    prepared = trainer.prepare(batch)
    return trainer.launch(step, 0, prepared, prepared.counts)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_steps_in_flight_are_bit_for_bit_those_taken_one_by_one(accumulate):
    ours, theirs = (trainer_by_adam(accumulate=accumulate) for _ in range(2))
    batches = [mixed_batch(range(MIXED), step) for step in range(STEPS)]
    results = [launch(ours, step, batch) for step, batch in enumerate(batches)]
    assert results.pop(0) is None
    results.append(ours.settle())
    wanted = [the_former_way(theirs, step, batch) for step, batch in enumerate(batches)]
    assert [(result.losses, result.grad_norm) for result in results] == wanted
    assert_equal(state(ours), state(theirs))
    assert ours.settle() is None


def spoil_a_gradient(trainer):
    """Until the handle is removed."""
    parameter = next(iter(trainer.learner.detector.input_proj.parameters()))
    return parameter.register_hook(lambda gradient: gradient * torch.inf)


def spoil_a_loss(trainer):
    learner = trainer.learner
    kept = learner.weights
    learner.weights = {**kept, "loss_bbox": torch.nan}

    class Handle:
        def remove(self):
            learner.weights = kept

    return Handle()


@pytest.mark.parametrize(("spoil", "what"), [(spoil_a_gradient, "gradient's norm"), (spoil_a_loss, "loss_bbox is nan")])
@pytest.mark.parametrize("is_known_in_the_next", [True, False])
def test_a_step_that_is_not_finite_changes_nothing_nor_does_the_next(spoil, what, is_known_in_the_next):
    trainer = trainer_by_adam()
    trainer.step(0, 0, mixed_batch(range(MIXED), 0))
    before = state(trainer)
    handle = spoil(trainer)
    launch(trainer, 1, mixed_batch(range(MIXED), 1))
    handle.remove()
    with pytest.raises(NonFiniteLossError) as refused:
        launch(trainer, 2, mixed_batch(range(MIXED), 2)) if is_known_in_the_next else trainer.settle()
    assert "at step 1: " in str(refused.value)
    assert what in str(refused.value)
    height, width = mixed_batch(range(MIXED), 1).targets[0].image_hw
    assert f"picture-0 ({width}x{height} px" in str(refused.value)
    assert_equal(state(trainer), before)


def test_of_two_steps_the_first_that_is_not_finite_is_told():
    trainer = trainer_by_adam()
    spoil_a_gradient(trainer)
    launch(trainer, 0, mixed_batch(range(MIXED), 0))
    with torch.no_grad():
        trainer.learner.detector.bbox_embed[0].layers[-1].bias.fill_(torch.nan)
    with pytest.raises(NonFiniteLossError, match="at step 0: the gradient's norm"):
        launch(trainer, 1, mixed_batch(range(MIXED), 1))


def test_a_part_whose_loss_is_not_finite_is_told_by_its_own_pictures():
    trainer = trainer_by_adam(accumulate=2)
    batch = mixed_batch(range(MIXED))
    targets = list(batch.targets)
    broken = next(place for place in range(MIXED // 2, MIXED) if targets[place].soft_labels is not None)
    soft = targets[broken].soft_labels
    targets[broken] = replace(
        targets[broken], soft_labels=replace(soft, embeddings=torch.full_like(soft.embeddings, torch.nan))
    )
    with pytest.raises(NonFiniteLossError, match="loss_soft") as refused:
        trainer.step(0, 0, replace(batch, targets=tuple(targets)))
    assert f"picture-{broken} (" in str(refused.value)
    assert "picture-0 (" not in str(refused.value)
