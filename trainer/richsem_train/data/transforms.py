"""What is done to the pixels of pictures before the model sees them; where things then are says `cache.geometry`."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from richsem_schemas.cache.geometry import Crop
from richsem_schemas.cache.render import render_view
from richsem_schemas.cache.view import View
from richsem_schemas.pictures.resize import resize_picture

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


def apply(image: Image.Image, crop: Crop) -> Tensor:
    """Resize, cut, resize and mirror a picture, step by step; what is in it lies where `visible_boxes` has it.

    Args:
        image: RGB.
        crop: drawn for its size.

    Returns:
        uint8 [3, H, W] of `crop.out_hw`.

    Source:
        The training augmentation of DETR and DINO, which the reference uses.
    """
    image = _resized(image, crop.first_hw)
    if crop.cut_xyxy != (0, 0, image.width, image.height):
        image = image.crop(crop.cut_xyxy)
    pixels_HW3 = np.asarray(_resized(image, crop.out_hw))
    return planes(pixels_HW3[:, ::-1] if crop.flip else pixels_HW3)


def _resized(image: Image.Image, out_hw: tuple[int, int]) -> Image.Image:
    if out_hw == (image.height, image.width):
        return image
    return Image.fromarray(resize_picture(image, out_hw))


def rendered(view: View, pictures: Mapping[int, Image.Image]) -> Tensor:
    """The pixels of a view, uint8 [3, H, W].

    Args:
        view: of checked geometry.
        pictures: by sample.
    """
    return planes(render_view(view, pictures))


def planes(pixels_HW3: NDArray[np.uint8]) -> Tensor:
    """Channels first, uint8 [3, H, W]."""
    # NumPy's copy to planes: a third of the time that a copy of torch's view takes.
    return torch.from_numpy(pixels_HW3.transpose(2, 0, 1).copy())
