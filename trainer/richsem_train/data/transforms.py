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

from richsem_schemas.cache.geometry import Crop, draw_crop
from richsem_schemas.cache.render import render_view
from richsem_schemas.cache.view import View
from richsem_schemas.pictures.resize import resize_picture

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
    return apply(image, boxes_xyxy_px, draw_crop(_hw(image), augmentation, rng, may_flip=augmentation.flip))


def apply(image: Image.Image, boxes_xyxy_px: Boxes, drawn: Crop) -> Augmented:
    """Do to a picture and its boxes what was drawn for its size, step by step.

    Boxes lie where `visible_boxes` has them, up to rounding.
    """
    image, boxes_xyxy_px = resize(image, boxes_xyxy_px, drawn.first_hw)
    kept = np.arange(len(boxes_xyxy_px))
    if drawn.cut_xyxy != (0, 0, image.width, image.height):
        image, boxes_xyxy_px, kept = crop(image, boxes_xyxy_px, drawn.cut_xyxy)
    image, boxes_xyxy_px = resize(image, boxes_xyxy_px, drawn.out_hw)
    if drawn.flip:
        image, boxes_xyxy_px = flip(image, boxes_xyxy_px)
    return Augmented(image, boxes_xyxy_px, kept)


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


def xyxy_px_to_cxcywh_norm(boxes_xyxy_px: Boxes, hw: tuple[int, int]) -> Boxes:
    """Corners in pixels to centres and sides, relative to a height and width."""
    first, last = boxes_xyxy_px[:, :2].astype(np.float64), boxes_xyxy_px[:, 2:].astype(np.float64)
    sides = np.array([hw[1], hw[0]])
    return np.concatenate([(first + last) / 2 / sides, (last - first) / sides], axis=1).astype(np.float32)


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
