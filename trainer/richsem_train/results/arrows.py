"""Arrows at boxes: where they lie within the picture, clear of labels and of each other, and how they are drawn."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import ImageDraw

from richsem_train.results.labels import Colour, Rectangle, Style, covered

Point = tuple[float, float]

_LENGTHS = (1.0, 0.7, 0.5)
"""Of an arrow, best first, as shares of what suits the picture."""

_HEAD_LENGTH, _HEAD_WIDTH, _SHAFT_WIDTH = 0.5, 0.55, 0.2
"""As shares of the arrow's length."""

_ALONG_EDGE = (0.5, 0.25, 0.75)
"""Where on a box's edge an arrow may point, best first."""

_DIAGONAL = math.sqrt(0.5)

_LABEL_COST, _ARROW_COST, _INSIDE_COST, _LENGTH_COST, _LINE_COST, _ORDER_COST = 8.0, 8.0, 3.0, 1.0, 0.5, 0.01
"""Of covering a label or an arrow whole, of pointing from inside of the box, of each step to a shorter arrow, of each
line of another box that is crossed, of each place further down the list."""


@dataclass(frozen=True)
class Arrow:
    """Both ends of an arrow, pixels."""

    tip: Point
    tail: Point

    @property
    def length(self) -> float:
        """Pixels."""
        return math.dist(self.tip, self.tail)

    @property
    def polygon(self) -> list[Point]:
        """Its seven corners."""
        length = self.length
        along = ((self.tip[0] - self.tail[0]) / length, (self.tip[1] - self.tail[1]) / length)
        neck = length * (1 - _HEAD_LENGTH)
        shaft, head = length * _SHAFT_WIDTH / 2, length * _HEAD_WIDTH / 2
        corners = ((0, shaft), (neck, shaft), (neck, head), (length, 0), (neck, -head), (neck, -shaft), (0, -shaft))
        return [
            (self.tail[0] + far * along[0] - aside * along[1], self.tail[1] + far * along[1] + aside * along[0])
            for far, aside in corners
        ]

    @property
    def rectangle(self) -> Rectangle:
        """What it takes of the picture."""
        xs, ys = zip(*self.polygon, strict=True)
        return min(xs), min(ys), max(xs), max(ys)


def place_arrows(
    boxes: Sequence[Rectangle],
    pointed_at: Sequence[int],
    size: tuple[int, int],
    style: Style,
    labels: Sequence[Rectangle],
) -> list[Arrow | None]:
    """Find an arrow a place at each of some boxes: whole within the picture and off its rim.

    It points at the box from outside, or where there is no room from inside at one of its edges.

    Args:
        boxes: all that are drawn, within the picture.
        pointed_at: indexes of those that get an arrow, the most important first.
        size: width and height of the picture.
        style: of the picture.
        labels: what is to be kept clear.

    Returns:
        An arrow for each index; None in pictures that are too narrow for any.
    """
    placed: list[Arrow | None] = []
    taken: list[Rectangle] = []
    for index in pointed_at:
        others = [box for position, box in enumerate(boxes) if position != index]
        candidates = [
            (base + _cost(arrow.rectangle, others, labels, taken), arrow)
            for base, arrow in _candidates(boxes[index], style)
            if _is_within(arrow.rectangle, size, style)
        ]
        best = min(candidates, key=lambda candidate: candidate[0], default=(0.0, None))[1]
        placed.append(best)
        if best is not None:
            taken.append(best.rectangle)
    return placed


def draw_arrow(draw: ImageDraw.ImageDraw, arrow: Arrow, colour: Colour, casing: Colour, style: Style) -> None:
    """Draw an arrow with a casing that keeps it visible on any ground."""
    corners = arrow.polygon
    # The casing lies around it: the arrow itself keeps its tip.
    draw.line([*corners, corners[0], corners[1]], fill=casing, width=2 * _casing(style) + 1, joint="curve")
    draw.polygon(corners, fill=colour)


def _casing(style: Style) -> int:
    return max(2, style.line)


def _candidates(box: Rectangle, style: Style) -> Iterator[tuple[float, Arrow]]:
    """Arrows at a box, with what speaks against each."""
    for steps, share in enumerate(_LENGTHS):
        for is_inside in (False, True):
            for order, (edge, (x, y)) in enumerate(_tips(box)):
                # From outside the tail lies away from the box, from inside, where its line is, within it.
                gap = -3 * style.line if is_inside else style.line
                reach = gap + math.copysign(share * style.arrow, gap)
                arrow = Arrow((edge[0] + gap * x, edge[1] + gap * y), (edge[0] + reach * x, edge[1] + reach * y))
                yield _INSIDE_COST * is_inside + _LENGTH_COST * steps + _ORDER_COST * order, arrow


def _tips(box: Rectangle) -> Iterator[tuple[Point, Point]]:
    """Points of a box's edges, each with the direction that leads away from the box."""
    left, top, right, bottom = box
    for share in _ALONG_EDGE:
        x, y = left + share * (right - left), top + share * (bottom - top)
        yield (right, y), (1, 0)
        yield (left, y), (-1, 0)
        yield (x, bottom), (0, 1)
        yield (x, top), (0, -1)
    for corner, to_right, to_bottom in (
        ((right, bottom), 1, 1), ((left, bottom), -1, 1), ((right, top), 1, -1), ((left, top), -1, -1)
    ):  # fmt: skip
        yield corner, (to_right * _DIAGONAL, to_bottom * _DIAGONAL)


def _is_within(rectangle: Rectangle, size: tuple[int, int], style: Style) -> bool:
    rim = 2 * _casing(style)
    left, top, right, bottom = rectangle
    return left >= rim and top >= rim and right <= size[0] - 1 - rim and bottom <= size[1] - 1 - rim


def _cost(
    arrow: Rectangle, others: Sequence[Rectangle], labels: Sequence[Rectangle], arrows: Sequence[Rectangle]
) -> float:
    area = (arrow[2] - arrow[0]) * (arrow[3] - arrow[1])
    crossed = sum(_crosses(arrow, other) for other in others)
    return (
        _LABEL_COST * covered(arrow, labels) / area + _ARROW_COST * covered(arrow, arrows) / area + _LINE_COST * crossed
    )


def _crosses(rectangle: Rectangle, box: Rectangle) -> bool:
    """Whether some of a box's line lies in a rectangle."""
    left, top, right, bottom = rectangle
    meets = left <= box[2] and right >= box[0] and top <= box[3] and bottom >= box[1]
    is_in_it = left > box[0] and right < box[2] and top > box[1] and bottom < box[3]
    return meets and not is_in_it
