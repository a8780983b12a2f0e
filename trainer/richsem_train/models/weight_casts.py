"""Half-precision copies of a detector's weights, made a part at a time rather than one by one by autocast."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import stateless


class _Casts(torch.autograd.Function):
    """Copies of weights in another type, one launch each way."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.dtype = weights[0].dtype
        ctx.set_materialize_grads(False)
        return _copies(weights, dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        there = [place for place, gradient in enumerate(gradients) if gradient is not None]
        wide = dict(zip(there, _copies([gradients[place] for place in there], ctx.dtype), strict=True))
        return None, *(wide.get(place) for place in range(len(gradients)))


def _copies(tensors: Any, dtype: torch.dtype) -> tuple[Tensor, ...]:
    copies = tuple(torch.empty_like(each, dtype=dtype) for each in tensors)
    if copies:
        torch._foreach_copy_(list(copies), list(tensors))
    return copies


@contextmanager
def cast_weights(model: nn.Module, groups: Iterable[Iterable[str]], dtype: torch.dtype) -> Iterator[None]:
    """Within the block the model computes with copies of some float32 weights, whose gradients go to the weights.

    What autocast would do one by one: the same copies and gradients, bit for bit.

    Args:
        model: for forward passes in the block.
        groups: names of parameters, copied together; gradients of a group become ready together.
        dtype: of the copies.
    """
    parameters = dict(model.named_parameters())
    casts: dict[str, Tensor] = {}
    for group in groups:
        names = [name for name in group if parameters[name].dtype == torch.float32]
        for is_trained in (True, False):
            alike = [name for name in names if parameters[name].requires_grad is is_trained]
            if alike:
                casts |= zip(alike, _Casts.apply(dtype, *(parameters[name] for name in alike)), strict=True)
    with stateless._reparametrize_module(model, casts):
        yield
