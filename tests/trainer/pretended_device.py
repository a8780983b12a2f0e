"""A device that isn't there: its tensors lie on the CPU and deny it, so that tests see what makes a GPU's host wait.

Between host and device everything is as with a GPU. What is made on the CPU stays there until it is copied, and the two
don't mix. PyTorch calls the device "meta"; only the tensors of a `PretendedDevice` have values on it.

Without values it holds shapes alone, so that steps of full size cost nothing, and the host reads ones. (PyTorch's fake
CUDA tensors do as well, but their backward pass asks a driver for its context, and there is none.)
"""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torchvision.ops  # noqa: F401  (its operators)
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

DEVICE, HOST = torch.device("meta"), torch.device("cpu")

_PACKAGE = "richsem_train"
_ATEN = torch.ops.aten
_INDEXING = {_ATEN.index, _ATEN.index_put, _ATEN.index_put_, _ATEN._index_put_impl_, _ATEN._unsafe_index}
_COPIES = {_ATEN._to_copy, _ATEN.copy_}
_BOOKKEEPING = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view"}
_UNTAGGED = {torch.ops.torchvision.nms}
"""Results of other packages whose shapes depend on values."""


class OnDevice(Tensor):
    """A tensor of the device.

    Attributes:
        held: its values, on the CPU.
    """

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnDevice":
        made: OnDevice = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=DEVICE,
        )
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} outside of the pretended device")


class PretendedDevice(TorchDispatchMode):
    """Runs what the block asks of the device, and counts what the host would have to wait for, and what it launches.

    Waits are operators whose results' shapes depend on values, values that the host reads, and copies to the device
    that block.

    Attributes:
        waits: how often, by operator and line.
        launches: operators that the device has something to do for, by name: neither views nor bare allocations.
    """

    def __init__(self, *, has_values: bool = True) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.launches: Counter[str] = Counter()
        self._has_values = has_values

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        leaves, structure = tree_flatten((args, kwargs))
        given = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        placed = [each for each in given if isinstance(each, OnDevice)]
        reason = _reason_to_wait(func, args, kwargs, is_device_asked=bool(placed))
        if reason is not None:
            self.waits[f"{reason} at {_line()}"] += 1
        _refuse_mixtures(func, given)
        comes_to = _where_it_comes_to(func, args, kwargs, is_device_asked=bool(placed))
        if (placed or comes_to == DEVICE) and not _is_bookkeeping(func):
            self.launches[str(func)] += 1
        args, kwargs = tree_unflatten([_held(leaf) for leaf in leaves], structure)
        if not self._has_values and (placed or comes_to == DEVICE):
            out = _shapes_alone(func, args, kwargs, comes_to)
        else:
            if kwargs.get("device") is not None:
                kwargs["device"] = HOST
            out = func(*args, **kwargs)
        if comes_to != DEVICE:
            return out
        # What works in place gives back the very tensor that it was given.
        known = {id(each.held): each for each in placed}
        return tree_map_only(Tensor, lambda each: known[id(each)] if id(each) in known else OnDevice(each), out)


class _Constructors(TorchFunctionMode):
    """What PyTorch does on its own device "meta", where values don't matter, done with values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.tolist and isinstance(args[0], OnDevice):
            return args[0].cpu().tolist()
        if func is Tensor.new_tensor and isinstance(args[0], OnDevice):
            kwargs.setdefault("dtype", args[0].dtype)
            kwargs.setdefault("device", DEVICE)
            func, args = torch.tensor, args[1:]
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], OnDevice):
            places = args[1] if isinstance(args[1], tuple) else (args[1],)
            args = (args[0], tuple(_as_index(each) for each in places), *args[2:])
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == DEVICE:
            return func(*args, **{**kwargs, "device": HOST}).to(DEVICE)
        return func(*args, **kwargs)


def _as_index(place: Any) -> Any:
    return torch.tensor(place).to(DEVICE) if isinstance(place, list) else place


@contextmanager
def pretended_device(*, has_values: bool = True) -> Iterator[PretendedDevice]:
    """Within the block the device "meta" has values, or shapes alone; everything is float32 or more there."""
    autocast = torch.autocast

    def no_autocast(device_type: str, *args: Any, **kwargs: Any) -> Any:
        return nullcontext() if device_type == DEVICE.type else autocast(device_type, *args, **kwargs)

    keeps_parameters = torch.__future__.get_overwrite_module_params_on_conversion()
    # A parameter that only got other data would keep the values it had.
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with patch("torch.autocast", no_autocast), _Constructors(), PretendedDevice(has_values=has_values) as device:
            yield device
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(keeps_parameters)


def _is_bookkeeping(func: Any) -> bool:
    """Whether it is the host's business alone: views, and memory that is set aside."""
    is_view = any(each.alias_info is not None and not each.alias_info.is_write for each in func._schema.returns)
    return is_view or func.overloadpacket.__name__ in _BOOKKEEPING


def _shapes_alone(func: Any, args: Sequence[Any], kwargs: dict[str, Any], comes_to: Any) -> Any:
    """What comes of tensors that have no values; what the host reads is 1, and nothing suppresses anything."""
    packet = func.overloadpacket
    if packet is _ATEN._local_scalar_dense:
        return 1
    if packet in _UNTAGGED:
        return torch.arange(len(args[0]), device=DEVICE)
    if packet is _ATEN._to_copy and comes_to == HOST:
        return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
    if packet is _ATEN.copy_ and comes_to == HOST:
        return args[0].fill_(1)
    if packet is _ATEN.copy_:
        return args[0]
    args, kwargs = tree_map_only(Tensor, lambda each: each.to(DEVICE), (args, kwargs))
    if packet is _ATEN._to_copy or kwargs.get("device") is not None:
        kwargs["device"] = DEVICE
    return func(*args, **kwargs)


def _held(leaf: Any) -> Any:
    return leaf.held if isinstance(leaf, OnDevice) else leaf


def _where_it_comes_to(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], *, is_device_asked: bool) -> Any:
    if func.overloadpacket is _ATEN.copy_:
        return args[0].device
    return kwargs.get("device") or (DEVICE if is_device_asked else HOST)


def _reason_to_wait(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], *, is_device_asked: bool) -> str | None:
    packet, name = func.overloadpacket, func.overloadpacket.__name__
    if packet in _COPIES:
        return _copy_that_waits(packet, args, kwargs)
    if not is_device_asked:
        return None
    if packet in _INDEXING:
        return _index_that_waits(name, args)
    if torch.Tag.data_dependent_output in func.tags:
        return f"value read by {name}"
    if torch.Tag.dynamic_output_shape in func.tags or packet in _UNTAGGED:
        return f"shape of {name}"
    return None


def _copy_that_waits(packet: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
    if packet is _ATEN.copy_:
        target, source = args[:2]
        blocks = not (args[2:] and args[2])
        goes_to = target.device
    else:
        source = args[0]
        blocks = not kwargs.get("non_blocking")
        goes_to = kwargs.get("device") or source.device
    if goes_to == source.device:
        return None
    if goes_to == HOST:
        return "values read by a copy"
    return "blocking copy to the device" if blocks else None


def _index_that_waits(name: str, args: Sequence[Any]) -> str | None:
    indices = [index for index in args[1] if index is not None]
    if any(not isinstance(index, OnDevice) for index in indices):
        return f"{name} by indices on the host"
    if all(index.dtype not in (torch.bool, torch.uint8) for index in indices):
        return None
    # Filling by a mask needs no indices.
    fills = len(args) > 2 and len(indices) == 1 and args[2].numel() == 1 and not isinstance(args[2], OnDevice)
    return None if fills else f"shape of {name} by a mask"


def _refuse_mixtures(func: Any, given: Sequence[Tensor]) -> None:
    """Raises: AssertionError, where a GPU's tensors and the CPU's would not go together, or a tensor has no values."""
    assert all(isinstance(each, OnDevice) for each in given if each.device == DEVICE), (
        f"{func} of no values at {_line()}"
    )
    if func.overloadpacket in _COPIES | _INDEXING or not any(isinstance(each, OnDevice) for each in given):
        return
    strangers = [tuple(each.shape) for each in given if not isinstance(each, OnDevice) and each.dim() > 0]
    assert not strangers, f"{func} mixes the device's tensors with the host's of shapes {strangers} at {_line()}"


def _line() -> str:
    """Which line of the package asks for it."""
    frame = sys._getframe()
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if _PACKAGE in path.parts:
            return f"{path.name}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "no line of the package"
