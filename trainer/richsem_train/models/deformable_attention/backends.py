"""Which implementation samples, and the one function they all stand behind."""

import importlib.util
import os
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from richsem_schemas.errors import RichSemError
from richsem_train.models.deformable_attention import torch_backend

Backend = Literal["torch", "torch-checkpoint", "triton"]
"""`torch` is the oracle and the fastest on a CPU, `torch-checkpoint` keeps nothing of what it sampled for the backward
pass and samples again, `triton` is a kernel for CUDA devices that never materialises the samples."""


def choose_backend(requested: Literal["auto"] | Backend, device: torch.device) -> Backend:
    """The backend for a device; `auto` is `triton` on CUDA, `torch-checkpoint` there without Triton, else `torch`.

    Args:
        requested: `auto`, or the name of a backend, which is then checked.
        device: where the model runs.

    Raises:
        RichSemError: an unknown name, or a backend that can't run on this device.
    """
    if requested == "auto":
        if device.type != "cuda":
            return "torch"
        return "triton" if _has_triton() else "torch-checkpoint"
    if requested not in get_args(Backend):
        raise RichSemError(
            f"deformable attention backend {requested!r} does not exist; "
            f"choose one of auto, {', '.join(get_args(Backend))}"
        )
    if requested == "triton" and not _has_triton():
        raise RichSemError(
            "deformable attention backend 'triton' needs the package triton, which is not installed; "
            "install it, or choose 'auto' or 'torch-checkpoint'"
        )
    if requested == "triton" and device.type != "cuda" and not _interprets_triton():
        raise RichSemError(
            f"deformable attention backend 'triton' runs on CUDA devices, not on {device.type!r}; "
            "choose 'auto' or 'torch'"
        )
    return requested


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
            from richsem_train.models.deformable_attention.triton_backend import sample as sample_by_kernel  # noqa: PLC0415

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
