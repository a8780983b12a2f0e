"""Steps of detectors at full size on a GPU that isn't there: tensors of the device have shapes and no values.

What the host has is real; what it reads of the device is made up. So nothing can be said of numbers here, and all of
which operators a step asks the device for, in which order, and which tensors it keeps.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torchvision.ops  # noqa: F401  (its operators)
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.autograd.function import BackwardCFunction
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from richsem_train.models.dino.token_grid import token_grid

CUDA, HOST = torch.device("cuda", 0), torch.device("cpu")

_ATEN = torch.ops.aten
_NO_KERNEL = {
    _ATEN.empty, _ATEN.empty_like, _ATEN.empty_strided, _ATEN.new_empty, _ATEN.new_empty_strided, _ATEN.detach,
    _ATEN._unsafe_view, _ATEN._reshape_alias, _ATEN.lift_fresh, _ATEN.is_same_size, _ATEN.set_, _ATEN.resize_,
}  # fmt: skip
"""Operators that only make tensors or look at them otherwise; views are told by their schema."""


class FullSize(TorchDispatchMode):
    """Runs what is asked of the device without values, and everything else as it is.

    Attributes:
        operators: how often an operator that launches a kernel at least was asked for, by name and place; a view, new
            memory without values, and copies from the host launch none.
    """

    def __init__(self, fake: FakeTensorMode, place: Callable[[], str] = lambda: "") -> None:
        super().__init__()
        self._fake = fake
        self._place = place
        self.operators: Counter[tuple[str, str]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        asked = kwargs.get("device")
        is_device_asked = any(isinstance(each, FakeTensor) for each in given)
        if not is_device_asked and (asked is None or asked.type != CUDA.type):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if is_device_asked and _comes_to_the_host(func, args, asked):
            return _made_up(func, args)
        if _launches(func, is_device_asked=is_device_asked):
            self.operators[func.overloadpacket.__name__, self._place()] += _launches_of(func, args)
        if asked is not None:
            kwargs["device"] = CUDA
        with self._fake:
            return func(*args, **kwargs)


def _comes_to_the_host(func: Any, args: Any, asked: Any) -> bool:
    packet = func.overloadpacket
    if packet is _ATEN.copy_:
        return not isinstance(args[0], FakeTensor)
    return packet is _ATEN._local_scalar_dense or (asked is not None and asked.type == HOST.type)


def _made_up(func: Any, args: Any) -> Any:
    if func.overloadpacket is _ATEN._local_scalar_dense:
        return 1.0
    with unset_fake_temporarily():
        if func.overloadpacket is _ATEN.copy_:
            return args[0].fill_(1)
        values = torch.arange(args[0].numel(), dtype=torch.float64) % 997 / 997
        return values.view(args[0].shape).to(args[0].dtype)


def _launches(func: Any, *, is_device_asked: bool) -> bool:
    packet = func.overloadpacket
    if packet in _NO_KERNEL or func.namespace == "prim":
        return False
    if packet in (_ATEN._to_copy, _ATEN.copy_) and not is_device_asked:
        return False
    returned = func._schema.returns
    is_view = bool(returned) and all(each.alias_info and not each.alias_info.is_write for each in returned)
    return not is_view


def _launches_of(func: Any, args: Any) -> int:
    """One, but for our own backward kernel, which is between zeros and a conversion."""
    if func.overloadpacket.__name__ != "deformable_attention_backward":
        return 1
    gradient = args[0]
    return 2 if gradient.dtype in (torch.float32, torch.float64) else 3


class _WithoutPinning(TorchFunctionMode):
    """Memory can't be page-locked without a GPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.pin_memory:
            return args[0]
        kwargs.pop("pin_memory", None)
        return func(*args, **kwargs)


class _FusedAttention(torch.autograd.Function):
    """`scaled_dot_product_attention` as a GPU has it: a launch each way, which keep what comes in, goes out, and a sum.

    Here it would be taken apart.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        out, sums = torch.ops.full_size.attention(query, key, value)
        ctx.save_for_backward(query, key, value, mask, out, sums)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *_ = ctx.saved_tensors
        return *torch.ops.full_size.attention_backward(gradient, query, key, value), None


@torch.library.custom_op("full_size::attention", mutates_args=())
def _attention(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    raise NotImplementedError


@_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    # Heads lie beside each other, as in the query.
    out = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2)
    return out, query.new_empty(query.shape[:-1], dtype=torch.float32)


@torch.library.custom_op("full_size::attention_backward", mutates_args=())
def _attention_backward(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    raise NotImplementedError


@_attention_backward.register_fake
def _(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def fused_attention(
    query: Tensor, key: Tensor, value: Tensor, *, attn_mask: Tensor | None = None, dropout_p: float = 0.0
) -> Tensor:
    """In the place of `scaled_dot_product_attention`."""
    assert dropout_p == 0.0
    if torch.is_autocast_enabled(CUDA.type):
        dtype = torch.get_autocast_dtype(CUDA.type)
        query, key, value = (each.to(dtype) for each in (query, key, value))
        attn_mask = None if attn_mask is None else attn_mask.to(dtype)
    attended: Tensor = _FusedAttention.apply(query, key, value, attn_mask)
    return attended


def backward(root: Tensor, weight: Tensor | None = None) -> None:
    """What PyTorch's engine does from a scalar on, which asks the driver of a device for streams."""
    assert root.grad_fn is not None
    waiting = _dependencies(root.grad_fn)
    arrived: dict[Any, list[Tensor | None]] = {root.grad_fn: [torch.ones_like(root) if weight is None else weight]}
    ready = [root.grad_fn]
    with torch.no_grad():
        while ready:
            # The engine takes what was made last.
            node = ready.pop(max(range(len(ready)), key=lambda place: ready[place]._sequence_nr()))
            gradients = _gradients_of(node, arrived.pop(node, []))
            for (following, place), gradient in zip(node.next_functions, gradients, strict=True):
                if following is None:
                    continue
                _arrive(arrived.setdefault(following, []), place, _reduced(gradient, following, place))
                waiting[following] -= 1
                if not waiting[following]:
                    ready.append(following)


def _dependencies(root: Any) -> Counter[Any]:
    """How many gradients each node of the graph waits for."""
    counts: Counter[Any] = Counter()
    seen, left = {root}, [root]
    while left:
        for following, _ in left.pop().next_functions:
            if following is None:
                continue
            counts[following] += 1
            if following not in seen:
                seen.add(following)
                left.append(following)
    return counts


def _gradients_of(node: Any, arrived: list[Tensor | None]) -> tuple[Tensor | None, ...]:
    given = arrived + [None] * (len(node._input_metadata) - len(arrived))
    if all(gradient is None for gradient in given):
        return (None,) * len(node.next_functions)
    if hasattr(node, "variable"):
        _accumulate(node.variable, given[0])
        return ()
    _CURRENT.append(node)
    try:
        if isinstance(node, BackwardCFunction):
            return _of_tensors(node, node.apply(*given))
        gradients = node(*given)
    finally:
        _CURRENT.pop()
    return tuple(gradients) if isinstance(gradients, tuple | list) else (gradients,)


def _of_tensors(node: Any, gradients: Any) -> tuple[Tensor | None, ...]:
    """Functions in Python also answer for arguments that are no tensors, of which the graph knows nothing."""
    gradients = gradients if isinstance(gradients, tuple) else (gradients,)
    wanted = iter([each for each, is_needed in zip(gradients, node.needs_input_grad, strict=True) if is_needed])
    return tuple(None if following is None else next(wanted) for following, _ in node.next_functions)


def _accumulate(leaf: Tensor, gradient: Tensor) -> None:
    if leaf.grad is None:
        # It lies as its weight does, here and there, and is taken as it is.
        leaf.grad = gradient
    else:
        leaf.grad += gradient


def _arrive(arrived: list[Tensor | None], place: int, gradient: Tensor | None) -> None:
    arrived.extend([None] * (place + 1 - len(arrived)))
    if gradient is not None:
        before = arrived[place]
        arrived[place] = gradient if before is None else before + gradient


def _reduced(gradient: Tensor | None, node: Any, place: int) -> Tensor | None:
    """As the node wants it: without what was broadcast, in its type."""
    if gradient is None:
        return None
    wanted = node._input_metadata[place]
    if gradient.shape != wanted.shape:
        gradient = gradient.sum_to_size(wanted.shape)
    return gradient.to(wanted.dtype)


_CURRENT: list[Any] = []


def current_node() -> Any:
    """The node of the graph whose gradients are being computed; None in a forward pass."""
    return _CURRENT[-1] if _CURRENT else None


@contextmanager
def full_size(place: Callable[[], str] = lambda: "") -> Iterator[FullSize]:
    """Within the block the device "cuda" has tensors without values; `place` says of what an operator is counted."""
    keeps_parameters = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    _forget_grids()
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    try:
        with ExitStack() as stack:
            for target, value in {
                "torch.cuda.amp.common.amp_definitely_not_available": lambda: False,
                "torch.cuda.is_bf16_supported": lambda *_, **__: True,
                "torch.Tensor.backward": backward,
                "torch.nn.functional.scaled_dot_product_attention": fused_attention,
                # Lists of tensors without values go one by one otherwise.
                "torch.nn.utils.clip_grad._has_foreach_support": lambda *_: True,
            }.items():
                stack.enter_context(patch(target, value))
            stack.enter_context(fake)
            stack.enter_context(_WithoutPinning())
            yield stack.enter_context(FullSize(fake, place))
    finally:
        _forget_grids()
        torch.__future__.set_overwrite_module_params_on_conversion(keeps_parameters)


def _forget_grids() -> None:
    """Those of one device aren't those of the other."""
    token_grid.cache_clear()
