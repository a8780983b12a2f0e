"""The way to a device, and what devices can't do: CUDA's can do all that is asked of them here, Macs', MPS, can't.

No Mac has run this: it follows what PyTorch's own tables and issues say of MPS.
"""

import torch
from torch import Tensor


def is_mps(device: torch.device) -> bool:
    """Whether it is the GPU of a Mac."""
    return device.type == "mps"


def copies_late(device: torch.device) -> bool:
    """Whether tensors may still be on their way there or back when the host goes on.

    MPS would let the host read what has not come yet, and give memory away that is still being copied.
    """
    return not is_mps(device)


def sent(values: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Values on a device, of their type or another; the host goes on before they are there, where it may."""
    return values.to(device=device, dtype=dtype, non_blocking=copies_late(device))


def on_device(values: Tensor, device: torch.device) -> Tensor:
    """Small values made on the host, on a device; pinned on the way to CUDA, where pageable memory is waited for."""
    return sent(values.pin_memory() if device.type == "cuda" else values, device)


def convolution_format(device: torch.device) -> torch.memory_format:
    """In which order pixels and convolutions' weights lie: channels last, but for MPS, which turns them round first."""
    return torch.contiguous_format if is_mps(device) else torch.channels_last


def fused_adamw_skips(device: torch.device) -> bool:
    """Whether AdamW's fused kernel leaves out a step where it is told to.

    MPS's took it all the same until June 2026 (pytorch/pytorch#186360).
    """
    return not is_mps(device)


def in_float64(values: Tensor) -> Tensor:
    """Values in float64, which MPS has not: those of MPS come to the host."""
    return (values.cpu() if is_mps(values.device) else values).double()


def samples_backwards(device: torch.device) -> bool:
    """Whether `grid_sample` has a backward pass there, as MPS has in newer versions of PyTorch alone."""
    return not is_mps(device) or torch._C._dispatch_has_kernel_for_dispatch_key("aten::grid_sampler_2d_backward", "MPS")
