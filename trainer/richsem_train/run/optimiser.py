"""AdamW with a slower backbone, a learning rate that is a function of the step, and averaged weights."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from richsem_train.devices import fused_adamw_skips


def make_optimiser(model: nn.Module, *, lr: float, backbone_lr: float, weight_decay: float) -> AdamW:
    """AdamW in two groups, the backbone the second, for a model on its device; frozen parameters are left out.

    Source:
        The reference: 1e-4, 1e-5 for the backbone, weight decay 1e-4 on all parameters.
    """
    groups: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[name.startswith("backbone.")].append(parameter)
    return AdamW(
        [{"params": params, "base_lr": rate} for params, rate in zip(groups, (lr, backbone_lr), strict=True)],
        lr=lr,
        weight_decay=weight_decay,
        fused=all(fused_adamw_skips(each.device) for each in model.parameters()),
    )


def set_learning_rate(
    optimiser: AdamW,
    *,
    step: int,
    epoch: int,
    lr_drops: Sequence[int] = (),
    warmup_steps: int,
    cosine_steps: int | None = None,
) -> float:
    """Set the learning rate of a step about to be taken; returns that of the first group.

    Steps and epochs count from 0. From each epoch of `lr_drops` on the rate is a tenth of what it was. With
    `cosine_steps`, all steps of the run, it falls from the end of the warm-up to 0 as half a cosine.

    Source:
        Loshchilov & Hutter 2017 (arXiv 1608.03983), without restarts. Detic's warm-ups of 10,000 steps from 1e-4 and of
        1,000 from 1e-3 of the rate begin as ours do, at 1 / `warmup_steps`. Differs: its cosine begins with the run.
    """
    factor = 0.1 ** sum(epoch >= drop for drop in lr_drops)
    if step < warmup_steps:
        factor *= (step + 1) / warmup_steps
    elif cosine_steps is not None:
        factor *= (1 + math.cos(math.pi * (step - warmup_steps) / (cosine_steps - warmup_steps))) / 2
    for group in optimiser.param_groups:
        group["lr"] = group["base_lr"] * factor
    return float(optimiser.param_groups[0]["lr"])


def step_if_finite(optimiser: Optimizer, grad_norm: Tensor) -> None:
    """Take a step, which the device leaves out where the gradient's norm isn't finite; the host doesn't wait for it.

    Weights, moments and steps taken then stay as they are. Only fused optimisers leave it out; where theirs don't, the
    host waits for the norm.
    """
    if not fused_adamw_skips(grad_norm.device):
        if bool(grad_norm.isfinite()):
            optimiser.step()
        return
    # What a `GradScaler` tells fused optimisers.
    vars(optimiser)["found_inf"] = grad_norm.isfinite().logical_not().float()
    optimiser.step()


@torch.no_grad()
def average_weights(averaged: nn.Module, model: nn.Module, *, decay: float, step: int) -> None:
    """Move averaged weights towards the model's: a * d + m * (1 - d); buffers are copied.

    Args:
        averaged: moved.
        model: of the same architecture, after its step.
        decay: d, once there is much to average; before, d is (1 + step) / (10 + step), so that the start is forgotten.
        step: steps taken before this one.
    """
    ours: list[Tensor] = list(averaged.parameters())
    theirs: list[Tensor] = list(model.parameters())
    torch._foreach_lerp_(ours, theirs, 1 - min(decay, (1 + step) / (10 + step)))
    if buffers := list(averaged.buffers()):
        torch._foreach_copy_(buffers, list(model.buffers()))
