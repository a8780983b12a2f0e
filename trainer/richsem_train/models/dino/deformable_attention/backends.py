"""Which implementation samples, and the one function they all stand behind."""

import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import torch
from torch import Tensor

from richsem_schemas.errors import RichSemError
from richsem_train.choices import Backend
from richsem_train.models.dino.deformable_attention import torch_backend

_KERNEL_DEVICE = "cuda"
_TRIED_TYPES = (torch.float32, torch.bfloat16)
"""Of values in the precisions of training."""
_LONGEST_FAULT = 200


@dataclass(frozen=True)
class LayerSizes:
    """Sizes that the kernel is compiled for; by default the paper's.

    Attributes:
        heads: of a layer.
        channels: of a head.
        levels: maps.
        points: that a head looks at in each map.
    """

    heads: int = 8
    channels: int = 32
    levels: int = 4
    points: int = 4


_PAPERS = LayerSizes()


def choose_backend(requested: Literal["auto", Backend], device: torch.device, sizes: LayerSizes = _PAPERS) -> Backend:
    """The backend for a device; `auto` is `triton` on CUDA, `torch-checkpoint` where that doesn't work, else `torch`.

    Args:
        requested: `auto`, or the name of a backend, which is then checked.
        device: where the model runs.
        sizes: of its layers; the kernel is tried with them, once in a process.

    Raises:
        RichSemError: an unknown name, or a backend that can't run on this device.
    """
    if requested == "auto":
        if device.type != _KERNEL_DEVICE:
            return "torch"
        return "triton" if kernel_fault(device, sizes) is None else "torch-checkpoint"
    if requested not in get_args(Backend):
        raise RichSemError(
            f"deformable attention backend {requested!r} does not exist; "
            f"choose one of auto, {', '.join(get_args(Backend))}"
        )
    if requested == "triton":
        _require_kernel(device, sizes)
    return requested


def fallback_note(requested: Literal["auto", Backend], device: torch.device, sizes: LayerSizes = _PAPERS) -> str | None:
    """A line for the user where `auto` takes less than it would like to; arguments as `choose_backend`'s."""
    if requested != "auto" or choose_backend(requested, device, sizes) != "torch-checkpoint":
        return None
    return (
        f"deformable attention: torch-checkpoint, slower and with more memory than triton, whose kernel does not work "
        f"on {str(device)!r}: {kernel_fault(device, sizes)}"
    )


@cache
def kernel_fault(device: torch.device, sizes: LayerSizes) -> str | None:
    """The fault of the kernel here, in a line; None where a small forward and backward pass give what they must.

    Args:
        device: to try it on.
        sizes: to try it with, so that what is compiled is what a model of these sizes needs.
    """
    if not _has_triton():
        return "the package triton is not installed"
    try:
        # Whoever asks may be in the middle of an evaluation, and the answer is that of the process.
        with _compiler_silenced(), torch.inference_mode(False), torch.enable_grad():
            return None if all(_kernel_adds_up(device, sizes, each) for each in _TRIED_TYPES) else "its sums are wrong"
    # Whatever a compiler, a driver or a device may raise: the run can do without the kernel.
    except Exception as error:
        first_line = (str(error).strip() or "no message").splitlines()[0]
        return f"{type(error).__name__}: {first_line}"[:_LONGEST_FAULT]


def _kernel_adds_up(device: torch.device, sizes: LayerSizes, value_type: torch.dtype) -> bool:
    """Whether a weighted mean of ones is one, and whether each sample's gradient goes to the values in full."""
    shapes = ((2, 2),) * sizes.levels
    value = torch.ones(
        1, 4 * sizes.levels, sizes.heads, sizes.channels, device=device, dtype=value_type, requires_grad=True
    )
    middles = torch.full((1, 3, sizes.heads, sizes.levels, sizes.points, 2), 0.5, device=device, requires_grad=True)
    weights = torch.full_like(middles[..., 0], 1 / (sizes.levels * sizes.points))
    sampled = deformable_attention(value, shapes, middles, weights, backend="triton")
    (grad_value,) = torch.autograd.grad(sampled.sum(), value)
    found = torch.stack([sampled.float().amin(), sampled.float().amax(), grad_value.float().sum() / sampled.numel()])
    return bool((found - 1).abs().max() < 0.02)


@contextmanager
def _compiler_silenced() -> Iterator[None]:
    """Nothing reaches the process's stderr: what Triton can't compile, its compiler prints there in full."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _require_kernel(device: torch.device, sizes: LayerSizes) -> None:
    if not _has_triton():
        raise RichSemError(
            "deformable attention backend 'triton' needs the package triton, which is not installed; "
            "install it, or choose 'auto' or 'torch-checkpoint'"
        )
    if device.type != _KERNEL_DEVICE and not _interprets_triton():
        raise RichSemError(
            f"deformable attention backend 'triton' runs on CUDA devices, not on {device.type!r}; "
            "choose 'auto' or 'torch'"
        )
    if fault := kernel_fault(device, sizes):
        raise RichSemError(
            f"deformable attention backend 'triton' does not work on {str(device)!r} ({fault}); choose 'auto' or "
            "'torch-checkpoint', or install another version of triton"
        )


def deformable_attention(
    value_BSHD: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations_BQHLP2: Tensor,
    attention_weights_BQHLP: Tensor,
    *,
    backend: Backend,
) -> Tensor:
    """Each query's weighted sum of bilinear samples of the maps, head by head.

    Args:
        value_BSHD: the L maps, flattened row by row and laid end to end, S positions; H heads of D channels each;
            float32, float64, bfloat16 or float16.
        spatial_shapes: (height, width) of each map; Python integers, so that nothing waits for the device.
        sampling_locations_BQHLP2: (x, y) of P points a map, relative to the map's size: (0, 0) is its outer upper left
            corner, (1, 1) its outer lower right one. Outside of the map the value is zero.
        attention_weights_BQHLP: of the points; the caller has normalised them over maps and points.
        backend: as `choose_backend` gave it.

    Returns:
        [B, Q, H*D] in the type of the value; sums are of float32 at least, whatever the types and autocast.

    Raises:
        ValueError: shapes that don't belong together.

    Source:
        Zhu et al. 2020 (arXiv 2010.04159), equation 3. The gradient of a location on the line where two cells meet is
        that of the cell to its lower right.
    """
    _check_shapes(value_BSHD, spatial_shapes, sampling_locations_BQHLP2, attention_weights_BQHLP)
    shapes = tuple((int(height), int(width)) for height, width in spatial_shapes)
    exact = torch.float64 if value_BSHD.dtype == torch.float64 else torch.float32
    locations_BQHLP2 = sampling_locations_BQHLP2.to(exact)
    weights_BQHLP = attention_weights_BQHLP.to(exact)
    with torch.autocast(value_BSHD.device.type, enabled=False):
        if backend == "triton":
            # Triton is an optional package.
            from richsem_train.models.dino.deformable_attention.triton_backend import sample as sample_by_kernel  # noqa: PLC0415

            return sample_by_kernel(value_BSHD, shapes, locations_BQHLP2, weights_BQHLP)
        sample = torch_backend.sample if backend == "torch" else torch_backend.sample_checkpointed
        return sample(value_BSHD.to(exact), shapes, locations_BQHLP2, weights_BQHLP).to(value_BSHD.dtype)


def _check_shapes(
    value_BSHD: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations_BQHLP2: Tensor,
    attention_weights_BQHLP: Tensor,
) -> None:
    batch, positions, heads, _ = value_BSHD.shape
    _, queries, _, levels, points, _ = sampling_locations_BQHLP2.shape
    if sum(height * width for height, width in spatial_shapes) != positions:
        raise ValueError(f"the value has {positions} positions, maps of {tuple(spatial_shapes)} have another number")
    if (batch, queries, heads, len(spatial_shapes), points, 2) != tuple(sampling_locations_BQHLP2.shape):
        raise ValueError(
            f"sampling locations of shape {tuple(sampling_locations_BQHLP2.shape)} don't fit a value of shape "
            f"{tuple(value_BSHD.shape)} over {len(spatial_shapes)} maps"
        )
    if (batch, queries, heads, levels, points) != tuple(attention_weights_BQHLP.shape):
        raise ValueError(
            f"attention weights of shape {tuple(attention_weights_BQHLP.shape)} don't fit sampling locations of shape "
            f"{tuple(sampling_locations_BQHLP2.shape)}"
        )


def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _interprets_triton() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"
