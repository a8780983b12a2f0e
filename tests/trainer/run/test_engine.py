"""Steps: parts and ranks make the same step as one batch; what isn't finite changes nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from richsem_schemas.errors import RichSemError
from richsem_train.data.collate import Sample, collate
from richsem_train.run.engine import split_batch
from richsem_train.run.step_result import NonFiniteLossError
from tests.trainer.processes import start_ranks
from tests.trainer.steps import (
    as_whole_image,
    assert_close,
    make_batch,
    make_trainer,
    mixed_batch,
    take_steps,
    take_steps_as_rank,
)


def weights(trainer):
    return {name: value.clone() for name, value in trainer.learner.detector.state_dict().items()}


@pytest.fixture(scope="module")
def one_rank():
    """Losses, gradients and weights after three steps of eight pictures."""
    return take_steps()


def test_the_steps_below_learn_of_everything(one_rank):
    for name in one_rank["losses"][0]:
        assert sum(losses[name] for losses in one_rank["losses"]) > 0, name


@pytest.mark.parametrize("accumulate", [2, 4])
def test_a_batch_in_parts_makes_the_same_steps(one_rank, accumulate):
    found = take_steps(accumulate=accumulate)
    for ours, theirs in zip(found["losses"], one_rank["losses"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    assert_close(found["gradients"], one_rank["gradients"])
    assert_close(found["weights"], one_rank["weights"])


@pytest.mark.parametrize(("world_size", "accumulate"), [(2, 1), (2, 2), (4, 1)])
def test_ranks_make_the_same_steps_as_one_alone(one_rank, tmp_path, world_size, accumulate):
    for command in start_ranks(tmp_path, world_size, take_steps_as_rank, tmp_path, accumulate):
        assert command.wait() == 0, command.output
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(world_size)]
    for step, theirs in enumerate(one_rank["losses"]):
        for name, value in theirs.items():
            ours = sum(rank["losses"][step][name] for rank in ranks) / world_size
            assert ours == pytest.approx(value, rel=1e-5), (step, name)
    for rank in ranks:
        assert_close(rank["gradients"], one_rank["gradients"])
        assert_close(rank["weights"], one_rank["weights"])


@pytest.mark.parametrize("pictures_a_draw", [1, 4])
def test_draws_of_another_size_make_other_steps(one_rank, pictures_a_draw):
    """The tests above can fail."""
    found = take_steps(pictures_a_draw=pictures_a_draw)["losses"][0]
    for name in ("loss_class", "loss_class_dn", "loss_bbox_dn", "loss_giou_dn"):
        assert found[name] != pytest.approx(one_rank["losses"][0][name], rel=1e-3), name


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
    assert all(parameter.grad is not None for parameter in trainer.learner.parameters() if
               parameter.requires_grad)  # fmt: skip


def whole_images(pictures, step=0):
    batch = make_batch(pictures, step)
    rng = np.random.default_rng([4, step, pictures.start])
    return replace(batch, targets=tuple(as_whole_image(target, rng) for target in batch.targets))


def test_a_batch_of_whole_images_alone_reaches_every_parameter_and_teaches_nothing_else():
    trainer = make_trainer(ema=0.5)
    result = trainer.step(0, 0, whole_images(range(4)))
    learnt = {name for name, loss in result.losses.items() if loss}
    assert learnt == {"loss_image", "loss_image_0"}
    assert all(gradient is not None for gradient in gradients(trainer).values())


def test_a_step_of_whole_images_divides_by_their_number():
    """Twice the same pictures are the same step."""
    once, batch = make_trainer(), whole_images(range(4))
    twice = replace(
        batch,
        pixels=torch.cat([batch.pixels] * 2),
        targets=batch.targets * 2,
        names=batch.names * 2,
    )
    again = make_trainer(global_batch_size=8)
    assert again.step(0, 0, twice).losses == pytest.approx(once.step(0, 0, batch).losses, rel=1e-6)
    assert_close(gradients(again), gradients(once))


def gradients(trainer):
    return {name: p.grad for name, p in trainer.learner.detector.named_parameters() if p.requires_grad}


def test_gradients_are_clipped_by_value():
    free, clipped = (make_trainer(clip_norm=None, clip_value=value) for value in (None, 1e-3))
    norms = [trainer.step(0, 0, make_batch(range(4))).grad_norm for trainer in (free, clipped)]
    assert norms[0] == norms[1], "the norm is that before clipping"
    unclipped = gradients(free)
    assert max(gradient.abs().max() for gradient in unclipped.values()) > 1e-3
    for name, gradient in gradients(clipped).items():
        assert torch.equal(gradient, unclipped[name].clamp(-1e-3, 1e-3))


def test_the_learning_rate_of_a_cosine_ends_with_the_run():
    trainer = make_trainer(lr_schedule="cosine", lr_drops=(1,), warmup_steps=1, total_steps=5)
    rates = [trainer.step(step, step, make_batch(range(4))).lr for step in range(5)]
    # 1, then (1 + cos(pi k / 4)) / 2; no drop at epoch 1.
    assert rates == pytest.approx([1e-2, 1e-2, 8.535534e-3, 5e-3, 1.464466e-3])


def spoil_pixels(trainer):
    trainer.learner.normalise.std.fill_(0)


def spoil_a_weight(trainer):
    with torch.no_grad():
        trainer.learner.detector.bbox_embed[0].layers[-1].bias.fill_(torch.nan)


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


def test_what_was_in_a_batch_of_whole_images_is_told():
    trainer, batch = make_trainer(), whole_images(range(4))
    spoil_a_weight(trainer)
    with pytest.raises(NonFiniteLossError) as refused:
        trainer.step(0, 0, batch)
    shown = sorted(batch.targets[0].image_labels.tolist())
    assert f"picture-0 (64x64 px, 0 boxes, labels {shown})" in str(refused.value)


def test_a_gradient_that_is_not_finite_changes_no_weight():
    trainer = make_trainer()
    before = weights(trainer)
    parameter = next(iter(trainer.learner.detector.input_proj.parameters()))
    parameter.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(NonFiniteLossError, match="gradient"):
        trainer.step(0, 0, make_batch(range(4)))
    assert all(torch.equal(value, before[name]) for name, value in weights(trainer).items())


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_parts_of_a_batch_are_whole_draws_and_lose_nothing(parts):
    batch = mixed_batch(range(8))
    found = split_batch(batch, parts, pictures_a_draw=2, size_divisor=1)
    assert sorted(draw for part in found for draw in part.draws) == list(range(4))
    for part in found:
        assert len({draw // (4 // parts) for draw in part.draws}) == 1
        assert part.batch.names == tuple(f"picture-{2 * draw + place}" for draw in part.draws for place in (0, 1))
        for name, pixels, mask in zip(part.batch.names, part.batch.pixels, part.batch.padding_mask, strict=True):
            whole = int(name.removeprefix("picture-"))
            height, width = batch.targets[whole].image_hw
            assert (~mask).sum() == height * width
            assert torch.equal(pixels[:, :height, :width], batch.pixels[whole, :, :height, :width])


@pytest.mark.parametrize(("size_divisor", "sizes"), [(1, [(40, 64), (64, 56), (64, 64)]), (32, [(64, 64)])])
def test_draws_go_together_where_they_are_padded_alike(size_divisor, sizes):
    samples = [
        Sample(torch.zeros(3, *hw, dtype=torch.uint8), replace(make_batch(range(1)).targets[0], image_hw=hw), str(hw))
        for hw in [(40, 64), (40, 40), (64, 64), (8, 8), (40, 56), (64, 48), (64, 8), (8, 64)]
    ]
    found = split_batch(collate(samples), 1, pictures_a_draw=2, size_divisor=size_divisor)
    assert sorted(tuple(part.batch.pixels.shape[2:]) for part in found) == sizes
    assert [part.draws for part in found if len(part.draws) > 1] == [(1, 3) if size_divisor == 1 else (0, 1, 2, 3)]
