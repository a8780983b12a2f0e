"""Samples side by side."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from richsem_train.data.transforms import Rendering, drawn
from richsem_train.targets import Batch, Target

Truth = Target | Callable[[], Target]
"""A target, or what makes it."""


def target_of_truth(truth: Truth) -> Target:
    """The target, made now where it isn't yet."""
    return truth if isinstance(truth, Target) else truth()


class Sample(NamedTuple):
    """One picture as a dataset gives it.

    Attributes:
        picture: to be drawn, or uint8 [3, H, W] RGB.
        truth: about it.
        name: for messages.
        damage: a message for each damaged picture that this one took the place of.
    """

    picture: Rendering | Tensor
    truth: Truth
    name: str
    damage: tuple[str, ...] = ()

    @property
    def pixels(self) -> Tensor:
        """Uint8 [3, H, W] RGB."""
        return drawn(self.picture) if isinstance(self.picture, Rendering) else self.picture

    @property
    def target(self) -> Target:
        """The truth about it."""
        return target_of_truth(self.truth)


def collate(samples: Sequence[Sample]) -> Batch:
    """Pad pictures at the right and the bottom to the largest height and width among them."""
    canvas = Canvas(len(samples), largest_hw=_largest([_hw(sample.picture) for sample in samples]))
    for sample in samples:
        canvas.add(sample.picture)
    pixels_BHW3 = canvas.padded()
    return Batch(
        # Convolutions like their channels last in memory, and rendering has them there.
        pixels=torch.from_numpy(pixels_BHW3).permute(0, 3, 1, 2),
        targets=tuple(sample.target for sample in samples),
        names=tuple(sample.name for sample in samples),
    )


class Canvas:
    """Pictures side by side, padded, and drawn one after the other where they belong.

    Args:
        count: pictures.
        room: memory for all of them, uint8 [N]; where it is too small, or None, there is new memory.
        largest_hw: what their sides are expected to be at most; None expects them to be as the first picture's. Where
            it is another, pictures are moved in the end.

    Attributes:
        hws: height and width of the pictures so far.
    """

    def __init__(
        self, count: int, room: NDArray[np.uint8] | None = None, largest_hw: tuple[int, int] | None = None
    ) -> None:
        self.hws: list[tuple[int, int]] = []
        self._count = count
        self._room = room
        self._pages = None if largest_hw is None else self._new_pages(largest_hw)
        self._too_large: dict[int, NDArray[np.uint8]] = {}

    def add(self, picture: Rendering | Tensor) -> None:
        """Draw the next picture."""
        rendering = _copied(picture) if isinstance(picture, Tensor) else picture
        number, (rows, columns) = len(self.hws), rendering.hw
        if self._pages is None:
            self._pages = self._new_pages(rendering.hw)
        height, width = self._pages.shape[1:3]
        if rows <= height and columns <= width:
            rendering.draw(self._pages[number, :rows, :columns])
        else:
            self._too_large[number] = np.empty((rows, columns, 3), np.uint8)
            rendering.draw(self._too_large[number])
        self.hws.append(rendering.hw)

    def padded(self) -> NDArray[np.uint8]:
        """All of them, uint8 [B, H, W, 3]; anything where padded."""
        assert self._pages is not None, "a batch has pictures"
        largest_hw = _largest(self.hws)
        return self._pages if largest_hw == self._pages.shape[1:3] else self._moved(self._pages, largest_hw)

    def _moved(self, pages: NDArray[np.uint8], largest_hw: tuple[int, int]) -> NDArray[np.uint8]:
        # Both may lie in the same room.
        pictures = self._too_large | {
            number: pages[number, :rows, :columns].copy()
            for number, (rows, columns) in enumerate(self.hws)
            if number not in self._too_large
        }
        moved = self._new_pages(largest_hw)
        for number, (rows, columns) in enumerate(self.hws):
            moved[number, :rows, :columns] = pictures[number]
        return moved

    def _new_pages(self, hw: tuple[int, int]) -> NDArray[np.uint8]:
        return _within(self._room, (self._count, *hw, 3))


def _within(room: NDArray[np.uint8] | None, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The beginning of a room, or new memory where that has not enough."""
    size = math.prod(shape)
    return np.empty(shape, np.uint8) if room is None or size > len(room) else room[:size].reshape(shape)


def _largest(hws: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return max(height for height, _ in hws), max(width for _, width in hws)


def _hw(picture: Rendering | Tensor) -> tuple[int, int]:
    if isinstance(picture, Rendering):
        return picture.hw
    _, height, width = picture.shape
    return height, width


def _copied(pixels_3HW: Tensor) -> Rendering:
    return Rendering(_hw(pixels_3HW), partial(np.copyto, src=pixels_3HW.permute(1, 2, 0).numpy()))
