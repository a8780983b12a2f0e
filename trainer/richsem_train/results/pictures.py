"""Detections drawn on pictures: boxes, names and scores, in the colour of the class's frequency."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from richsem_schemas.figures.lettering import can_be_drawn, one_line
from richsem_schemas.scoring.detections import PictureDetections
from richsem_schemas.vocabularies.lvis import FREQUENCY_NAMES
from richsem_train.results.arrows import Arrow, draw_arrow
from richsem_train.results.labels import Colour, Rectangle, Style, place_labels, shortened
from richsem_train.results.prediction import ClassTable

FREQUENCY_COLOURS: dict[str, Colour] = {"r": (204, 51, 0), "c": (86, 180, 233), "f": (240, 228, 66)}
"""Vermilion, sky blue and yellow, after Okabe and Ito: told apart by all common kinds of colour vision."""

_ROW_COLOURS: tuple[Colour, ...] = (
    (86, 180, 233),
    (240, 228, 66),
    (204, 51, 0),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (0, 114, 178),
)
"""For classes without a frequency, by row."""

INK: Colour = (17, 17, 17)
PAPER: Colour = (255, 255, 255)
SHEET: Colour = (250, 250, 250)

LEGIBLE_SIDE = 480
"""Pictures whose longer side is shorter are enlarged by a whole number, or no label would fit."""

SAME_BOX_IOU = 0.9
"""Boxes this close are one thing to the eye."""


@dataclass(frozen=True)
class LegendEntry:
    """A colour and what it tells, beside a square or an arrow."""

    text: str
    colour: Colour
    is_arrow: bool = False


FREQUENCY_LEGEND = tuple(LegendEntry(name, FREQUENCY_COLOURS[letter]) for letter, name in FREQUENCY_NAMES.items())


def choose_drawn(detections: PictureDetections, *, score_threshold: float, most: int = 30) -> PictureDetections:
    """The detections worth drawing, best first, without boxes that nearly coincide with a better one."""
    # It imports PyTorch's compiler, for two seconds that scoring alone can do without.
    from torchvision.ops import nms  # noqa: PLC0415

    good = detections[detections.scores >= score_threshold]
    return good[nms(torch.from_numpy(good.boxes_xyxy_px), torch.from_numpy(good.scores), SAME_BOX_IOU)[:most].numpy()]


def draw_detections(
    image: Image.Image, detections: PictureDetections, classes: ClassTable, *, legend: bool = True
) -> Image.Image:
    """Draw detections on a picture, the better above the worse.

    Args:
        image: the picture as decoded, RGB.
        detections: of `choose_drawn`: rows of `classes`, in pixels of `image`.
        classes: their names; a row's number stands for a name of which no font has the letters. Colours are those of
            frequencies, or without any follow the row.
        legend: whether a strip below tells the colours; only where there are frequencies.

    Returns:
        A new RGB image; small pictures are enlarged by a whole number.
    """
    canvas, factor = _enlarged(image)
    style = Style.of(canvas.size)
    boxes = [within(box * factor, canvas.size) for box in detections.boxes_xyxy_px]
    colours = [_colour(row, classes) for row in detections.category_ids.tolist()]
    draw_boxes(canvas, boxes, colours, labels_of(detections, classes), style)
    return with_legend(canvas, FREQUENCY_LEGEND, style) if legend and classes.have_frequencies else canvas


def draw_boxes(
    canvas: Image.Image,
    boxes: Sequence[Rectangle],
    colours: Sequence[Colour],
    texts: Sequence[str],
    style: Style,
    *,
    casing: Colour = INK,
) -> list[Rectangle]:
    """Draw boxes with their labels into a picture, the first on top; returns the places of the labels."""
    draw = ImageDraw.Draw(canvas)
    for box, colour in reversed(list(zip(boxes, colours, strict=True))):
        _draw_box(draw, box, colour, style, casing)
    rectangles = []
    for placed, colour in zip(place_labels(boxes, texts, canvas.size, style), colours, strict=True):
        if placed is not None:
            _draw_label(draw, *placed, colour, style, casing)
            rectangles.append(placed[0])
    return rectangles


def contact_sheet(
    pictures: Sequence[Image.Image], captions: Sequence[str], columns: int, *, legend: Sequence[LegendEntry] = ()
) -> Image.Image:
    """Pictures of any sizes side by side with a caption below each, row by row, and a legend below all.

    A column is as wide as its widest picture, to which captions are cut, and a row as high as its highest.
    """
    assert pictures, "a sheet needs a picture"
    captions = [one_line(caption) for caption in captions]
    columns = min(columns, len(pictures))
    widths = [max(picture.width for picture in pictures[column::columns]) for column in range(columns)]
    heights = [
        max(picture.height for picture in pictures[at : at + columns]) for at in range(0, len(pictures), columns)
    ]
    style = Style.of((max(widths), max(heights)))
    gap = max(8, round(0.02 * max(widths)))
    below = gap + (style.font.height() + style.pad if any(captions) else 0)
    sheet = Image.new("RGB", (gap + sum(widths) + gap * columns, gap + sum(heights) + below * len(heights)), SHEET)
    draw = ImageDraw.Draw(sheet)
    for index, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        row, column = divmod(index, columns)
        x = gap + sum(widths[:column]) + gap * column + (widths[column] - picture.width) // 2
        y = gap + sum(heights[:row]) + below * row
        sheet.paste(picture, (x, y))
        text = shortened(caption, widths[column], style)
        left = x + (picture.width - style.font.getlength(text)) / 2
        style.font.draw(draw, (left, y + picture.height + style.pad), text, INK)
    return with_legend(sheet, legend, style) if legend else sheet


def _enlarged(image: Image.Image) -> tuple[Image.Image, int]:
    factor = math.ceil(LEGIBLE_SIDE / max(image.size))
    if factor == 1:
        return image.copy(), 1
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC), factor


def _colour(row: int, classes: ClassTable) -> Colour:
    return FREQUENCY_COLOURS.get(classes.frequencies[row]) or _ROW_COLOURS[row % len(_ROW_COLOURS)]


def within(box_xyxy: NDArray[np.floating], size: tuple[int, int]) -> Rectangle:
    """Clip a box to the canvas."""
    limits = np.array([*size, *size]) - 1
    left, top, right, bottom = np.clip(np.nan_to_num(box_xyxy), 0, limits).tolist()
    return left, top, max(left, right), max(top, bottom)


def number_for_name(row: int, classes: ClassTable) -> str | None:
    """The label, such as `#12`, of a class whose name has letters that no font has; None for other classes."""
    return None if can_be_drawn(_plain_name(row, classes)) else f"#{row}"


def _plain_name(row: int, classes: ClassTable) -> str:
    return one_line(classes.names[row].replace("_", " "))


def labels_of(detections: PictureDetections, classes: ClassTable) -> list[str]:
    """Name and score of each."""
    rows, scores = detections.category_ids.tolist(), detections.scores.tolist()
    names = (number_for_name(row, classes) or _plain_name(row, classes) for row in rows)
    return [f"{name} {score:.2f}" for name, score in zip(names, scores, strict=True)]


def _draw_box(draw: ImageDraw.ImageDraw, box: Rectangle, colour: Colour, style: Style, casing_colour: Colour) -> None:
    # A casing on both sides keeps the line visible on any ground.
    width = math.ceil(style.line * 1.5) if colour == FREQUENCY_COLOURS["r"] else style.line
    left, top, right, bottom = (round(edge) for edge in box)
    casing = max(1, style.line // 2)
    draw.rectangle(
        (left - casing, top - casing, right + casing, bottom + casing), outline=casing_colour, width=width + 2 * casing
    )
    draw.rectangle((left, top, right, bottom), outline=colour, width=width)


def _draw_label(
    draw: ImageDraw.ImageDraw, rectangle: Rectangle, text: str, colour: Colour, style: Style, casing_colour: Colour
) -> None:
    left, top, right, bottom = rectangle
    draw.rectangle((left, top, right - 1, bottom - 1), fill=colour, outline=casing_colour, width=1)
    style.font.draw(draw, (left + style.pad, top), text, _ink_on(colour))


def _ink_on(colour: Colour) -> Colour:
    """Black or white, whichever contrasts more (relative luminance, WCAG 2)."""
    linear = [(part / 255 / 12.92 if part <= 10 else ((part / 255 + 0.055) / 1.055) ** 2.4) for part in colour]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return PAPER if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else INK


def with_legend(image: Image.Image, entries: Sequence[LegendEntry], style: Style) -> Image.Image:
    """Add a strip below that tells what colours and arrows mean."""
    height = style.font.height() + 4 * style.pad
    extended = Image.new("RGB", (image.width, image.height + height), SHEET)
    extended.paste(image, (0, 0))
    draw = ImageDraw.Draw(extended)
    side = style.font.height() - style.pad
    x, y = 3 * style.pad, image.height + (height - side) // 2
    middle = y + side / 2
    for entry in entries:
        if entry.is_arrow:
            draw_arrow(draw, Arrow((x + 2 * side, middle), (x, middle)), entry.colour, PAPER, style)
            x += side
        else:
            draw.rectangle((x, y, x + side, y + side), fill=entry.colour, outline=INK)
        x += side + 2 * style.pad
        draw.text((x, middle), entry.text, fill=INK, font=style.font.ascii, anchor="lm")
        x += math.ceil(style.font.getlength(entry.text)) + 6 * style.pad
    return extended
