"""Where a picture is cut, how it is resized and mirrored: for the views of caches and for training. Pure functions.

Sizes are (height, width). Boxes are float32 [G, 4], xyxy in pixels.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

MIN_VISIBLE_PX = 1e-3
"""Boxes with a thinner part inside of what is shown are not visible: float32 can't tell whether they touch it."""


class CropSizes(Protocol):
    """Pixels; `ViewGeometry` says what they are, and training's augmentation has them, too."""

    @property
    def short_sides(self) -> tuple[int, ...]:
        """Of what is shown, of which one is drawn."""

    @property
    def longest_side(self) -> int:
        """Of what is shown, at the most."""

    @property
    def first_short_sides(self) -> tuple[int, ...]:
        """Of a picture that is cut, of which one is drawn."""

    @property
    def crop_sides(self) -> tuple[int, int]:
        """The least and the greatest side of a cut."""


class JitterSizes(Protocol):
    """`ScaleJitter` says what they are, and training's augmentation has them, too."""

    @property
    def side(self) -> int:
        """Of the square, pixels."""

    @property
    def factors(self) -> tuple[float, float]:
        """The least and the greatest size, by that at which the picture just fits into the square."""


@dataclass(frozen=True, slots=True)
class Crop:
    """Steps from a picture to what is shown of it: resize and cut (or not), resize, mirror (or not).

    Attributes:
        picture_hw: of the picture that it was drawn for.
        first_hw: the size at which it is cut.
        cut_xyxy: the rectangle that is cut out, in pixels of that size; all of it where nothing is cut.
        out_hw: the size of what is shown.
        flip: whether left and right change places.
    """

    picture_hw: tuple[int, int]
    first_hw: tuple[int, int]
    cut_xyxy: tuple[int, int, int, int]
    out_hw: tuple[int, int]
    flip: bool

    @property
    def source_xyxy_px(self) -> tuple[float, float, float, float]:
        """The part of the picture that is shown, in its own pixels, not mirrored."""
        left, top, right, bottom = self.cut_xyxy
        y, x = self.picture_hw[0] / self.first_hw[0], self.picture_hw[1] / self.first_hw[1]
        return left * x, top * y, right * x, bottom * y


def uncut(picture_hw: tuple[int, int], out_hw: tuple[int, int], *, flip: bool = False) -> Crop:
    """All of a picture, resized, and mirrored or not."""
    return Crop(picture_hw, picture_hw, (0, 0, picture_hw[1], picture_hw[0]), out_hw, flip)


def draw_crop(
    picture_hw: tuple[int, int], sizes: CropSizes, rng: np.random.Generator, *, may_flip: bool = True
) -> Crop:
    """Draw DETR's training augmentation: mirror; then resize, or, every other time, resize, cut and resize.

    The order of the draws belongs to the format of caches: other draws are other views.
    """
    flip = bool(rng.random() < 0.5) and may_flip
    cuts = bool(rng.random() < 0.5)
    short_side = int(rng.choice(sizes.short_sides))
    if not (cuts and sizes.first_short_sides):
        return uncut(picture_hw, resized_hw(picture_hw, short_side, sizes.longest_side), flip=flip)
    first_hw = resized_hw(picture_hw, int(rng.choice(sizes.first_short_sides)), None)
    smallest, largest = sizes.crop_sides
    width = int(rng.integers(min(smallest, first_hw[1]), min(largest, first_hw[1]), endpoint=True))
    height = int(rng.integers(min(smallest, first_hw[0]), min(largest, first_hw[0]), endpoint=True))
    left = int(rng.integers(0, first_hw[1] - width, endpoint=True))
    top = int(rng.integers(0, first_hw[0] - height, endpoint=True))
    out_hw = resized_hw((height, width), short_side, sizes.longest_side)
    return Crop(picture_hw, first_hw, (left, top, left + width, top + height), out_hw, flip)


def draw_scaled(
    picture_hw: tuple[int, int], jitter: JitterSizes, rng: np.random.Generator, *, may_flip: bool = True
) -> Crop:
    """Draw scale jitter: mirror; fit into a square, times a factor; cut what is larger than the square.

    What is smaller than the square stays smaller. The order of the draws belongs to the format of caches, as that of
    `draw_crop`.

    Source:
        EfficientDetResizeCrop of Detic (arXiv 2201.02605) at 1c21c9b, after EfficientDet (arXiv 1911.09070): the factor
        is uniform, sides are rounded down, and where the square lies is uniform along either side. Differs: the last
        place along a side is as likely as the others, there it is never drawn; boxes follow the rounded sides, there
        the factor; mirrored first, there last, which is the same in distribution.
    """
    flip = bool(rng.random() < 0.5) and may_flip
    scale = rng.uniform(*jitter.factors) * jitter.side / max(picture_hw)
    height, width = (max(int(side * scale), 1) for side in picture_hw)
    out_hw = min(height, jitter.side), min(width, jitter.side)
    left = int(rng.integers(0, width - out_hw[1], endpoint=True))
    top = int(rng.integers(0, height - out_hw[0], endpoint=True))
    return Crop(picture_hw, (height, width), (left, top, left + out_hw[1], top + out_hw[0]), out_hw, flip)


def resized_hw(hw: tuple[int, int], short_side: int, longest_side: int | None) -> tuple[int, int]:
    """Height and width after a resize that keeps the aspect ratio, at least 1 px each.

    Args:
        hw: before.
        short_side: wanted, pixels.
        longest_side: the long side has at most this many pixels; the short side shrinks with it. None for any.

    Source:
        DETR's rule to the pixel; torchvision's `max_size` rounds the short side down.
    """
    short, long = min(hw), max(hw)
    if longest_side is not None and long / short * short_side > longest_side:
        short_side = round(longest_side * short / long)
    # Extreme aspect ratios round the short side to nothing; the long side is then what was allowed.
    other = int(short_side * long / short) if short_side else longest_side or 1
    sides = (max(short_side, 1), max(other, 1))
    return sides if hw[0] <= hw[1] else (sides[1], sides[0])


def fit(crop: Crop, side: int) -> Crop:
    """The same crop resized to fit into a square of `side` pixels, as large as it can be; at least 1 px each way."""
    height, width = crop.out_hw
    scale = min(side / height, side / width)
    return replace(crop, out_hw=(max(int(height * scale), 1), max(int(width * scale), 1)))


def source_of_part(crop: Crop, part_xyxy: tuple[int, int, int, int]) -> tuple[float, float, float, float]:
    """Which rectangle of the picture fills a part of the crop, given in pixels of the resized, mirrored crop."""
    x1, y1, x2, y2 = crop.source_xyxy_px
    height, width = crop.out_hw
    left, top, right, bottom = part_xyxy
    if crop.flip:
        left, right = width - right, width - left
    x, y = (x2 - x1) / width, (y2 - y1) / height
    return (x1 + left * x, y1 + top * y, x1 + right * x, y1 + bottom * y)


def visible_boxes(boxes_xyxy_px: NDArray[np.float32], crop: Crop) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Boxes of a picture, [G, 4] in its pixels, as a crop shows them.

    Returns:
        Boxes in pixels of the crop, clipped to it, float32 [K, 4]; and int64 [K], which of the G boxes they are.
    """
    x1, y1, x2, y2 = crop.source_xyxy_px
    height, width = crop.out_hw
    scale = np.array([width / (x2 - x1), height / (y2 - y1)] * 2)
    shown = (boxes_xyxy_px.astype(np.float64) - [x1, y1, x1, y1]) * scale
    if crop.flip:
        shown[:, [0, 2]] = width - shown[:, [2, 0]]
    clipped = np.clip(shown, 0, [width, height, width, height])
    kept = np.flatnonzero((clipped[:, 2:] - clipped[:, :2] >= MIN_VISIBLE_PX).all(axis=1))
    return clipped[kept].astype(np.float32), kept
