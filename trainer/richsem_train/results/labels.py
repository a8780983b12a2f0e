"""Labels of boxes: how large they are, and where they lie clear of each other."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from richsem_schemas.figures.lettering import Lettering

Colour = tuple[int, int, int]

Rectangle = tuple[float, float, float, float]
"""Left, top, right, bottom, pixels."""

_SMALL_BOX = 6
"""Boxes below so many times a label's area are kept clear of labels where there is room."""

_SMALL_BOX_COST = 0.3
"""Cost of covering them, against covering another label."""

_MOST_OVERLAP = 0.2
"""Share of a label that others may cover; a label that would be covered further is left out, its box is not."""


@dataclass(frozen=True)
class Style:
    """Sizes that suit a picture, pixels.

    Attributes:
        line: width of a box's line; rare classes have half as much again.
        font: of names and scores.
        pad: around the text of a label.
        arrow: length of an arrow.
    """

    line: int
    font: Lettering
    pad: int
    arrow: int

    @classmethod
    def of(cls, size: tuple[int, int]) -> "Style":
        """Lines and letters in proportion to a picture of this width and height."""
        scale = math.sqrt(size[0] * size[1])
        points = min(max(12.0, scale * 0.023), 64.0)
        return cls(
            line=max(2, round(scale * 0.003)),
            font=Lettering(points),
            pad=max(2, round(points / 6)),
            arrow=max(24, round(scale * 0.08)),
        )


def place_labels(
    boxes: Sequence[Rectangle], texts: Sequence[str], size: tuple[int, int], style: Style
) -> list[tuple[Rectangle, str] | None]:
    """Find each label a place at its box, inside of the picture and clear of the labels before it.

    Texts are cut to the width of the picture. Returns the label's rectangle and text; None where it would cover others.
    """
    placed: list[tuple[Rectangle, str] | None] = []
    taken: list[Rectangle] = []
    for box, full_text in zip(boxes, texts, strict=True):
        text = shortened(full_text, size[0] - 2 * style.pad, style)
        width, height = _label_size(text, style)
        corners = _label_corners(box, width, height)
        candidates = [_moved_within((x, y, x + width, y + height), size) for x, y in corners]
        small = [other for other in boxes if _area(other) < _SMALL_BOX * width * height]
        # In steps of a twentieth of the label: a touch is no reason to move away.
        costs = [
            (covered(one, taken) + _SMALL_BOX_COST * covered(one, small)) // (width * height / 20) for one in candidates
        ]
        best = candidates[costs.index(min(costs))]
        if covered(best, taken) > _MOST_OVERLAP * width * height:
            placed.append(None)
        else:
            placed.append((best, text))
            taken.append(best)
    return placed


def shortened(text: str, width: float, style: Style) -> str:
    """Shorten a text to a width; of `name 0.87` the score stays."""
    if style.font.getlength(text) <= width:
        return text
    head, _, tail = text.rpartition(" ")
    tail = f" {tail}" if head and tail.replace(".", "").isdigit() else ""
    head = text[: len(text) - len(tail)]
    while head and style.font.getlength(f"{head}...{tail}") > width:
        head = head[:-1].rstrip()
    return f"{head}...{tail}"


def _label_size(text: str, style: Style) -> tuple[int, int]:
    return math.ceil(style.font.getlength(text)) + 2 * style.pad, style.font.height() + style.pad


def _label_corners(box: Rectangle, width: float, height: float) -> list[tuple[float, float]]:
    """Where the label's own corner may lie, best first: above the box, inside, below, beside, then rows further off."""
    left, top, right, bottom = box
    return [
        (left, top - height),
        (left, top),
        (right - width, top - height),
        (right - width, top),
        (left, bottom),
        (left, bottom - height),
        (right - width, bottom),
        (right - width, bottom - height),
        (right, top),
        (left - width, top),
        (left, top - 2 * height),
        (left, top + height),
        (left, bottom + height),
        (left + (right - left - width) / 2, top + (bottom - top - height) / 2),
    ]


def _moved_within(rectangle: Rectangle, size: tuple[int, int]) -> Rectangle:
    """Shift a rectangle into the canvas; one larger than the canvas keeps to its left and top."""
    left, top, right, bottom = rectangle
    width, height = round(right - left), round(bottom - top)
    x = round(max(0.0, min(left, size[0] - width)))
    y = round(max(0.0, min(top, size[1] - height)))
    return x, y, x + width, y + height


def _area(rectangle: Rectangle) -> float:
    return (rectangle[2] - rectangle[0]) * (rectangle[3] - rectangle[1])


def covered(rectangle: Rectangle, others: Sequence[Rectangle]) -> float:
    """Area that others take of a rectangle, pixels; doubly covered counts twice."""
    left, top, right, bottom = rectangle
    return sum(
        max(0.0, min(right, other[2]) - max(left, other[0])) * max(0.0, min(bottom, other[3]) - max(top, other[1]))
        for other in others
    )
