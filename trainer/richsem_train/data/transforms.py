"""What is done to a detection picture and its boxes before the model sees them. Pure functions.

Boxes are float32 [G, 4], xyxy in pixels of the picture they come with; `kept` says which of them a crop left over.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from richsem_schemas.render import render_view
from richsem_schemas.resize import resize_picture
from richsem_schemas.view import View

Boxes = NDArray[np.float32]

MIN_VISIBLE_PX = 1e-3
"""Boxes with a thinner part inside of what is shown are not visible: rounding can't tell whether they touch it."""

SHORT_SIDES = tuple(range(480, 801, 32))
"""The short sides that DETR trains with, pixels."""


@dataclass(frozen=True)
class Augmentation:
    """Sizes to draw from; the defaults are DETR's.

    Attributes:
        short_sides: of the picture that the model sees, pixels.
        longest_side: its long side has at most this many pixels.
        first_short_sides: of the picture that is cropped; empty for no crops.
        crop_sides: smallest and largest side of a crop, pixels.
        flip: whether every other picture is mirrored.
    """

    short_sides: tuple[int, ...] = SHORT_SIDES
    longest_side: int = 1333
    first_short_sides: tuple[int, ...] = (400, 500, 600)
    crop_sides: tuple[int, int] = (384, 600)
    flip: bool = True


@dataclass(frozen=True)
class Drawn:
    """What is to be done to a picture, in this order: mirror, resize and crop (or not), resize.

    Attributes:
        picture_hw: of the picture that it was drawn for.
        is_mirrored: whether left and right change places.
        first_hw: the size at which it is cropped.
        crop_xyxy: the rectangle that is cut out, in pixels of that size, mirrored; all of it where nothing is cropped.
        out_hw: the size that the model sees.
    """

    picture_hw: tuple[int, int]
    is_mirrored: bool
    first_hw: tuple[int, int]
    crop_xyxy: tuple[int, int, int, int]
    out_hw: tuple[int, int]

    @property
    def source_xyxy_px(self) -> tuple[float, float, float, float]:
        """What is shown of the picture, in its own pixels, not mirrored."""
        left, top, right, bottom = self.crop_xyxy
        if self.is_mirrored:
            left, right = self.first_hw[1] - right, self.first_hw[1] - left
        y, x = self.picture_hw[0] / self.first_hw[0], self.picture_hw[1] / self.first_hw[1]
        return left * x, top * y, right * x, bottom * y


@dataclass(frozen=True, eq=False)
class Augmented:
    """A picture after augmentation.

    Attributes:
        image: RGB.
        boxes_xyxy_px: float32 [K, 4], those with area left, clipped.
        kept: int64 [K], which of the G boxes they were.
    """

    image: Image.Image
    boxes_xyxy_px: Boxes
    kept: NDArray[np.int64]


def augment(
    image: Image.Image, boxes_xyxy_px: Boxes, augmentation: Augmentation, rng: np.random.Generator
) -> Augmented:
    """Mirror every other picture; then resize, or, every other time, resize, crop and resize.

    Args:
        image: RGB.
        boxes_xyxy_px: float32 [G, 4].
        augmentation: the sizes to draw from.
        rng: source of all randomness.

    Source:
        The training augmentation of DETR and DINO, which the reference uses.
    """
    return apply(image, boxes_xyxy_px, draw(_hw(image), augmentation, rng))


def draw(picture_hw: tuple[int, int], augmentation: Augmentation, rng: np.random.Generator) -> Drawn:
    """Draw what `augment` does to a picture of a size."""
    is_mirrored = rng.random() < 0.5 and augmentation.flip
    first_hw, crop_hw = picture_hw, picture_hw
    crop_xyxy = (0, 0, picture_hw[1], picture_hw[0])
    if rng.random() < 0.5 and augmentation.first_short_sides:
        first_hw = resized_hw(picture_hw, int(rng.choice(augmentation.first_short_sides)), None)
        crop_xyxy = draw_crop(first_hw, augmentation.crop_sides, rng)
        crop_hw = (crop_xyxy[3] - crop_xyxy[1], crop_xyxy[2] - crop_xyxy[0])
    short_side = int(rng.choice(augmentation.short_sides))
    out_hw = resized_hw(crop_hw, short_side, augmentation.longest_side)
    return Drawn(picture_hw, is_mirrored, first_hw, crop_xyxy, out_hw)


def apply(image: Image.Image, boxes_xyxy_px: Boxes, drawn: Drawn) -> Augmented:
    """Do to a picture and its boxes what was drawn for its size."""
    kept = np.arange(len(boxes_xyxy_px))
    if drawn.is_mirrored:
        image, boxes_xyxy_px = flip(image, boxes_xyxy_px)
    image, boxes_xyxy_px = resize(image, boxes_xyxy_px, drawn.first_hw)
    if drawn.crop_xyxy != (0, 0, image.width, image.height):
        image, boxes_xyxy_px, kept = crop(image, boxes_xyxy_px, drawn.crop_xyxy)
    return Augmented(*resize(image, boxes_xyxy_px, drawn.out_hw), kept)


def visible_boxes(boxes_xyxy_px: Boxes, drawn: Drawn) -> tuple[Boxes, NDArray[np.int64]]:
    """Boxes of a picture where `apply` has them, up to rounding, without its pixels.

    Args:
        boxes_xyxy_px: [G, 4], in pixels of the picture.
        drawn: what is done to it.

    Returns:
        Boxes [K, 4], clipped; int64 [K], which of the G boxes these were.
    """
    x1, y1, x2, y2 = drawn.source_xyxy_px
    height, width = drawn.out_hw
    shown = (boxes_xyxy_px.astype(np.float64) - [x1, y1, x1, y1]) * ([width / (x2 - x1), height / (y2 - y1)] * 2)
    if drawn.is_mirrored:
        shown[:, [0, 2]] = width - shown[:, [2, 0]]
    clipped = np.clip(shown, 0, [width, height, width, height])
    kept = np.flatnonzero((clipped[:, 2:] - clipped[:, :2] >= MIN_VISIBLE_PX).all(axis=1))
    return clipped[kept].astype(np.float32), kept


def resized_hw(hw: tuple[int, int], short_side: int, longest_side: int | None) -> tuple[int, int]:
    """Height and width after a resize that keeps the aspect ratio, at least 1 px each.

    Args:
        hw: before.
        short_side: wanted, pixels.
        longest_side: the long side has at most this many pixels; the short side shrinks with it. None for any.

    Source:
        DETR's rule to the pixel, as the views of caches follow it; torchvision's `max_size` rounds the short side down.
    """
    short, long = min(hw), max(hw)
    if longest_side is not None and long / short * short_side > longest_side:
        short_side = round(longest_side * short / long)
        # Extreme aspect ratios round the short side to nothing; the long side is then what was allowed.
        long_side = int(short_side * long / short) if short_side else longest_side
    else:
        long_side = int(short_side * long / short)
    short_side = max(short_side, 1)
    return (short_side, long_side) if hw[0] <= hw[1] else (long_side, short_side)


def flip(image: Image.Image, boxes_xyxy_px: Boxes) -> tuple[Image.Image, Boxes]:
    """Mirror left and right."""
    x1, y1, x2, y2 = boxes_xyxy_px.T
    mirrored = np.stack([image.width - x2, y1, image.width - x1, y2], axis=1)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), mirrored


def resize(image: Image.Image, boxes_xyxy_px: Boxes, out_hw: tuple[int, int]) -> tuple[Image.Image, Boxes]:
    """Resize to a height and width, by the resizer of the views of caches."""
    if out_hw == _hw(image):
        return image, boxes_xyxy_px
    height, width = out_hw
    scale = np.array([width / image.width, height / image.height] * 2)
    return Image.fromarray(resize_picture(image, out_hw)), (boxes_xyxy_px * scale).astype(np.float32)


def draw_crop(hw: tuple[int, int], crop_sides: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw a rectangle inside a picture: its sides independently, then its place.

    Args:
        hw: of the picture.
        crop_sides: smallest and largest side, pixels; both shrink to the picture where it is smaller.
        rng: source of all randomness.

    Returns:
        xyxy, pixels.
    """
    smallest, largest = crop_sides
    height, width = (int(rng.integers(min(smallest, side), min(largest, side), endpoint=True)) for side in hw)
    top = int(rng.integers(0, hw[0] - height, endpoint=True))
    left = int(rng.integers(0, hw[1] - width, endpoint=True))
    return left, top, left + width, top + height


def crop(
    image: Image.Image, boxes_xyxy_px: Boxes, window_xyxy: tuple[int, int, int, int]
) -> tuple[Image.Image, Boxes, NDArray[np.int64]]:
    """Cut a rectangle out, clip the boxes to it, and drop those without area.

    Returns:
        The picture; boxes [K, 4]; int64 [K], which of the boxes these were.
    """
    left, top, right, bottom = window_xyxy
    moved = boxes_xyxy_px - np.array([left, top, left, top], np.float32)
    clipped = np.clip(moved, 0, np.array([right - left, bottom - top] * 2, np.float32))
    kept = np.flatnonzero((clipped[:, 2:] > clipped[:, :2]).all(axis=1))
    return image.crop(window_xyxy), clipped[kept], kept


def rendered(view: View, pictures: Mapping[int, Image.Image]) -> Tensor:
    """The pixels of a view, uint8 [3, H, W].

    Args:
        view: of checked geometry.
        pictures: by sample.
    """
    # NumPy's copy to planes: a third of the time that a copy of torch's view takes.
    return torch.from_numpy(render_view(view, pictures).transpose(2, 0, 1).copy())


def _hw(image: Image.Image) -> tuple[int, int]:
    return image.height, image.width
