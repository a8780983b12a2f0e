"""Sampling as a Triton kernel, forward and backward; samples live in registers only.

Letters: B pictures, S positions of all maps, H heads, D channels a head, Q queries, L maps, P points;
L3: height, width and first position of each map.

The gradient of the value is added up atomically, so its last bits differ from run to run, as they do with PyTorch's
`grid_sample` on CUDA.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import triton  # type: ignore[import-untyped]
from torch import Tensor

from richsem_train.devices import on_device
from richsem_train.models.dino.deformable_attention.torch_backend import Shapes
from richsem_train.models.dino.deformable_attention.triton_kernels import backward_kernel, forward_kernel

TILE_ELEMENTS = 1024
"""Rows times channels of one program: eight elements a thread, so that one load of a bfloat16 map fills 16 bytes."""
WARPS = 4
"""Of a program; both are not swept yet: no device was at hand."""
_SHAPES_KEPT = 64


def sample(value_BSHD: Tensor, shapes: Shapes, locations_BQHLP2: Tensor, weights_BQHLP: Tensor) -> Tensor:
    """Sample, with gradients for all three tensors; an operator of PyTorch, which `torch.compile` takes as it is.

    Args:
        value_BSHD: any floating type.
        shapes: (height, width) of each map.
        locations_BQHLP2: float32; float64 for a value of float64.
        weights_BQHLP: as the locations.

    Returns:
        [B, Q, H*D] in the type of the value.
    """
    sides = [side for shape in shapes for side in shape]
    sampled: Tensor = _forward(
        value_BSHD.contiguous(), locations_BQHLP2.contiguous(), weights_BQHLP.contiguous(), sides
    )
    return sampled


# Schemas are made of these signatures: of the maps' heights and widths in turn.
@torch.library.custom_op("richsem_train::deformable_attention", mutates_args=())
def _forward(value: Tensor, locations: Tensor, weights: Tensor, sides: Sequence[int]) -> Tensor:
    out_BQE = _like_the_output(value, locations, weights, sides)
    _launch(forward_kernel, value, locations, weights, sides, out_BQE)
    return out_BQE


@_forward.register_fake
def _like_the_output(value: Tensor, locations: Tensor, weights: Tensor, sides: Sequence[int]) -> Tensor:  # noqa: ARG001 -- the operator's
    batch, _, heads, channels = value.shape
    return value.new_empty(batch, locations.shape[1], heads * channels)


@torch.library.custom_op("richsem_train::deformable_attention_backward", mutates_args=())
def _backward(
    grad_out: Tensor, value: Tensor, locations: Tensor, weights: Tensor, sides: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    # Hundreds of queries meet in one cell of a coarse map: their sum needs more bits than a bfloat16 has.
    grad_value_BSHD = torch.zeros_like(value, dtype=locations.dtype)
    grad_locations, grad_weights = torch.empty_like(locations), torch.empty_like(weights)
    _launch(
        backward_kernel,
        value,
        locations,
        weights,
        sides,
        grad_out.contiguous(),
        grad_value_BSHD,
        grad_locations,
        grad_weights,
    )
    return grad_value_BSHD.to(value.dtype), grad_locations, grad_weights


@_backward.register_fake
def _like_the_gradients(
    grad_out: Tensor,  # noqa: ARG001 -- the operator's
    value: Tensor,
    locations: Tensor,
    weights: Tensor,
    sides: Sequence[int],  # noqa: ARG001 -- the operator's
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(value), torch.empty_like(locations), torch.empty_like(weights)


def _keep_for_backward(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Sequence[int]], output: Tensor) -> None:  # noqa: ARG001
    *tensors, ctx.sides = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    return *_backward(grad_out, *ctx.saved_tensors, ctx.sides), None


_forward.register_autograd(_gradients, setup_context=_keep_for_backward)


@lru_cache(_SHAPES_KEPT)
def _maps(sides: tuple[int, ...], device: torch.device) -> Tensor:
    """Height, width and first position of each map, int32 [L, 3]."""
    heights_and_widths_L2 = torch.tensor(sides, dtype=torch.int32).view(-1, 2)
    areas_L = heights_and_widths_L2.prod(1, dtype=torch.int32)
    firsts_L = areas_L.cumsum(0, dtype=torch.int32) - areas_L
    # A tensor, since a kernel with the sizes in it would be compiled anew for each size of pictures.
    return on_device(torch.cat([heights_and_widths_L2, firsts_L[:, None]], dim=1), device)


def _launch(
    kernel: Any,
    value_BSHD: Tensor,
    locations_BQHLP2: Tensor,
    weights_BQHLP: Tensor,
    sides: Sequence[int],
    *others: Tensor,
) -> None:
    batch, positions, heads, channels = value_BSHD.shape
    queries, levels, points = locations_BQHLP2.shape[1], weights_BQHLP.shape[3], weights_BQHLP.shape[4]
    rows = batch * queries * heads
    if rows == 0 or channels == 0:
        return
    tile_channels = triton.next_power_of_2(channels)
    tile_rows = max(1, TILE_ELEMENTS // tile_channels)
    with torch.cuda.device_of(value_BSHD):
        kernel[(triton.cdiv(rows, tile_rows),)](
            value_BSHD,
            _maps(tuple(sides), value_BSHD.device),
            locations_BQHLP2,
            weights_BQHLP,
            *others,
            rows,
            queries,
            positions,
            HEADS=heads,
            CHANNELS=channels,
            LEVELS=levels,
            POINTS=points,
            TILE_ROWS=tile_rows,
            TILE_CHANNELS=tile_channels,
            num_warps=WARPS,
            # As it was by default up to Triton 3.9: one kernel on every version.
            enable_fp_fusion=True,
        )
