"""Inputs of a detector: normalised pixels, at a precision."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from richsem_train.choices import Precision
from richsem_train.devices import convolution_format
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
        """Float32 [B, 3, H, W], in memory as convolutions like them."""
        pixels = (batch.pixels.float() / 255 - self.mean) / self.std
        return pixels.masked_fill(batch.padding_mask[:, None], 0).contiguous(
            memory_format=convolution_format(pixels.device)
        )


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Bfloat16 where asked for; whatever needs the digits is float32 inside."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


@contextmanager
def float32_products(precision: Precision) -> Iterator[None]:
    """How CUDA multiplies what is float32 within the block, forward and backward.

    Its inputs are rounded to TF32's 10 bits of mantissa with `tf32`, and not at all otherwise; PyTorch's own default
    rounds those of convolutions. Makes no difference to a CPU.
    """
    settings = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = [each.fp32_precision for each in settings]
    for each in settings:
        each.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        yield
    finally:
        for each, value in zip(settings, before, strict=True):
            each.fp32_precision = value
