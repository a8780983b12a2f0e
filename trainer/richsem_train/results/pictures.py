"""Detections drawn on pictures: boxes, names and scores, in the colour of the class's frequency."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from richsem_train.results.detections import PictureDetections
from richsem_train.results.lettering import Lettering, can_be_drawn, one_line

Colour = tuple[int, int, int]
Rectangle = tuple[float, float, float, float]
"""Left, top, right, bottom, pixels."""

FREQUENCY_COLOURS: dict[str, Colour] = {"r": (204, 51, 0), "c": (86, 180, 233), "f": (240, 228, 66)}
"""Vermilion, sky blue and yellow, after Okabe and Ito: told apart by all common kinds of colour vision."""

FREQUENCY_NAMES = {"r": "rare", "c": "common", "f": "frequent"}

_CATEGORY_COLOURS: tuple[Colour, ...] = (
    (86, 180, 233),
    (240, 228, 66),
    (204, 51, 0),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (0, 114, 178),
)
"""For classes without a frequency, by category id."""

_INK: Colour = (17, 17, 17)
_PAPER: Colour = (255, 255, 255)
_SHEET: Colour = (250, 250, 250)

_LEGIBLE_SIDE = 480
"""Pictures whose longer side is shorter are enlarged by a whole number, or no label would fit."""

_SAME_BOX_IOU = 0.9
"""Boxes this close are one thing to the eye: only the best name is shown."""

_SMALL_BOX = 6
"""Boxes below so many times a label's area are kept clear of labels where there is room."""

_SMALL_BOX_COST = 0.3
"""What covering them counts, against covering another label."""

_MOST_OVERLAP = 0.2
"""Share of a label that others may cover; a label that would be covered further is left out, its box is not."""


@dataclass(frozen=True)
class Style:
    """Sizes that suit a picture, pixels.

    Attributes:
        line: width of a box's line; rare classes have half as much again.
        font: of names and scores.
        pad: around the text of a label.
    """

    line: int
    font: Lettering
    pad: int

    @classmethod
    def of(cls, size: tuple[int, int]) -> "Style":
        """Lines and letters in proportion to a picture of this width and height."""
        scale = math.sqrt(size[0] * size[1])
        points = min(max(12.0, scale * 0.023), 64.0)
        return cls(
            line=max(2, round(scale * 0.003)),
            font=Lettering(points),
            pad=max(2, round(points / 6)),
        )


def draw_detections(
    image: Image.Image,
    detections: PictureDetections,
    *,
    names: Mapping[int, str],
    frequencies: Mapping[int, str] | None = None,
    score_threshold: float = 0.3,
    most: int = 30,
    scores: bool = True,
    legend: bool = True,
) -> Image.Image:
    """Draw the best detections of a picture, the better above the worse.

    Args:
        image: the picture as decoded.
        detections: in pixels of `image`; of boxes that nearly coincide only the best is drawn.
        names: by category id; the id where there is none, or where no font has its letters.
        frequencies: "r", "c" or "f" by category id. Without it colours follow the category.
        score_threshold: worse ones are left out.
        most: how many are drawn at most.
        scores: whether labels tell the score; not for ground truth.
        legend: whether a strip below tells the colours; only where there are frequencies.

    Returns:
        A new RGB image; small pictures are enlarged by a whole number.
    """
    canvas, factor = _enlarged(image)
    style = Style.of(canvas.size)
    shown = choose_drawn(detections, score_threshold=score_threshold, most=most)
    colours = [_colour(int(detections.category_ids[index]), frequencies) for index in shown]
    boxes = [_within(detections.boxes_xyxy_px[index] * factor, canvas.size) for index in shown]
    texts = [
        _text(int(detections.category_ids[index]), float(detections.scores[index]) if scores else None, names)
        for index in shown
    ]
    draw = ImageDraw.Draw(canvas)
    for box, colour in reversed(list(zip(boxes, colours, strict=True))):
        _draw_box(draw, box, colour, style)
    for placed, colour in zip(place_labels(boxes, texts, canvas.size, style), colours, strict=True):
        if placed is not None:
            _draw_label(draw, *placed, colour, style)
    return _with_legend(canvas, style) if legend and frequencies else canvas


def choose_drawn(detections: PictureDetections, *, score_threshold: float, most: int) -> list[int]:
    """Indexes of those worth drawing, best first, without boxes that nearly coincide with a better one."""
    chosen: list[int] = []
    for index in np.argsort(-detections.scores, kind="stable").tolist():
        if len(chosen) == most or detections.scores[index] < score_threshold:
            break
        others = detections.boxes_xyxy_px[chosen]
        if not (_iou(detections.boxes_xyxy_px[index], others) > _SAME_BOX_IOU).any():
            chosen.append(index)
    return chosen


def place_labels(
    boxes: Sequence[Rectangle], texts: Sequence[str], size: tuple[int, int], style: Style
) -> list[tuple[Rectangle, str] | None]:
    """Find each label a place at its box, inside of the picture and clear of the labels before it.

    Args:
        boxes: on the canvas, pixels.
        texts: one a box; cut to the width of the picture.
        size: of the canvas, width and height.
        style: of the text.

    Returns:
        The label's rectangle and text; None where it would cover others.
    """
    placed: list[tuple[Rectangle, str] | None] = []
    taken: list[Rectangle] = []
    for box, full_text in zip(boxes, texts, strict=True):
        text = _cut(full_text, size[0] - 2 * style.pad, style)
        width, height = _label_size(text, style)
        corners = _label_corners(box, width, height)
        candidates = [_moved_within((x, y, x + width, y + height), size) for x, y in corners]
        small = [other for other in boxes if _area(other) < _SMALL_BOX * width * height]
        # In steps of a twentieth of the label: a touch is no reason to move away.
        costs = [
            (_covered(one, taken) + _SMALL_BOX_COST * _covered(one, small)) // (width * height / 20)
            for one in candidates
        ]
        best = candidates[costs.index(min(costs))]
        if _covered(best, taken) > _MOST_OVERLAP * width * height:
            placed.append(None)
        else:
            placed.append((best, text))
            taken.append(best)
    return placed


def contact_sheet(
    pictures: Sequence[Image.Image],
    columns: int,
    captions: Sequence[str] | None = None,
    *,
    legend: bool = False,
) -> Image.Image:
    """Pictures side by side with a caption below each, row by row.

    Args:
        pictures: of any sizes, at least one; a column is as wide as its widest, a row as high as its highest.
        columns: cells a row.
        captions: one a picture, cut to its column's width; "" for none.
        legend: whether a strip below tells the colours of frequencies.
    """
    assert pictures, "a sheet needs a picture"
    captions = [one_line(caption) for caption in captions or [""] * len(pictures)]
    assert len(captions) == len(pictures), (len(captions), len(pictures))
    columns = min(columns, len(pictures))
    widths = [max(picture.width for picture in pictures[column::columns]) for column in range(columns)]
    heights = [
        max(picture.height for picture in pictures[at : at + columns]) for at in range(0, len(pictures), columns)
    ]
    style = Style.of((max(widths), max(heights)))
    gap = max(8, round(0.02 * max(widths)))
    below = gap + (style.font.height() + style.pad if any(captions) else 0)
    sheet = Image.new("RGB", (gap + sum(widths) + gap * columns, gap + sum(heights) + below * len(heights)), _SHEET)
    draw = ImageDraw.Draw(sheet)
    for index, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        row, column = divmod(index, columns)
        x = gap + sum(widths[:column]) + gap * column + (widths[column] - picture.width) // 2
        y = gap + sum(heights[:row]) + below * row
        sheet.paste(picture, (x, y))
        text = _cut(caption, widths[column], style)
        left = x + (picture.width - style.font.getlength(text)) / 2
        style.font.draw(draw, (left, y + picture.height + style.pad), text, _INK)
    return _with_legend(sheet, style) if legend else sheet


def _enlarged(image: Image.Image) -> tuple[Image.Image, int]:
    image = image.convert("RGB")
    factor = math.ceil(_LEGIBLE_SIDE / max(image.size))
    if factor == 1:
        return image.copy(), 1
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC), factor


def _colour(category_id: int, frequencies: Mapping[int, str] | None) -> Colour:
    frequency = (frequencies or {}).get(category_id, "")
    return FREQUENCY_COLOURS.get(frequency) or _CATEGORY_COLOURS[category_id % len(_CATEGORY_COLOURS)]


def _within(box_xyxy: NDArray[np.floating], size: tuple[int, int]) -> Rectangle:
    """Clip a box to the canvas."""
    limits = np.array([*size, *size]) - 1
    left, top, right, bottom = np.clip(np.nan_to_num(box_xyxy), 0, limits).tolist()
    return left, top, max(left, right), max(top, bottom)


def number_for_name(category_id: int, names: Mapping[int, str]) -> str | None:
    """What is drawn for a name that has letters which no font has, such as `#12`; None for other names."""
    return None if can_be_drawn(_plain_name(category_id, names)) else f"#{category_id}"


def _plain_name(category_id: int, names: Mapping[int, str]) -> str:
    return one_line(names.get(category_id, str(category_id)).replace("_", " "))


def _text(category_id: int, score: float | None, names: Mapping[int, str]) -> str:
    name = number_for_name(category_id, names) or _plain_name(category_id, names)
    return name if score is None else f"{name} {score:.2f}"


def _cut(text: str, width: float, style: Style) -> str:
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


def _covered(rectangle: Rectangle, others: Sequence[Rectangle]) -> float:
    """Area that others take of a rectangle, pixels; doubly covered counts twice."""
    left, top, right, bottom = rectangle
    return sum(
        max(0.0, min(right, other[2]) - max(left, other[0])) * max(0.0, min(bottom, other[3]) - max(top, other[1]))
        for other in others
    )


def _iou(box_xyxy: NDArray[np.floating], others_xyxy: NDArray[np.floating]) -> NDArray[np.floating]:
    low = np.maximum(box_xyxy[:2], others_xyxy[:, :2])
    high = np.minimum(box_xyxy[2:], others_xyxy[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    areas = np.clip(others_xyxy[:, 2:] - others_xyxy[:, :2], 0, None).prod(axis=1)
    area = np.clip(box_xyxy[2:] - box_xyxy[:2], 0, None).prod()
    return np.asarray(shared / np.maximum(area + areas - shared, 1e-9))


def _draw_box(draw: ImageDraw.ImageDraw, box: Rectangle, colour: Colour, style: Style) -> None:
    # A dark casing on both sides keeps the line visible on any ground.
    width = math.ceil(style.line * 1.5) if colour == FREQUENCY_COLOURS["r"] else style.line
    left, top, right, bottom = (round(edge) for edge in box)
    casing = max(1, style.line // 2)
    draw.rectangle(
        (left - casing, top - casing, right + casing, bottom + casing), outline=_INK, width=width + 2 * casing
    )
    draw.rectangle((left, top, right, bottom), outline=colour, width=width)


def _draw_label(draw: ImageDraw.ImageDraw, rectangle: Rectangle, text: str, colour: Colour, style: Style) -> None:
    left, top, right, bottom = rectangle
    draw.rectangle((left, top, right - 1, bottom - 1), fill=colour, outline=_INK, width=1)
    style.font.draw(draw, (left + style.pad, top), text, _ink_on(colour))


def _ink_on(colour: Colour) -> Colour:
    """Black or white, whichever contrasts more (relative luminance, WCAG 2)."""
    linear = [(part / 255 / 12.92 if part <= 10 else ((part / 255 + 0.055) / 1.055) ** 2.4) for part in colour]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return _PAPER if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else _INK


def _with_legend(image: Image.Image, style: Style) -> Image.Image:
    """Add a strip below that tells the colours of frequencies."""
    height = style.font.height() + 4 * style.pad
    extended = Image.new("RGB", (image.width, image.height + height), _SHEET)
    extended.paste(image, (0, 0))
    draw = ImageDraw.Draw(extended)
    side = style.font.height() - style.pad
    x, y = 3 * style.pad, image.height + (height - side) // 2
    for letter, name in FREQUENCY_NAMES.items():
        draw.rectangle((x, y, x + side, y + side), fill=FREQUENCY_COLOURS[letter], outline=_INK)
        x += side + 2 * style.pad
        draw.text((x, y + side / 2), name, fill=_INK, font=style.font.ascii, anchor="lm")
        x += math.ceil(style.font.getlength(name)) + 6 * style.pad
    return extended
