"""Groups, learning rates and averaged weights, against torch's own."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from richsem_train.run.optimiser import average_weights, make_optimiser, set_learning_rate, step_if_finite


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4))
        self.head = nn.Linear(4, 2)
        self.backbone[0].requires_grad_(False)

    def forward(self, x):
        return self.head(self.backbone(x)).square().sum()


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model()


def test_the_backbone_is_slower_and_what_is_frozen_is_left_out(model):
    optimiser = make_optimiser(model, lr=1e-3, backbone_lr=1e-4, weight_decay=0.1)
    set_learning_rate(optimiser, step=0, epoch=0, lr_drops=(), warmup_steps=0)
    rest, backbone = optimiser.param_groups
    assert backbone["lr"] == 1e-4
    assert (rest["lr"], len(rest["params"]), len(backbone["params"])) == (1e-3, 2, 2)
    assert {id(p) for p in backbone["params"]} == {id(p) for p in model.backbone[1].parameters()}
    assert rest["weight_decay"] == backbone["weight_decay"] == 0.1


@pytest.mark.parametrize(
    ("step", "epoch", "factor"),
    [(0, 0, 0.1), (4, 0, 0.5), (9, 0, 1.0), (10, 0, 1.0), (500, 19, 1.0), (500, 20, 0.1), (500, 22, 0.01)],
)
def test_the_learning_rate_is_a_function_of_the_step(model, step, epoch, factor):
    optimiser = make_optimiser(model, lr=1e-3, backbone_lr=1e-4, weight_decay=0.0)
    for _ in range(2):
        lr = set_learning_rate(optimiser, step=step, epoch=epoch, lr_drops=(20, 22), warmup_steps=10)
        assert lr == pytest.approx(1e-3 * factor)
        assert [group["lr"] for group in optimiser.param_groups] == pytest.approx([1e-3 * factor, 1e-4 * factor])


@pytest.mark.parametrize(("warmup", "total"), [(0, 12), (5, 17), (1, 2)])
def test_a_cosine_is_torchs_after_a_linear_warm_up(model, warmup, total):
    ours = make_optimiser(model, lr=1e-3, backbone_lr=1e-4, weight_decay=0.0)
    theirs = torch.optim.SGD([{"params": model.head.weight}, {"params": model.head.bias, "lr": 1e-4}], lr=1e-3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, T_max=total - warmup)
    for step in range(total):
        set_learning_rate(ours, step=step, epoch=0, warmup_steps=warmup, cosine_steps=total)
        found = [group["lr"] for group in ours.param_groups]
        if step < warmup:
            assert found == pytest.approx([1e-3 * (step + 1) / warmup, 1e-4 * (step + 1) / warmup])
        else:
            assert found == pytest.approx([group["lr"] for group in theirs.param_groups])
            theirs.step()
            cosine.step()
    assert 0 < found[0] < 1e-3 or total - warmup == 1


def test_a_run_shorter_than_its_warm_up_only_warms_up(model):
    optimiser = make_optimiser(model, lr=1e-3, backbone_lr=1e-4, weight_decay=0.0)
    assert set_learning_rate(optimiser, step=3, epoch=0, warmup_steps=8, cosine_steps=4) == pytest.approx(5e-4)


def test_steps_are_those_of_plain_adamw(model):
    other = deepcopy(model)
    ours = make_optimiser(model, lr=1e-3, backbone_lr=1e-4, weight_decay=0.1)
    theirs = torch.optim.AdamW(
        [{"params": other.head.parameters()}, {"params": other.backbone[1].parameters(), "lr": 1e-4}],
        lr=1e-3,
        weight_decay=0.1,
    )
    set_learning_rate(ours, step=0, epoch=0, lr_drops=(), warmup_steps=0)
    for seed in range(3):
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
        for one, optimiser in ((model, ours), (other, theirs)):
            optimiser.zero_grad()
            one(x).backward()
            optimiser.step()
    for one, another in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, another)


@pytest.mark.parametrize("norm", [torch.nan, torch.inf])
def test_a_gradient_whose_norm_is_not_finite_moves_nothing_and_the_next_does_as_if_it_had_not_been(model, norm):
    other = deepcopy(model)
    ours, theirs = (make_optimiser(each, lr=1e-3, backbone_lr=1e-4, weight_decay=0.1) for each in (model, other))
    for seed in range(3):
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
        for one, optimiser in ((model, ours), (other, theirs)):
            optimiser.zero_grad()
            one(x).backward()
        before = deepcopy([model.state_dict(), ours.state_dict()["state"]])
        model.head.weight.grad.fill_(norm)
        step_if_finite(ours, torch.tensor(norm))
        # Before the first step there is no state, then there are zeros.
        after = [model.state_dict(), ours.state_dict()["state"] if seed else {}]
        torch.testing.assert_close(after, before, rtol=0, atol=0)
        model.head.weight.grad.copy_(other.head.weight.grad)
        step_if_finite(ours, torch.tensor(1.0))
        theirs.step()
    torch.testing.assert_close(model.state_dict(), other.state_dict(), rtol=0, atol=0)


def test_averaged_weights_are_torchs_once_there_is_much_to_average(model):
    generator = torch.Generator().manual_seed(0)
    averaged = deepcopy(model)
    theirs = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    theirs.update_parameters(model)
    for step in range(1000, 1003):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator))
        average_weights(averaged, model, decay=0.9, step=step)
        theirs.update_parameters(model)
    for one, another in zip(averaged.parameters(), theirs.module.parameters(), strict=True):
        torch.testing.assert_close(one, another)


def test_averaged_weights_soon_forget_where_they_began(model):
    averaged = deepcopy(model)
    with torch.no_grad():
        for parameter in averaged.parameters():
            parameter.fill_(1e6)
    for step in range(60):
        average_weights(averaged, model, decay=0.999, step=step)
    for one, another in zip(averaged.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one, another, atol=1e-1, rtol=0)


def test_buffers_of_averaged_weights_are_the_models():
    model, averaged = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    model(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))
    average_weights(averaged, model, decay=0.9, step=50)
    assert torch.equal(averaged.running_mean, model.running_mean)
    assert averaged.num_batches_tracked == 1
