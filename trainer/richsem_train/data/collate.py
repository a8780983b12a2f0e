"""Samples side by side."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from richsem_train.data.transforms import Rendering, drawn
from richsem_train.targets import Batch, Target


class Sample(NamedTuple):
    """One picture as a dataset gives it.

    Attributes:
        picture: to be drawn, or uint8 [3, H, W] RGB.
        target: the truth about it.
        name: for messages.
        damage: a message for each damaged picture that this one took the place of.
    """

    picture: Rendering | Tensor
    target: Target
    name: str
    damage: tuple[str, ...] = ()

    @property
    def pixels(self) -> Tensor:
        """Uint8 [3, H, W] RGB."""
        return drawn(self.picture) if isinstance(self.picture, Rendering) else self.picture


def collate(samples: Sequence[Sample]) -> Batch:
    """Pad pictures at the right and the bottom to the largest height and width among them."""
    pictures = Canvas(len(samples))
    for sample in samples:
        pictures.add(sample.picture)
    pixels_BHW3 = pictures.padded()
    return Batch(
        pixels=channels_last(pixels_BHW3),
        padding_mask=padding_mask(pictures.hws, pixels_BHW3.shape[1:3]),
        targets=tuple(sample.target for sample in samples),
        names=tuple(sample.name for sample in samples),
    )


class Canvas:
    """Pictures side by side, drawn one after the other where they belong.

    Pictures of the size of the first one are drawn in their final place, as long as no other turns out to be larger.

    Args:
        count: pictures, at most.
        room: memory for all of them, uint8 [N]; where it is too small, or None, there is new memory.

    Attributes:
        hws: height and width of the pictures so far.
    """

    def __init__(self, count: int, room: NDArray[np.uint8] | None = None) -> None:
        self.hws: list[tuple[int, int]] = []
        self._count = count
        self._room = room
        self._in_place: NDArray[np.uint8] | None = None
        self._others: dict[int, NDArray[np.uint8]] = {}

    def add(self, picture: Rendering | Tensor) -> None:
        """Draw the next picture."""
        rendering = _copied(picture) if isinstance(picture, Tensor) else picture
        number, hw = len(self.hws), rendering.hw
        if self._in_place is None:
            self._in_place = self._pages(hw)
        if hw == self._in_place.shape[1:3]:
            rendering.draw(self._in_place[number])
        else:
            self._others[number] = np.empty((*hw, 3), np.uint8)
            rendering.draw(self._others[number])
        self.hws.append(hw)

    def padded(self) -> NDArray[np.uint8]:
        """All of them, uint8 [B, H, W, 3], 0 where padded; no other may follow."""
        assert self._in_place is not None, "batches have pictures"
        height, width = (max(sides) for sides in zip(*self.hws, strict=True))
        pages, rest = self._in_place, self._others
        if (height, width) != pages.shape[1:3]:
            rest |= {number: pages[number].copy() for number in range(len(self.hws)) if number not in rest}
            pages = self._pages((height, width))
        for number, pixels_HW3 in rest.items():
            rows, columns = pixels_HW3.shape[:2]
            pages[number, :rows, :columns] = pixels_HW3
            pages[number, :rows, columns:] = 0
            pages[number, rows:] = 0
        return pages[: len(self.hws)]

    def _pages(self, hw: tuple[int, int]) -> NDArray[np.uint8]:
        shape = (self._count, *hw, 3)
        size = int(np.prod(shape))
        if self._room is None or size > len(self._room):
            return np.empty(shape, np.uint8)
        return self._room[:size].reshape(shape)


def _copied(pixels_3HW: Tensor) -> Rendering:
    pixels_HW3 = pixels_3HW.permute(1, 2, 0).numpy()
    return Rendering(pixels_HW3.shape[:2], lambda onto_HW3: np.copyto(onto_HW3, pixels_HW3))


def channels_last(pixels_BHW3: NDArray[np.uint8]) -> Tensor:
    """Uint8 [B, 3, H, W] that looks at the same memory: convolutions like their channels last there."""
    return torch.from_numpy(pixels_BHW3).permute(0, 3, 1, 2)


def padding_mask(hws: Sequence[tuple[int, int]], padded_hw: tuple[int, int], *, pinned: bool = False) -> Tensor:
    """Bool [B, H, W], True beyond the height and width of each picture; not to be written to, others may have it."""
    return _padding_mask(tuple(hws), padded_hw, pinned)


# Batches of mosaics are all alike; those of detection come between them.
@functools.lru_cache(maxsize=2)
def _padding_mask(hws: tuple[tuple[int, int], ...], padded_hw: tuple[int, int], pinned: bool) -> Tensor:
    mask_BHW = torch.zeros(len(hws), *padded_hw, dtype=torch.bool, pin_memory=pinned)
    for mask_HW, (rows, columns) in zip(mask_BHW, hws, strict=True):
        mask_HW[:rows, columns:] = True
        mask_HW[rows:] = True
    return mask_BHW
