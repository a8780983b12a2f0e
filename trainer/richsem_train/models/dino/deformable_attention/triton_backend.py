"""Sampling as a Triton kernel, forward and backward; samples live in registers only.

Letters: B pictures, S positions of all maps, H heads, D channels a head, Q queries, L maps, P points;
L3: height, width and first position of each map.

The gradient of the value is added up atomically, so its last bits differ from run to run, as they do with PyTorch's
`grid_sample` on CUDA.
"""

from typing import Any

import torch
import triton  # type: ignore[import-untyped]
from torch import Tensor
from torch.autograd.function import once_differentiable

from richsem_train.models.dino.deformable_attention.torch_backend import Shapes
from richsem_train.models.dino.deformable_attention.triton_kernels import backward_kernel, forward_kernel

TILE_ELEMENTS = 1024
"""Rows times channels of one program: eight elements a thread, so that one load of a bfloat16 map fills 16 bytes."""
WARPS = 4
"""Of a program; both are not swept yet: no device was at hand."""


def sample(value_BSHD: Tensor, shapes: Shapes, locations_BQHLP2: Tensor, weights_BQHLP: Tensor) -> Tensor:
    """Sample, with gradients for all three tensors.

    Args:
        value_BSHD: any floating type.
        shapes: (height, width) of each map.
        locations_BQHLP2: float32; float64 for a value of float64.
        weights_BQHLP: as the locations.

    Returns:
        [B, Q, H*D] in the type of the value.
    """
    maps_L3 = _maps(shapes, value_BSHD.device)
    sampled: Tensor = _Sampling.apply(
        value_BSHD.contiguous(), maps_L3, locations_BQHLP2.contiguous(), weights_BQHLP.contiguous()
    )
    return sampled


class _Sampling(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, value_BSHD: Tensor, maps_L3: Tensor, locations_BQHLP2: Tensor, weights_BQHLP: Tensor
    ) -> Tensor:
        ctx.save_for_backward(value_BSHD, maps_L3, locations_BQHLP2, weights_BQHLP)
        batch, _, heads, channels = value_BSHD.shape
        out_BQE = value_BSHD.new_empty(batch, locations_BQHLP2.shape[1], heads * channels)
        _launch(forward_kernel, value_BSHD, maps_L3, locations_BQHLP2, weights_BQHLP, out_BQE)
        return out_BQE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out_BQE: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        value_BSHD, maps_L3, locations_BQHLP2, weights_BQHLP = ctx.saved_tensors
        # Hundreds of queries meet in one cell of a coarse map: their sum needs more bits than a bfloat16 has.
        grad_value_BSHD = torch.zeros_like(value_BSHD, dtype=locations_BQHLP2.dtype)
        grad_locations_BQHLP2 = torch.empty_like(locations_BQHLP2)
        grad_weights_BQHLP = torch.empty_like(weights_BQHLP)
        _launch(
            backward_kernel,
            value_BSHD,
            maps_L3,
            locations_BQHLP2,
            weights_BQHLP,
            grad_out_BQE.contiguous(),
            grad_value_BSHD,
            grad_locations_BQHLP2,
            grad_weights_BQHLP,
        )
        return grad_value_BSHD.to(value_BSHD.dtype), None, grad_locations_BQHLP2, grad_weights_BQHLP


def _maps(shapes: Shapes, device: torch.device) -> Tensor:
    first, rows = 0, []
    for height, width in shapes:
        rows.append((height, width, first))
        first += height * width
    # Pinned, since a copy from pageable memory waits for the device. A tensor, since a kernel with the sizes in it
    # would be compiled anew for each size of pictures.
    maps_L3 = torch.tensor(rows, dtype=torch.int32, pin_memory=device.type == "cuda")
    return maps_L3.to(device, non_blocking=True)


def _launch(
    kernel: Any, value_BSHD: Tensor, maps_L3: Tensor, locations_BQHLP2: Tensor, weights_BQHLP: Tensor, *others: Tensor
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
            maps_L3,
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
