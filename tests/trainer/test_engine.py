"""Steps: parts and ranks make the same step as one batch; what isn't finite changes nothing."""

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch

from richsem_schemas.errors import RichSemError
from richsem_train.engine import NonFiniteLossError, split_batch
from tests.trainer.processes import start_ranks
from tests.trainer.steps import make_batch, make_trainer, step_as_rank, whole_denoising


def weights(trainer):
    return {name: value.clone() for name, value in trainer.detector_losses.detector.state_dict().items()}


def gradients(trainer):
    named = trainer.detector_losses.detector.named_parameters()
    return {name: parameter.grad.clone() for name, parameter in named if parameter.requires_grad}


def assert_close(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        # Weights and sums are float64, boxes, cosines and losses float32 whatever the rest is.
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.fixture(scope="module")
def one_rank():
    """Losses, gradients and weights after three steps of four pictures, denoising noise injected."""
    trainer = make_trainer()
    with patch("richsem_train.engine.draw_denoising", whole_denoising):
        losses = [trainer.step(step, 0, make_batch(range(4), step)).losses for step in range(3)]
    return losses, gradients(trainer), weights(trainer)


def test_a_batch_in_two_parts_makes_the_same_steps(one_rank):
    losses, gradients_, weights_ = one_rank
    trainer = make_trainer(accumulate=2)
    with patch("richsem_train.engine.draw_denoising", whole_denoising):
        found = [trainer.step(step, 0, make_batch(range(4), step)).losses for step in range(3)]
    for ours, theirs in zip(found, losses, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    assert_close(gradients(trainer), gradients_)
    assert_close(weights(trainer), weights_)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_ranks_make_the_same_steps_as_one_at_twice_the_batch(one_rank, tmp_path, accumulate):
    losses, gradients_, weights_ = one_rank
    for command in start_ranks(tmp_path, 2, step_as_rank, tmp_path, accumulate):
        assert command.wait() == 0, command.output
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for step, theirs in enumerate(losses):
        for name, value in theirs.items():
            ours = sum(rank["losses"][step][name] for rank in ranks) / 2
            assert ours == pytest.approx(value, rel=1e-5), (step, name)
    for rank in ranks:
        assert_close(rank["gradients"], gradients_)
        assert_close(rank["weights"], weights_)


def test_a_step_depends_on_seed_and_step_alone():
    one, other = make_trainer(), make_trainer()
    torch.rand(5)
    first = one.step(7, 0, make_batch(range(4)))
    torch.rand(3)
    second = other.step(7, 0, make_batch(range(4)))
    assert vars(first) == vars(second)
    different = make_trainer().step(8, 0, make_batch(range(4)))
    assert different.losses["loss_bbox_dn"] != first.losses["loss_bbox_dn"]


@pytest.mark.parametrize("objects", [0, 1])
def test_a_batch_with_few_or_no_objects_reaches_every_parameter(objects):
    trainer = make_trainer(ema=0.5)
    batch = make_batch(range(2), objects=objects)
    batch = replace(batch, targets=(batch.targets[0], make_batch(range(1), objects=0).targets[0]))
    result = trainer.step(0, 0, batch)
    assert result.loss > 0
    assert all(parameter.grad is not None for parameter in trainer.detector_losses.parameters() if
               parameter.requires_grad)  # fmt: skip


def spoil_pixels(trainer):
    trainer.detector_losses.normalise.std.fill_(0)


def spoil_a_weight(trainer):
    with torch.no_grad():
        trainer.detector_losses.detector.bbox_embed[0].layers[-1].bias.fill_(torch.nan)


@pytest.mark.parametrize("spoil", [spoil_pixels, spoil_a_weight])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loss_that_is_not_finite_changes_no_weight_and_names_the_pictures(spoil, accumulate):
    trainer = make_trainer(accumulate=accumulate, ema=0.5)
    trainer.step(0, 0, make_batch(range(4)))
    spoil(trainer)
    before, averaged = weights(trainer), {k: v.clone() for k, v in trainer.averaged.state_dict().items()}
    with pytest.raises(NonFiniteLossError) as refused:
        trainer.step(1, 0, make_batch(range(4)))
    message = str(refused.value)
    assert "picture-0 (64x64 px, 2 boxes, labels [" in message
    assert "at step 1" in message
    assert "\n" not in message
    assert isinstance(refused.value, RichSemError)
    after = weights(trainer)
    assert all(torch.equal(before[name].nan_to_num(7), after[name].nan_to_num(7)) for name in before)
    assert all(torch.equal(averaged[name], value) for name, value in trainer.averaged.state_dict().items())


def test_a_gradient_that_is_not_finite_changes_no_weight():
    trainer = make_trainer()
    before = weights(trainer)
    parameter = next(iter(trainer.detector_losses.detector.input_proj.parameters()))
    parameter.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(NonFiniteLossError, match="gradient"):
        trainer.step(0, 0, make_batch(range(4)))
    assert all(torch.equal(value, before[name]) for name, value in weights(trainer).items())


@pytest.mark.parametrize(
    ("pictures", "parts", "sizes"), [(4, 1, [4]), (4, 2, [2, 2]), (5, 3, [2, 1, 2]), (2, 4, [1, 1])]
)
def test_parts_of_a_batch_are_about_equal_and_lose_nothing(pictures, parts, sizes):
    batch = make_batch(range(pictures))
    found = split_batch(batch, parts)
    assert sorted(len(part.targets) for part in found) == sorted(sizes)
    assert [name for part in found for name in part.names] == list(batch.names)
    assert torch.equal(torch.cat([part.pixels for part in found]), batch.pixels)
