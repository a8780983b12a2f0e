"""Batch norm whose statistics and scales never change."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class FrozenBatchNorm2d(nn.Module):
    """Batch norm with everything a buffer: `weight`, `bias`, `running_mean`, `running_var`, as in published detectors.

    Unlike torchvision's and timm's it keeps the type of a bfloat16 map; under autocast these return float32. For the
    backward pass it keeps nothing but its own buffers, and not the map.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor
    no_mean: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("no_mean", torch.zeros(channels), persistent=False)

    def forward(self, features_BCHW: Tensor) -> Tensor:
        """Scale and shift each channel."""
        normed_BCHW: Tensor = _FixedNorm.apply(
            features_BCHW, self.running_mean, self.running_var, self.weight, self.bias, self.no_mean, self.eps
        )
        return normed_BCHW

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Weights of an unfrozen norm count their batches.
        state_dict.pop(f"{prefix}num_batches_tracked", None)
        super()._load_from_state_dict(state_dict, prefix, *args)


class _FixedNorm(torch.autograd.Function):
    # PyTorch's own would keep its input, half of all that a frozen ResNet keeps.
    @staticmethod
    def forward(
        ctx: Any,
        features_BCHW: Tensor,
        mean_C: Tensor,
        var_C: Tensor,
        weight_C: Tensor,
        bias_C: Tensor,
        no_mean_C: Tensor,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(no_mean_C, var_C, weight_C)
        ctx.eps = eps
        return functional.batch_norm(features_BCHW, mean_C, var_C, weight_C, bias_C, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, gradient_BCHW: Tensor) -> tuple[Tensor | None, ...]:
        no_mean_C, var_C, weight_C = ctx.saved_tensors
        # The gradient is scaled as the map was: by the same norm without its shifts, one launch.
        scaled_BCHW = functional.batch_norm(gradient_BCHW, no_mean_C, var_C, weight_C, training=False, eps=ctx.eps)
        return scaled_BCHW, None, None, None, None, None, None


def frozen_batch_norms(module: nn.Module) -> nn.Module:
    """The module, each `nn.BatchNorm2d` in it (or it itself) replaced by a frozen one with the same numbers."""
    # Not of a subclass: those may do more, an activation in timm's.
    if type(module) is nn.BatchNorm2d:
        frozen = FrozenBatchNorm2d(module.num_features, module.eps)
        frozen.load_state_dict(module.state_dict())
        return frozen
    for name, child in module.named_children():
        module.add_module(name, frozen_batch_norms(child))
    return module
