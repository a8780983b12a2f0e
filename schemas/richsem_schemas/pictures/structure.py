"""Limits on what a picture file is made of, counted before a decoder sees it.

A small file can keep its decoder busy for minutes: by a header of millions of parts, by thousands of passes over the
pixels, or in a form that Pillow decodes pixel by pixel in Python. So parts, bytes of headers and passes are bounded,
far above what cameras and programs write, and forms are a list. Where a file is cut short or makes no sense the
counting ends: the decoder says that better.
"""

import re
from collections.abc import Iterator
from typing import Literal

from richsem_schemas.errors import PictureError

MAX_PARTS = 512
"""Segments, chunks or tags that are no pixels: tables, profiles, text."""

MAX_HEADER_BYTES = 16 * 2**20
"""Bytes of them. The longest that cameras write hold a second picture or a depth map, some megabytes."""

MAX_EXIF_BYTES = 2**20
"""Of all Exif data; a segment, which is what Exif allows, has 64 KiB."""

MAX_SCANS = 100
"""Scans of a JPEG; encoders write up to 20."""

MAX_SCANNED_PIXELS = 2**30
"""Pixels of a JPEG times its scans: sixteen scans of the largest picture that is decoded."""

MAX_SMALL_CHUNKS = 2**14
"""Chunks of pixels in a PNG, or of anything in a WebP, which may be small; encoders write 4 KiB and more a chunk."""

MAX_STRIPS = 2**14
"""Strips or tiles of a TIFF."""

_BYTES_A_CHUNK = 1024
"""So many bytes allow a chunk more than `MAX_SMALL_CHUNKS`."""

_MAX_STRAY_BYTES = 2**16
"""Of a JPEG, between segments; of a PNM, before the pixels."""

_MAX_BLOCKS = 2**16
"""Of a GIF, before its first frame."""

_MAX_NUMBERS = 2**17
"""Values in the numeric tags of a TIFF's directory, places and lengths of strips among them."""

_FRAME, _SCAN, _EXIF, _END = {0xC0, 0xC1, 0xC2}, 0xDA, 0xE1, 0xD9
_PROGRESSIVE = 0xC2
_ALONE = {0x00, 0x01, *range(0xD0, 0xD9)}
"""Markers without a length."""

_SEGMENTS = _FRAME | {0xC4, _SCAN, 0xDB, 0xDC, 0xDD, *range(0xE0, 0xF0), 0xFE}
"""Frames of baseline, extended and progressive JPEGs with Huffman codes, scans, tables, application data, comments.
Arithmetic coding and the lossless processes take many times as long, and browsers show none of them."""

_NEXT_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""The end of coded pixels: neither a stuffed byte, nor fill, nor a restart."""

_PIXEL_CHUNKS = {b"IDAT", b"fdAT", b"fcTL", b"DDAT"}

_PNM_GAP = rb"\s(?:\s|#[^\r\n]*[\r\n])*"
_PNM_HEADER = re.compile(rb"P([456])" + (_PNM_GAP + rb"\d{1,10}") * 2 + rb"(?:" + _PNM_GAP + rb"(\d{1,10}))?\s")
_PNM_DEPTHS = {(b"5", b"255"), (b"5", b"65535"), (b"6", b"255")}
"""Kinds and largest values that Pillow copies; it converts others number by number."""

_COMPRESSION, _STRIPS, _TILES, _EXIF_DIRECTORY, _GPS_DIRECTORY = 259, 273, 324, 34665, 34853
_COMPRESSIONS = {1: "none", 5: "LZW", 8: "Deflate", 32946: "Deflate", 32773: "PackBits"}
_INTEGERS = {3: 2, 4: 4, 13: 4}
"""Types of whole numbers, and their bytes."""

_BYTES = {1, 2, 6, 7}
"""Types whose values stay bytes, however many: text, profiles, layers of an editor."""


def check_structure(data: bytes, pil_format: str) -> None:
    """Refuse a file that would keep its decoder busy out of proportion to its pixels.

    Raises:
        PictureError: too many parts, too long a header, too many passes, or a form that isn't decoded.
    """
    {
        "JPEG": _check_jpeg,
        "PNG": _check_png,
        "WEBP": _check_webp,
        "GIF": _check_gif,
        "BMP": _check_bmp,
        "TIFF": _check_tiff,
        "PPM": _check_pnm,
    }[pil_format](data)


def _require_few(parts: int, header_bytes: int) -> None:
    if parts > MAX_PARTS or header_bytes > MAX_HEADER_BYTES:
        raise PictureError(
            f"{parts:,} parts or more with {header_bytes:,} bytes that are no pixels; at most {MAX_PARTS} with "
            f"{MAX_HEADER_BYTES:,} are read: save it anew, without its metadata"
        )


def _require_few_chunks(chunks: int, size: int) -> None:
    most = MAX_SMALL_CHUNKS + size // _BYTES_A_CHUNK
    if chunks > most:
        raise PictureError(f"more than {most:,} chunks in {size:,} bytes; save it anew, in fewer")


def _check_jpeg(data: bytes) -> None:
    """Follow the markers up to the first scan, and through all scans where there may be several."""
    parts = header_bytes = exif_bytes = stray_bytes = scans = pixels = components = at = 0
    is_progressive = False
    while 0 <= (found := data.find(b"\xff", at)) < len(data) - 1:
        marker, stray_bytes = data[found + 1], stray_bytes + found - at
        at = found + (1 if marker == 0xFF else 2)
        if (marker == _END and scans) or 0x01 < marker < 0xC0:
            return  # Behind the pixels, or damaged.
        if marker in _ALONE or marker in {_END, 0xFF}:
            stray_bytes += 1
        else:
            length = int.from_bytes(data[at : at + 2], "big")
            _require_segment(marker, length)
            content, at = data[at + 2 : at + min(length, 16)], at + length
            parts, header_bytes = parts + 1, header_bytes + length
            if marker == _EXIF and content.startswith(b"Exif\0\0"):
                exif_bytes += length
                require_little_exif(exif_bytes)
            if marker in _FRAME:
                if pixels:
                    raise PictureError("a JPEG with two frame headers; it has one")
                is_progressive, components = marker == _PROGRESSIVE, int.from_bytes(content[5:6], "big")
                pixels = int.from_bytes(content[1:3], "big") * int.from_bytes(content[3:5], "big")
            if marker == _SCAN:
                scans += 1
                _require_few_scans(scans, pixels)
                if not is_progressive and content[:1] == bytes([components]):
                    return
                following = _NEXT_MARKER.search(data, at)
                at = len(data) if following is None else following.start()
        _require_few(parts, header_bytes)
        if stray_bytes > _MAX_STRAY_BYTES:
            raise PictureError(f"more than {_MAX_STRAY_BYTES:,} stray bytes between the segments of a JPEG")


def _require_segment(marker: int, length: int) -> None:
    if marker not in _SEGMENTS:
        raise PictureError(
            f"a JPEG with a segment 0x{marker:02x}; baseline, extended and progressive ones with Huffman codes are "
            "decoded: save it anew"
        )
    if length < 2:
        raise PictureError(f"a JPEG with a segment of {length} bytes; its length alone takes 2")


def _require_few_scans(scans: int, pixels: int) -> None:
    if scans > MAX_SCANS or scans * pixels > MAX_SCANNED_PIXELS:
        raise PictureError(
            f"{scans} scans or more of {pixels:,} pixels; at most {MAX_SCANS} are decoded, and {MAX_SCANNED_PIXELS:,} "
            "pixels in all of them: save it anew"
        )


def require_little_exif(size: int) -> None:
    """Refuse Exif data of more than `MAX_EXIF_BYTES`: each of its numbers becomes an object.

    Raises:
        PictureError: it is larger.
    """
    if size > MAX_EXIF_BYTES:
        raise PictureError(f"{size:,} bytes of Exif data or more; at most {MAX_EXIF_BYTES:,} are read")


def _check_png(data: bytes) -> None:
    parts = header_bytes = chunks = 0
    at = 8
    while at + 8 <= len(data) and (kind := data[at + 4 : at + 8]) != b"IEND":
        length = int.from_bytes(data[at : at + 4], "big")
        if kind in _PIXEL_CHUNKS:
            chunks += 1
            _require_few_chunks(chunks, len(data))
        else:
            parts, header_bytes = parts + 1, header_bytes + length
            _require_few(parts, header_bytes)
        at += 12 + length


def _check_webp(data: bytes) -> None:
    chunks, at = 0, 12
    while at + 8 <= len(data):
        chunks += 1
        _require_few_chunks(chunks, len(data))
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + length + length % 2


def _check_gif(data: bytes) -> None:
    """Follow the blocks up to the first frame, as Pillow reads them; what comes behind it is not read."""
    for number, _ in enumerate(_gif_blocks(data)):
        if number == _MAX_BLOCKS:
            raise PictureError(f"more than {_MAX_BLOCKS:,} blocks before the first frame of a GIF; save it anew")


def _gif_blocks(data: bytes) -> Iterator[int]:
    """Places of blocks, sub-blocks and stray bytes."""
    at = 13 + (3 << (data[10] & 7) + 1 if len(data) > 10 and data[10] & 0x80 else 0)
    while at < len(data) and data[at] not in b",;":
        yield at
        is_extension, label = data[at] == ord("!"), data[at + 1 : at + 2]
        at += 2 if is_extension else 1
        if is_extension:
            first = data[at : at + 1] > b"\0"
            is_loop = label == b"\xff" and data[at + 1 :].startswith(b"NETSCAPE2.0")
            # Pillow takes these without a look at whether they end the extension.
            for _ in range(1 + (first and is_loop)):
                at += 1 + int.from_bytes(data[at : at + 1], "big")
            if label == b"\xfe" and not first:
                continue
            while at < len(data) and data[at]:
                yield at
                at += 1 + data[at]
            at += 1


def _check_bmp(data: bytes) -> None:
    compression = int.from_bytes(data[30:34], "little") if data[14:18] != b"\x0c\0\0\0" else 0
    if compression not in {0, 3}:
        raise PictureError(f"a BMP of compression {compression}; 0 (none) and 3 (bit fields) are decoded: save it anew")


def _check_pnm(data: bytes) -> None:
    header = _PNM_HEADER.match(data[:_MAX_STRAY_BYTES])
    if header is None or not (header[1] == b"4" or header.groups() in _PNM_DEPTHS):
        raise PictureError(
            "a PNM of another kind than P4, P5 with a maximum of 255 or 65535, or P6 with 255, or with a header of "
            f"more than {_MAX_STRAY_BYTES:,} bytes; save it as PNG"
        )


def _check_tiff(data: bytes) -> None:
    """Look at the first directory, and at those of Exif data and places, which are read with it."""
    order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"
    first = int.from_bytes(data[4:8], order)
    others = [value for tag, value in _tiff_values(data, first, order) if tag in {_EXIF_DIRECTORY, _GPS_DIRECTORY}]
    for tag, value in _tiff_values(data, first, order):
        if tag == _COMPRESSION and value not in _COMPRESSIONS:
            known = ", ".join(f"{number} ({name})" for number, name in _COMPRESSIONS.items())
            raise PictureError(f"a TIFF of compression {value}; decoded are {known}: save it anew")
    for directory in others:
        for _ in _tiff_values(data, directory, order):
            pass


def _tiff_values(data: bytes, directory: int, order: Literal["little", "big"]) -> Iterator[tuple[int, int]]:
    """Tags that change what is read, and their values; all tags of a directory are counted."""
    tags = int.from_bytes(data[directory : directory + 2], order)
    _require_few(tags, 0)
    numbers = 0
    for at in range(directory + 2, min(directory + 2 + 12 * tags, len(data) - 11), 12):
        tag, kind = (int.from_bytes(data[place : place + 2], order) for place in (at, at + 2))
        count = int.from_bytes(data[at + 4 : at + 8], order)
        numbers += 0 if kind in _BYTES else count
        if tag in {_STRIPS, _TILES} and count > MAX_STRIPS:
            raise PictureError(
                f"a TIFF of {count:,} strips or tiles; at most {MAX_STRIPS:,} are read: save it in fewer"
            )
        if numbers > _MAX_NUMBERS:
            raise PictureError(f"a TIFF whose tags hold more than {_MAX_NUMBERS:,} numbers; save it anew")
        if tag in {_COMPRESSION, _EXIF_DIRECTORY, _GPS_DIRECTORY}:
            if count != 1 or kind not in _INTEGERS:
                raise PictureError(f"a TIFF whose tag {tag} is not one whole number; save it anew")
            yield tag, int.from_bytes(data[at + 8 : at + 8 + _INTEGERS[kind]], order)
