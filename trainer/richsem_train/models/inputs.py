"""Inputs of a detector: normalised pixels, at a precision."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from richsem_train.targets import Batch


class Normalise(nn.Module):
    """From uint8 pixels to what the backbone takes; padding becomes 0, as in DETR."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, batch: Batch) -> Tensor:
        """Float32 [B, 3, H, W], channels last in memory, which convolutions like."""
        pixels = (batch.pixels.float() / 255 - self.mean) / self.std
        return pixels.masked_fill(batch.padding_mask[:, None], 0).contiguous(memory_format=torch.channels_last)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Bfloat16 where asked for; whatever needs the digits is float32 inside."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)
