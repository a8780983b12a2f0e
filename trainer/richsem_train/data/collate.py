"""Samples side by side."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from richsem_train.targets import Batch, Target


class Sample(NamedTuple):
    """One picture as a dataset gives it.

    Attributes:
        pixels: uint8 [3, H, W] RGB.
        target: the truth about it.
        name: for messages.
        damage: a message for each damaged picture that this one took the place of.
    """

    pixels: Tensor
    target: Target
    name: str
    damage: tuple[str, ...] = ()


def collate(samples: Sequence[Sample]) -> Batch:
    """Pad pictures at the right and the bottom to the largest height and width among them."""
    height, width = (max(sample.pixels.shape[axis] for sample in samples) for axis in (1, 2))
    pixels_B3HW = torch.zeros(len(samples), 3, height, width, dtype=torch.uint8)
    padding_mask_BHW = torch.ones(len(samples), height, width, dtype=torch.bool)
    for index, sample in enumerate(samples):
        _, rows, columns = sample.pixels.shape
        pixels_B3HW[index, :, :rows, :columns] = sample.pixels
        padding_mask_BHW[index, :rows, :columns] = False
    return Batch(
        pixels=pixels_B3HW,
        padding_mask=padding_mask_BHW,
        targets=tuple(sample.target for sample in samples),
        names=tuple(sample.name for sample in samples),
    )
