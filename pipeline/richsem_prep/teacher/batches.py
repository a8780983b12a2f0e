"""Batches of a stream of views: which regions go together is a function of the stream alone, answers come in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from richsem_prep.teacher.device_forward import UnderWay

IN_FLIGHT = 2
"""Batches on the device while the next one is put together."""

_MOST_BEHIND = 1024
"""Views that may overtake one that waits for others of its size: embeddings are handed out in order, and those of so
many are held."""

_Item = TypeVar("_Item")
"""What a caller knows a view by; handed through."""


@dataclass(frozen=True, eq=False)
class PreparedView:
    """One view, ready for the device.

    Attributes:
        images: uint8 [1, H, W, 3] for `roi-align`, [R, H, W, 3] for `crop`.
        boxes_xyxy_px: [R, 4] float32 on the image, for `roi-align`.
    """

    images: NDArray[np.uint8]
    boxes_xyxy_px: NDArray[np.float32]


@dataclass(frozen=True, eq=False, slots=True)
class Part:
    """A view, or some of its regions, in one batch.

    Attributes:
        number: of the view in the stream.
        images: uint8 [N, H, W, 3], as the view has them.
        boxes_xyxy_px: [R, 4] float32, of the regions that the batch gives embeddings of.
    """

    number: int
    images: NDArray[np.uint8]
    boxes_xyxy_px: NDArray[np.float32]

    @property
    def regions(self) -> int:
        """Embeddings that come of it."""
        return len(self.boxes_xyxy_px)

    @property
    def hw(self) -> tuple[int, int]:
        """Of its images, pixels."""
        return self.images.shape[1], self.images.shape[2]


Batches = Callable[[Iterator[Part]], Iterator[Sequence[Part]]]
Launch = Callable[[Sequence[Part]], UnderWay]


def encoded_in_order(
    views: Iterable[tuple[_Item, PreparedView]], batches: Batches, launch: Launch, *, dim: int
) -> Iterator[tuple[_Item, NDArray[np.float32]]]:
    """Each item with the [R, D] embeddings of its view, in order, a few batches after it was taken."""
    waiting: deque[tuple[_Item, int]] = deque()
    found: deque[list[NDArray[np.float32]]] = deque()
    handed_out = 0

    def parts() -> Iterator[Part]:
        for number, (item, view) in enumerate(views):
            waiting.append((item, len(view.boxes_xyxy_px)))
            found.append([])
            if len(view.boxes_xyxy_px):
                yield Part(number, view.images, view.boxes_xyxy_px)

    def complete() -> Iterator[tuple[_Item, NDArray[np.float32]]]:
        nonlocal handed_out
        while waiting and sum(map(len, found[0])) == waiting[0][1]:
            handed_out += 1
            yield waiting.popleft()[0], np.concatenate([np.empty((0, dim), np.float32), *found.popleft()])

    for batch, features_RD in _answered(batches(parts()), launch):
        ends = np.cumsum([part.regions for part in batch])
        for part, rows in zip(batch, np.split(features_RD[: ends[-1]], ends[:-1]), strict=True):
            found[part.number - handed_out].append(rows)
        yield from complete()
    yield from complete()


def _answered(
    batches: Iterator[Sequence[Part]], launch: Launch
) -> Iterator[tuple[Sequence[Part], NDArray[np.float32]]]:
    """Batches with their embeddings, launched ahead of the one that is asked for."""
    under_way: deque[tuple[Sequence[Part], UnderWay]] = deque()
    for batch in batches:
        under_way.append((batch, launch(batch)))
        if len(under_way) > IN_FLIGHT:
            first, answer = under_way.popleft()
            yield first, answer.wait()
    for batch, answer in under_way:
        yield batch, answer.wait()


def consecutive(parts: Iterator[Part], size: int) -> Iterator[Sequence[Part]]:
    """Batches of `size` images, the last one smaller; views are cut where a batch is full. An image is a region."""
    batch: list[Part] = []
    room = size
    for part in parts:
        start = 0
        while start < part.regions:
            end = min(start + room, part.regions)
            batch.append(Part(part.number, part.images[start:end], part.boxes_xyxy_px[start:end]))
            room -= end - start
            start = end
            if not room:
                yield batch
                batch, room = [], size
    if batch:
        yield batch


def of_like_size(
    parts: Iterator[Part],
    canvas_hw: Callable[[Part], tuple[int, int]],
    size: Callable[[tuple[int, int]], int],
    *,
    most_pixels: int,
) -> Iterator[Sequence[Part]]:
    """Batches of views that fit on the same canvas, each once there are `size` of them.

    Where more than `most_pixels` wait, or one has waited for a thousand others, the oldest goes with those of its
    canvas.
    """
    # In the order of the first that waits for each canvas.
    waiting: dict[tuple[int, int], list[Part]] = {}
    pixels = 0

    def leaving(canvas: tuple[int, int]) -> Sequence[Part]:
        nonlocal pixels
        pixels -= len(waiting[canvas]) * canvas[0] * canvas[1]
        return waiting.pop(canvas)

    for part in parts:
        canvas = canvas_hw(part)
        waiting.setdefault(canvas, []).append(part)
        pixels += canvas[0] * canvas[1]
        if len(waiting[canvas]) >= size(canvas):
            yield leaving(canvas)
        while waiting and (pixels > most_pixels or part.number - _oldest(waiting).number >= _MOST_BEHIND):
            yield leaving(next(iter(waiting)))
    yield from waiting.values()


def _oldest(waiting: Mapping[tuple[int, int], Sequence[Part]]) -> Part:
    return next(iter(waiting.values()))[0]
