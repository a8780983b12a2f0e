"""The one resizer of pictures, with antialiasing: bilinear for views and the student, bicubic for what CLIP is shown.

Two kernels compute it, both in integers and so alike on every processor and for any number of threads: that of
cykooz-resizer, and Pillow's where there is no wheel of the former, in two to seven times the time. Both are within a
grey level or so of the filter in exact arithmetic; bilinear ones are within one of each other, bicubic ones within two.
"""

from dataclasses import dataclass
from importlib import metadata
from typing import Literal

import numpy as np
import PIL
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

try:
    import cykooz_resizer
except ImportError:
    cykooz_resizer = None

KERNEL = f"cykooz-resizer {metadata.version('cykooz-resizer')}" if cykooz_resizer else f"pillow {PIL.__version__}"
"""The kernel of this machine; receipts record it."""

Box = tuple[float, float, float, float]
Filter = Literal["bilinear", "bicubic"]
"""A triangle, or Keys' cubic with a = -0.5, each as wide as a pixel of the coarser of both grids."""


@dataclass(frozen=True, eq=False, slots=True)
class PackedPicture:
    """A picture as the kernels take it, for whoever resizes it several times.

    Attributes:
        size: width and height.
        rgb: its bytes, row by row, three a pixel.
    """

    size: tuple[int, int]
    rgb: bytes

    @classmethod
    def of(cls, picture: Image.Image) -> "PackedPicture":
        """Pack a picture of mode RGB.

        Pillow's own `tobytes` takes twice as long, and the interpreter's lock for all of it.
        """
        width, height = picture.size
        try:
            # Pillow has four bytes a pixel, and lends them.
            lent = pa.array(picture)
        except ValueError:
            # It holds larger ones in several pieces.
            return cls(picture.size, picture.tobytes())
        pixels_HW4 = np.frombuffer(lent.values.buffers()[1], np.uint8).reshape(height, width, 4)
        packed_HW3 = np.empty((height, width, 3), np.uint8)
        copy_by_channel(pixels_HW4[..., :3], packed_HW3)
        return cls.of_pixels(packed_HW3)

    @classmethod
    def of_pixels(cls, pixels_HW3: NDArray[np.uint8]) -> "PackedPicture":
        """Pack an array, uint8 [H, W, 3]."""
        height, width, _ = pixels_HW3.shape
        return cls((width, height), pixels_HW3.tobytes())


def resize_picture(
    picture: Image.Image | PackedPicture, out_hw: tuple[int, int], box_xyxy_px: Box | None = None
) -> NDArray[np.uint8]:
    """Resize a picture, or a rectangle of it, by a triangle filter as wide as a pixel of the coarser of both grids.

    At the border of the rectangle the filter sees the pixels beyond it; at the scale of the picture, and on its grid,
    pixels are copied.

    Args:
        picture: RGB; packed or not.
        out_hw: height and width wanted, pixels.
        box_xyxy_px: the rectangle, inside the picture; need not lie on its grid. None for all of it.

    Returns:
        uint8 [H, W, 3]; may be read-only.
    """
    box = box_xyxy_px or (0, 0, *picture.size)
    if cykooz_resizer:
        # By bytes: it could reach into Pillow's memory, by what it knows of the layout of Pillow's versions so far.
        packed = picture if isinstance(picture, PackedPicture) else PackedPicture.of(picture)
        return _by_cykooz(packed, out_hw, box, "bilinear")
    unpacked = picture if isinstance(picture, Image.Image) else Image.frombytes("RGB", picture.size, picture.rgb)
    return _by_pillow(unpacked, out_hw, box, "bilinear")


def resize_pixels(pixels_HW3: NDArray[np.uint8], out_hw: tuple[int, int], filter_: Filter) -> NDArray[np.uint8]:
    """Resize an array, and see nothing beyond it, also where it is part of a larger one: uint8 [H, W, 3].

    Source:
        What `torchvision.transforms.v2.Resize` makes of the array as a picture of Pillow's, to the kernels' rounding.
    """
    height, width, _ = pixels_HW3.shape
    box = (0, 0, width, height)
    if cykooz_resizer:
        return _by_cykooz(PackedPicture.of_pixels(pixels_HW3), out_hw, box, filter_)
    return _by_pillow(Image.fromarray(pixels_HW3), out_hw, box, filter_)


def copy_by_channel(pixels_HW3: NDArray[np.uint8], onto_HW3: NDArray[np.uint8]) -> None:
    """Copy pixels that don't lie one behind the other: NumPy moves single bytes in a third of the time of threes."""
    for channel in range(3):
        onto_HW3[..., channel] = pixels_HW3[..., channel]


def _by_pillow(picture: Image.Image, out_hw: tuple[int, int], box_xyxy_px: Box, filter_: Filter) -> NDArray[np.uint8]:
    return np.asarray(picture.resize(out_hw[::-1], Image.Resampling[filter_.upper()], box_xyxy_px))


def _by_cykooz(picture: PackedPicture, out_hw: tuple[int, int], box_xyxy_px: Box, filter_: Filter) -> NDArray[np.uint8]:
    left, top, right, bottom = box_xyxy_px
    types = cykooz_resizer.FilterType
    source = cykooz_resizer.ImageData(*picture.size, cykooz_resizer.PixelType.U8x3, picture.rgb)
    resized = cykooz_resizer.ImageData(*out_hw[::-1], cykooz_resizer.PixelType.U8x3)
    options = cykooz_resizer.ResizeOptions(
        cykooz_resizer.ResizeAlg.convolution(types.catmull_rom if filter_ == "bicubic" else types.bilinear),
        crop_box=cykooz_resizer.CropBox(left, top, right - left, bottom - top),
    )
    # One for each call, since a resizer holds a lock.
    cykooz_resizer.Resizer().resize(source, resized, options)
    return np.frombuffer(resized.get_buffer(), np.uint8).reshape(*out_hw, 3)
