"""What is done to a detection picture and its boxes before the model sees them. Pure functions.

Boxes are float32 [G, 4], xyxy in pixels of the picture they come with; `kept` says which of them a crop left over.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from richsem_schemas.resize import resize_picture

Boxes = NDArray[np.float32]

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
    kept = np.arange(len(boxes_xyxy_px))
    if rng.random() < 0.5 and augmentation.flip:
        image, boxes_xyxy_px = flip(image, boxes_xyxy_px)
    if rng.random() < 0.5 and augmentation.first_short_sides:
        first = int(rng.choice(augmentation.first_short_sides))
        image, boxes_xyxy_px = resize(image, boxes_xyxy_px, resized_hw(_hw(image), first, None))
        window = draw_crop(_hw(image), augmentation.crop_sides, rng)
        image, boxes_xyxy_px, kept = crop(image, boxes_xyxy_px, window)
    short_side = int(rng.choice(augmentation.short_sides))
    out_hw = resized_hw(_hw(image), short_side, augmentation.longest_side)
    return Augmented(*resize(image, boxes_xyxy_px, out_hw), kept)


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


def _hw(image: Image.Image) -> tuple[int, int]:
    return image.height, image.width
