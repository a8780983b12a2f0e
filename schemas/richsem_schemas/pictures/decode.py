"""The one decoder of pictures, for the teacher and for the student, so that both see the same pixels.

Pictures are untrusted: formats are an explicit list (PIL would hand EPS to Ghostscript), what would take long is
refused by its structure, sizes are checked before pixels are decoded, and whatever a decoder raises on broken bytes
becomes a `PictureError`.
"""

import io
import logging
import warnings
import zlib

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from richsem_schemas.errors import PictureError
from richsem_schemas.io.words import one_line
from richsem_schemas.pictures.limits import MAX_PICTURE_SIDE
from richsem_schemas.pictures.structure import check_structure, require_little_exif

MAX_PICTURE_PIXELS = 64 * 2**20
"""Largest picture that is decoded, in pixels (192 MiB as RGB)."""

MAX_PICTURE_BYTES = 128 * 2**20
"""Largest picture file that is read, in bytes, compressed or not."""

# Extension, PIL's format, and the bytes such a file starts with (PIL accepts the same). JPEG includes MPO: PIL opens it
# by its JPEG opener and knows no "MPO" in `formats`.
_SIGNATURES: tuple[tuple[str, str, tuple[bytes, ...]], ...] = (
    ("jpg", "JPEG", (b"\xff\xd8\xff",)),
    ("png", "PNG", (b"\x89PNG\r\n\x1a\n",)),
    ("gif", "GIF", (b"GIF87a", b"GIF89a")),
    ("bmp", "BMP", (b"BM",)),
    ("tif", "TIFF", (b"II*\0", b"MM\0*")),
    ("ppm", "PPM", tuple(b"P%d" % kind + space for kind in (4, 5, 6) for space in (b"\n", b" ", b"\t", b"\r"))),
)
PICTURE_EXTENSIONS = ("webp", *(extension for extension, _, _ in _SIGNATURES))
"""All that `picture_extension` gives, and so the pictures of caches have."""

_GZIP_MAGIC = b"\x1f\x8b"

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# What PIL has to say about damaged metadata would drown a job's own output. A filter for the whole process, since
# `warnings.catch_warnings` is not safe in decode threads; and no last-resort printing of PIL's log.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())


def decode_picture(data: bytes, *, max_pixels: int = MAX_PICTURE_PIXELS) -> Image.Image:
    """Decode a picture's bytes into an upright RGB image.

    Of an animation the first frame counts. Alpha is dropped, not blended. 16-bit grey keeps its high byte. Colour
    profiles are ignored, as the common training pipelines do.

    Args:
        data: a JPEG (or MPO), PNG, WebP, BMP, GIF, TIFF, PPM, binary PGM or PBM file; not gzip-compressed (see
            `gunzip_picture`).
        max_pixels: refuse pictures with more, before their pixels are decoded.

    Raises:
        PictureError: not such a picture, damaged, cut short, too large, of floating-point pixels, or of a structure
            that would take long (see `check_structure`).
    """
    _, pil_format = _identify(data)
    check_structure(data, pil_format)
    try:
        with Image.open(io.BytesIO(data), formats=(pil_format,)) as image:
            _check_size(image, max_pixels)
            return upright_rgb(image)
    except (PictureError, MemoryError):
        raise
    except UnidentifiedImageError:
        # PIL's own message holds a memory address; quarantine files must not differ between runs.
        raise PictureError(f"its header looks like {pil_format} but is damaged") from None
    except Exception as error:
        # PIL documents no closed list: OSError, SyntaxError, ValueError, struct.error, zlib.error, EOFError and more.
        raise PictureError(
            f"can't be decoded as {pil_format}: {type(error).__name__}: {one_line(error, longest=200)}"
        ) from error


def upright_rgb(image: Image.Image) -> Image.Image:
    """A picture of PIL's as RGB, turned as its EXIF data says; see `decode_picture`.

    Raises:
        PictureError: its pixels are floating-point numbers.
        Exception: whatever PIL raises where its file is damaged.
    """
    image.load()
    # After load: a PNG may carry EXIF behind its pixels, and TIFF is turned upright by PIL's own load.
    orientation = _exif_orientation(image)
    rgb = _to_rgb(image)
    return rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb


def picture_extension(data: bytes) -> str:
    """Name the file extension that fits the content: `jpg`, `png`, `webp`, `bmp`, `gif`, `tif` or `ppm`.

    Raises:
        PictureError: the bytes start like none of them.
    """
    return _identify(data)[0]


def pil_format_of(data: bytes) -> str:
    """Pillow's name of the format that the first bytes of a file are of, such as `JPEG`.

    Raises:
        PictureError: they are of none that is decoded.
    """
    return _identify(data)[1]


def gunzip_picture(data: bytes, *, max_bytes: int = MAX_PICTURE_BYTES) -> bytes:
    """Inflate a gzip-compressed file; return any other as it is.

    Some "JPEGs" of the original ImageNet tars are gzip files. Bytes after the last gzip member are ignored, as gzip
    does with padding.

    Args:
        data: the bytes as they were stored.
        max_bytes: refuse to inflate to more.

    Raises:
        PictureError: the gzip data is damaged, cut short, or inflates to more than `max_bytes`.
    """
    if not data.startswith(_GZIP_MAGIC):
        return data
    parts: list[bytes] = []
    room = max_bytes
    rest = data
    while rest.startswith(_GZIP_MAGIC):
        part, rest = _inflate_member(rest, room, max_bytes)
        parts.append(part)
        room -= len(part)
    return b"".join(parts)


def _identify(data: bytes) -> tuple[str, str]:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp", "WEBP"
    for extension, pil_format, starts in _SIGNATURES:
        if data.startswith(starts):
            return extension, pil_format
    if not data:
        raise PictureError("an empty file: 0 bytes")
    raise PictureError(f"starts with {data[:8]!r}; not a JPEG, PNG, WebP, BMP, GIF, TIFF or binary PNM picture")


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if max(width, height) > MAX_PICTURE_SIDE:
        raise PictureError(f"{width}x{height} pixels; a side may have at most {MAX_PICTURE_SIDE:,}")
    if width * height > max_pixels:
        raise PictureError(f"{width}x{height} are {width * height:,} pixels; at most {max_pixels:,} are decoded")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise PictureError("floating-point pixels have no defined white; convert the picture to 8 or 16 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):
        # PIL would saturate at 255 instead of scaling.
        image = Image.fromarray(np.clip(np.asarray(image) >> 8, 0, 255).astype(np.uint8))
    # PIL would copy one that is RGB.
    return image if image.mode == "RGB" else image.convert("RGB")


def _exif_orientation(image: Image.Image) -> int:
    """Read the EXIF orientation, 1..8; 1 (upright) where there is none or it can't be read."""
    for name in ("exif", "Raw profile type exif"):
        require_little_exif(len(image.info.get(name, b"")))
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except MemoryError:
        raise
    except Exception:
        # The pixels are whole: broken metadata is no reason to lose the picture.
        return 1
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def _inflate_member(data: bytes, room: int, max_bytes: int) -> tuple[bytes, bytes]:
    """Inflate the gzip member at the start of `data` into at most `room` bytes; return it and what follows it."""
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        part = inflater.decompress(data, room + 1)
    except zlib.error as error:
        raise PictureError(f"damaged gzip data: {type(error).__name__}: {one_line(error, longest=200)}") from error
    if len(part) > room:
        raise PictureError(f"inflates from gzip to more than {max_bytes:,} bytes, the most a picture may have")
    if not inflater.eof:
        raise PictureError("truncated: its gzip data ends early")
    return part, inflater.unused_data
