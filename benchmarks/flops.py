"""Floating-point operations of convolutions and matrix products, without running any of them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class FlopCounter(TorchDispatchMode):
    """What runs in the block, by PyTorch's own formulas.

    `FlopCounterMode` follows modules besides, and stumbles over views of fake tensors.

    Attributes:
        flops: until now.
    """

    flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.is_inference_mode_enabled() and func.overloadpacket not in flop_registry:
            # Operators come undivided there.
            with self:
                parts = func.decompose(*args, **(kwargs or {}))
            if parts is not NotImplemented:
                return parts
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out


def forward_flops(module: nn.Module, network: Callable[..., Tensor], *shapes: tuple[int, ...]) -> int:
    """Of a network without gradients.

    Args:
        module: whose weights `network` uses.
        network: takes float tensors.
        shapes: of these tensors.
    """
    device = next(module.parameters()).device
    with _fake(), torch.no_grad(), FlopCounter() as counter:
        network(*(torch.zeros(shape, device=device) for shape in shapes))
    return counter.flops


def training_flops(module: nn.Module, loss: Callable[[nn.Module], Tensor]) -> int:
    """Of a forward and a backward pass.

    Args:
        module: its parameters get gradients.
        loss: of the module and of tensors that it makes itself, a scalar.
    """
    wanted = [parameter for parameter in module.parameters() if parameter.requires_grad]
    with _fake(), FlopCounter() as counter:
        torch.autograd.grad(loss(module), wanted, allow_unused=True)
    return counter.flops


@contextmanager
def _fake() -> Iterator[None]:
    """Tensors have shapes and no values; attention is counted product by product."""
    is_fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(is_fast)
