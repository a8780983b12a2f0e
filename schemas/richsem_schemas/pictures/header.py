"""The size of a picture from the start of its file, without a look at its pixels."""

import io
from collections.abc import Callable
from pathlib import Path

from PIL import ExifTags, Image

from richsem_schemas.errors import PictureError
from richsem_schemas.io.files import open_regular
from richsem_schemas.io.words import one_line
from richsem_schemas.pictures.decode import MAX_PICTURE_BYTES, pil_format_of
from richsem_schemas.pictures.structure import check_structure, require_little_exif

_HEAD_BYTES = 2**16
"""Of a file that are read at first: most headers end before; a profile or a preview may make one longer."""

_TURNED = frozenset({5, 6, 7, 8})
"""Orientations of EXIF whose upright picture has height and width exchanged."""


def picture_hw(path: Path) -> tuple[int, int]:
    """Height and width of a picture as `decode_picture` gives it, upright, in pixels.

    Pixels are not decoded, so that a damaged picture may have a size. EXIF data behind the pixels of a PNG isn't seen.

    Raises:
        PictureError: no picture that is decoded, or a damaged header.
        OSError: the file can't be read.
    """
    with open_regular(path) as file:
        head = file.read(_HEAD_BYTES)
        return picture_hw_of(head, lambda: head + file.read(MAX_PICTURE_BYTES + 1 - len(head)))


def picture_hw_of(head: bytes, whole: Callable[[], bytes]) -> tuple[int, int]:
    """The same, of the first bytes of a file; all of them are asked for where these don't do.

    Raises:
        PictureError: as `picture_hw`.
    """
    pil_format = pil_format_of(head)
    if pil_format != "TIFF":
        # The directory of a TIFF may stand at its end, and its tags anywhere.
        try:
            return _upright_hw(head, pil_format)
        except Exception:  # noqa: S110 - cut short, or broken: the whole file tells
            pass
    data = whole()
    if len(data) > MAX_PICTURE_BYTES:
        raise PictureError(f"is larger than {MAX_PICTURE_BYTES:,} bytes, the most a picture may have")
    check_structure(data, pil_format)
    try:
        return _upright_hw(data, pil_format)
    except (PictureError, MemoryError):
        raise
    except Exception as error:
        raise PictureError(
            f"its header can't be read as {pil_format}: {type(error).__name__}: {one_line(error, longest=200)}"
        ) from error


def _upright_hw(data: bytes, pil_format: str) -> tuple[int, int]:
    with Image.open(io.BytesIO(data), formats=(pil_format,)) as image:
        width, height = image.size
        # PIL turns a TIFF by itself, and its size with it.
        is_turned = pil_format != "TIFF" and _orientation(image) in _TURNED
    return (width, height) if is_turned else (height, width)


def _orientation(image: Image.Image) -> int:
    for name in ("exif", "Raw profile type exif"):
        require_little_exif(len(image.info.get(name, b"")))
    try:
        # PNG's own method would decode the picture to see whether EXIF data follows.
        return int(Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1))
    except MemoryError:
        raise
    except Exception:
        return 1
