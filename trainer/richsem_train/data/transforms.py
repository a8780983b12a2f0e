"""Pixels of pictures as the model sees them: augmented, or rendered as views; boxes follow by `cache.geometry`."""

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from richsem_schemas.cache.geometry import Crop, CropSizes, JitterSizes, draw_crop, draw_scaled
from richsem_schemas.cache.render import is_one_whole_tile, rendered_tiles
from richsem_schemas.cache.view import PAD_VALUE, View, without_rest
from richsem_schemas.pictures.resize import resize_picture

# Torch warns once of memory that it must not write to; it is read here, no more.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


class Rendering(NamedTuple):
    """A picture that is drawn once its place is known, so that it need not be copied there.

    Attributes:
        hw: its height and width.
        draw: draws it onto uint8 [H, W, 3] RGB, over all that stands there.
    """

    hw: tuple[int, int]
    draw: Callable[[NDArray[np.uint8]], Any]


class DetrAugmentation(CropSizes, Protocol):
    """Training pictures are resized, or cut and resized."""

    @property
    def kind(self) -> Literal["detr"]:
        """What sets it apart."""

    @property
    def flip(self) -> bool:
        """Whether every other picture is mirrored."""


class ScaleJitterAugmentation(JitterSizes, Protocol):
    """Training pictures are fitted into a square, times a factor, and cut by it."""

    @property
    def kind(self) -> Literal["scale-jitter"]:
        """What sets it apart."""

    @property
    def flip(self) -> bool:
        """Whether every other picture is mirrored."""


Augmentation = DetrAugmentation | ScaleJitterAugmentation
"""How training pictures are drawn, such as by section `detection.augmentation` of a config."""


def draw_augmented(
    picture_hw: tuple[int, int], augmentation: Augmentation, rng: np.random.Generator
) -> tuple[Crop, tuple[int, int]]:
    """Draw what is shown of a picture.

    Returns:
        The steps to it, and the canvas that a cache's window of it lies on: larger than what is shown where scale
        jitter leaves some of its square empty.
    """
    if augmentation.kind == "scale-jitter":
        return draw_scaled(picture_hw, augmentation, rng, may_flip=augmentation.flip), (augmentation.side,) * 2
    crop = draw_crop(picture_hw, augmentation, rng, may_flip=augmentation.flip)
    return crop, crop.out_hw


def apply_crop(image: Image.Image, crop: Crop) -> Rendering:
    """Resize, cut, resize and mirror a picture, step by step; what is in it lies where `visible_boxes` has it.

    Source:
        The training augmentation of DETR and DINO, which the reference uses.
    """
    image = _resized(image, crop.first_hw)
    if crop.cut_xyxy != (0, 0, image.width, image.height):
        image = image.crop(crop.cut_xyxy)
    return Rendering(crop.out_hw, partial(_draw_resized, image, crop))


def _draw_resized(image: Image.Image, crop: Crop, onto_HW3: NDArray[np.uint8]) -> None:
    is_resized = crop.out_hw != (image.height, image.width)
    _place(resize_picture(image, crop.out_hw) if is_resized else np.asarray(image), onto_HW3, flip=crop.flip)


def _place(pixels_HW3: NDArray[np.uint8], onto_HW3: NDArray[np.uint8], *, flip: bool) -> None:
    if flip:
        pixels_HW3 = _mirrored(pixels_HW3)
    onto_HW3[...] = pixels_HW3


def _mirrored(pixels_HW3: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Left to right, uint8 [H, W, 3]; torch has a kernel for it, in half of the time that NumPy takes."""
    pixels_13HW = torch.from_numpy(pixels_HW3).permute(2, 0, 1)[None]
    return pixels_13HW.flip(3)[0].permute(1, 2, 0).numpy()


def _resized(image: Image.Image, out_hw: tuple[int, int]) -> Image.Image:
    if out_hw == (image.height, image.width):
        return image
    return Image.fromarray(resize_picture(image, out_hw))


def render(view: View, pictures: Mapping[int, Image.Image]) -> Rendering:
    """A view of checked geometry, without the rest of its canvas, from its pictures by sample."""
    view = without_rest(view)
    return Rendering(view.canvas_hw, partial(_draw_view, view, pictures))


def _draw_view(view: View, pictures: Mapping[int, Image.Image], onto_HW3: NDArray[np.uint8]) -> None:
    """As `render_view`, at its place."""
    if not is_one_whole_tile(view):
        onto_HW3[...] = PAD_VALUE
    for (left, top, right, bottom), pixels_HW3, flip in rendered_tiles(view, pictures):
        _place(pixels_HW3, onto_HW3[top:bottom, left:right], flip=flip)


def drawn(picture: Rendering) -> Tensor:
    """The pixels of a picture, uint8 [3, H, W]."""
    pixels_HW3 = np.empty((*picture.hw, 3), np.uint8)
    picture.draw(pixels_HW3)
    return channels_first(pixels_HW3)


def channels_first(pixels_HW3: NDArray[np.uint8]) -> Tensor:
    """Channels first, uint8 [3, H, W]."""
    # NumPy's copy to planes: a third of the time that a copy of torch's view takes.
    return torch.from_numpy(pixels_HW3.transpose(2, 0, 1).copy())
