"""Pictures as users have them (files, arrays, PIL's) as the upright RGB pictures that a detector is shown."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from richsem_schemas.errors import PictureError
from richsem_schemas.pictures.decode import MAX_PICTURE_BYTES, decode_picture, gunzip_picture, upright_rgb

Picture = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]
"""A file, a picture of PIL's, or an array uint8 [height, width, 3], RGB."""


def read_picture(path: Path) -> Image.Image:
    """Read and decode a file.

    Raises:
        PictureError: it is no picture, or damaged; the message doesn't name it.
        OSError: it can't be read.
    """
    if not path.is_file():
        raise PictureError("a folder or a device, not a picture file" if path.exists() else "no such file")
    size = path.stat().st_size
    if size > MAX_PICTURE_BYTES:
        raise PictureError(f"{size:,} bytes; at most {MAX_PICTURE_BYTES:,} are read")
    return decode_picture(gunzip_picture(path.read_bytes()))


def to_rgb(picture: Picture, name: str) -> Image.Image:
    """Any picture as an upright RGB one.

    Args:
        picture: as users have it.
        name: of what has no path, for messages.

    Raises:
        PictureError: it is no picture; the message names it, what it is, and what it should be.
    """
    if isinstance(picture, np.ndarray):
        return _of_array(picture, name)
    try:
        if isinstance(picture, Image.Image):
            return upright_rgb(_with_pixels(picture))
        if isinstance(picture, str | os.PathLike):
            name = os.fsdecode(picture)
            return read_picture(Path(name))
    except MemoryError:
        raise
    except Exception as error:
        # PIL documents no closed list of what it raises at damaged files.
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise PictureError(f"{name}: {reason}") from error
    raise PictureError(
        f"{name} is of type {type(picture).__name__}; a picture is a path, a PIL picture, or a NumPy array uint8 "
        "[height, width, 3]"
    )


def _with_pixels(picture: Image.Image) -> Image.Image:
    if 0 in picture.size:
        raise PictureError(f"{picture.width} x {picture.height} pixels; there must be at least one")
    return picture


def _of_array(array: NDArray[np.uint8], name: str) -> Image.Image:
    is_rgb = array.ndim == 3 and array.shape[2] == 3 and array.size > 0
    if is_rgb and array.dtype == np.uint8:
        return Image.fromarray(array)
    raise PictureError(
        f"{name} is an array {array.dtype} {list(array.shape)}; a picture is uint8 [height, width, 3], RGB: "
        + (_other_numbers(array) if is_rgb else _other_shape(array))
    )


def _other_numbers(array: NDArray[np.generic]) -> str:
    if np.issubdtype(array.dtype, np.floating):
        return "if it runs from 0 to 1, give (array * 255).round().astype(numpy.uint8)"
    return "bring it to 0 to 255 and give array.astype(numpy.uint8)"


def _other_shape(array: NDArray[np.generic]) -> str:
    if array.size == 0:
        return "this one has no pixels"
    if array.ndim == 4:
        return "give several as a list, list(array)"
    if array.ndim == 3 and array.shape[0] == 3:
        return "give array.transpose(1, 2, 0)"
    if array.ndim == 3 and array.shape[2] == 4:
        return "leave alpha out, array[..., :3]"
    if array.ndim == 2:
        return "give grey ones three channels, numpy.stack([array] * 3, axis=2)"
    return "give PIL.Image.open(file) where it comes from a file"
