"""What two detectors found in one picture, side by side, with arrows at what only one of them found."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from richsem_schemas.figures.lettering import one_line
from richsem_train.results.arrows import draw_arrow, place_arrows
from richsem_train.results.labels import Style, shortened
from richsem_train.results.matching import Side
from richsem_train.results.pictures import (
    FREQUENCY_COLOURS,
    INK,
    LEGIBLE_SIDE,
    PAPER,
    SHEET,
    LegendEntry,
    draw_boxes,
    labels_of,
    with_legend,
    within,
)
from richsem_train.results.prediction import ClassTable

_MOST = 30
"""Detections of a side that are drawn, and what the other has of them."""

_LARGEST_SIDE = 2000
"""Larger pictures are made smaller: two of them stand in one."""

_LEAST_WIDTH = 240
"""Of the place of a picture, pixels: that of the title above it."""

_ARROW = LegendEntry("found on this side only", INK, is_arrow=True)


def legend_of(classes: ClassTable) -> tuple[LegendEntry, ...]:
    """What the colours and arrows of `draw_side_by_side` mean."""
    if not classes.have_frequencies:
        return (_ARROW,)
    return (LegendEntry("rare", FREQUENCY_COLOURS["r"]), LegendEntry("others", INK), _ARROW)


def draw_side_by_side(
    image: Image.Image, sides: tuple[Side, Side], classes: ClassTable, titles: tuple[str, str], *, legend: bool = True
) -> Image.Image:
    """Draw two copies of a picture beside each other, each with what one detector found.

    Rare classes are red, all others dark. An arrow points at each object that only this side found.

    Args:
        image: the picture as decoded, RGB.
        sides: of `match_detections`, in pixels of `image`.
        classes: the joined vocabulary.
        titles: written above the sides.
        legend: whether a strip below tells what colours and arrows mean.

    Returns:
        A new RGB image; small pictures are enlarged by a whole number, and large ones made smaller.
    """
    canvas, factor = _fitted(image)
    style = Style.of(canvas.size)
    panels = [
        _drawn(canvas.copy(), factor, side, chosen, classes, style)
        for side, chosen in zip(sides, choose_shown(*sides), strict=True)
    ]
    pair = _with_titles(panels, titles, style)
    return with_legend(pair, legend_of(classes), style) if legend else pair


def choose_shown(a: Side, b: Side) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indexes of the detections of each side that are drawn: its best, and the partners of the other's best."""
    best_a, best_b = (np.flatnonzero(side.are_shown)[:_MOST] for side in (a, b))
    return _with_partners(best_a, b, best_b), _with_partners(best_b, a, best_a)


def _with_partners(best: NDArray[np.int64], other: Side, best_of_other: NDArray[np.int64]) -> NDArray[np.int64]:
    partners = other.partners[best_of_other]
    return np.union1d(best, partners[partners >= 0])


def _fitted(image: Image.Image) -> tuple[Image.Image, float]:
    """A picture of a size to look at, and by what its boxes are to be multiplied."""
    longest = max(image.size)
    factor = min(float(math.ceil(LEGIBLE_SIDE / longest)), _LARGEST_SIDE / longest)
    if factor == 1:
        return image, factor
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.BICUBIC), factor


def _drawn(
    canvas: Image.Image, factor: float, side: Side, chosen: NDArray[np.int64], classes: ClassTable, style: Style
) -> Image.Image:
    are_rare = np.array([frequency == "r" for frequency in classes.frequencies])[side.found.category_ids]
    # What matters most is on top, and finds room for its label and its arrow first.
    order = chosen[np.lexsort((chosen, ~are_rare[chosen], ~side.are_only_here[chosen]))]
    found = side.found[order]
    boxes = [within(box * factor, canvas.size) for box in found.boxes_xyxy_px]
    colours = [FREQUENCY_COLOURS["r"] if is_rare else INK for is_rare in are_rare[order].tolist()]
    labels = draw_boxes(canvas, boxes, colours, labels_of(found, classes), style, casing=PAPER)
    alone = np.flatnonzero(side.are_only_here[order]).tolist()
    draw = ImageDraw.Draw(canvas)
    for index, arrow in zip(alone, place_arrows(boxes, alone, canvas.size, style, labels), strict=True):
        if arrow is not None:
            draw_arrow(draw, arrow, colours[index], PAPER, style)
    return canvas


def _with_titles(panels: Sequence[Image.Image], titles: Sequence[str], style: Style) -> Image.Image:
    """Two pictures of one size beside each other, each below its title."""
    width, height = panels[0].size
    cell, gap = max(width, _LEAST_WIDTH), max(8, round(0.02 * width))
    top = style.font.height() + 3 * style.pad
    pair = Image.new("RGB", (3 * gap + 2 * cell, top + height + gap), SHEET)
    draw = ImageDraw.Draw(pair)
    for index, (panel, title) in enumerate(zip(panels, titles, strict=True)):
        middle = gap + cell / 2 + index * (cell + gap)
        text = shortened(one_line(title), cell, style)
        style.font.draw(draw, (middle - style.font.getlength(text) / 2, style.pad), text, INK)
        pair.paste(panel, (round(middle - width / 2), top))
    return pair
