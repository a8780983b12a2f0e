"""Small files that would take long: each is refused at once, or costs no more than a few of the largest pictures."""

import functools
import io
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from richsem_schemas.errors import PictureError
from richsem_schemas.pictures.decode import MAX_PICTURE_PIXELS, decode_picture
from richsem_schemas.pictures.structure import MAX_EXIF_BYTES, MAX_PARTS, MAX_SCANS, MAX_STRIPS
from tests.pictures import encoded

pytestmark = pytest.mark.filterwarnings("ignore")

SIDE = 8192
LARGEST_PICTURES = 10
"""No file takes longer than so many plain JPEGs of the most pixels that are decoded; the worst one found takes 4."""


def tiny(pil_format, **options):
    return encoded(Image.new("RGB", (8, 8), (9, 9, 9)), pil_format, **options)


@functools.cache
def seconds_of_the_largest():
    data = encoded(Image.new("RGB", (SIDE, SIDE), (90, 120, 150)), "JPEG")
    assert SIDE**2 == MAX_PICTURE_PIXELS
    # The processor's seconds of this thread: other work on the machine doesn't count.
    start = time.thread_time()
    decode_picture(data)
    return time.thread_time() - start


# JPEG: two bytes of start, segments, scans.


def segment(marker, content):
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def jpeg_with(inserted):
    data = tiny("JPEG")
    return data[:2] + inserted + data[2:]


def exif_of_rationals(count, tag=0x011A):
    """Exif data whose `tag` holds `count` fractions, each of which becomes an object in Pillow."""
    entries = struct.pack(">HHHLL", 2, tag, 5, count, 38) + struct.pack(">HHLHH", 0x0128, 3, 1, 2, 0) + bytes(4)
    return b"MM\0*\0\0\0\x08" + entries + struct.pack(">II", 3, 7) * count


def exif_segments(exif):
    return b"".join(segment(0xE1, b"Exif\0\0" + exif[at : at + 65_000]) for at in range(0, len(exif), 65_000))


@functools.cache
def progressive(side):
    """Header, first scan and a refining scan of a grey progressive JPEG."""
    data = encoded(Image.new("RGB", (side, side), (128, 128, 128)), "JPEG", progressive=True)
    scans = [at for at in range(len(data) - 1) if data[at : at + 2] == b"\xff\xda"]
    return data[: scans[0]], data[scans[0] : scans[1]], data[scans[5] : scans[6]]


def jpeg_of_scans(side, scans):
    header, first, refining = progressive(side)
    return header + first + refining * (scans - 1) + b"\xff\xd9"


# PNG: a signature, chunks.


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_with(inserted, *, at_end=False):
    data = tiny("PNG")
    place = len(data) - 12 if at_end else 33
    return data[:place] + inserted + data[place:]


@functools.cache
def inflating_to_a_mebibyte():
    return b"a\0\0" + zlib.compress(bytes(2**20), 9)


# GIF, BMP, PNM, TIFF.


def gif_with(inserted):
    data = encoded(Image.new("P", (8, 8)), "GIF")
    header = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    return data[:header] + inserted + data[header:]


def bmp(width, height, compression=0):
    header = struct.pack("<IiiHHIIIIII", 40, width, height, 1, 24, compression, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54) + header + bytes(3 * width * height)


def tiff(tags, beyond=b"", order="<"):
    """A TIFF of one directory: tag, type, count, value, and whether the value is a place counted from `beyond` on."""
    start = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(
        struct.pack(order + "HHII", tag, kind, count, start + value if is_place else value)
        for tag, kind, count, value, is_place in tags
    )
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(order + "IH", 8, len(tags)) + entries + bytes(4) + beyond


def grey_tiff(width, height, *tags, compression=1, beyond=b""):
    basic = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1)]
    return tiff([*((*item, False) for item in basic), *tags], beyond)


def striped_tiff(strips):
    offsets = (273, 4, strips, 0, True)
    rows = [(277, 3, 1, 1, False), (278, 4, 1, 1, False)]
    place = 8 + 2 + 12 * 8 + 4 + 4 * strips
    return grey_tiff(64, strips, offsets, *rows, beyond=struct.pack("<I", place) * strips + bytes(70_000))


def tiff_of_rationals(count):
    return grey_tiff(1, 1, (273, 4, 1, 0, True), (282, 5, count, 0, True), beyond=struct.pack("<II", 3, 7) * count)


REFUSED = {
    "jpeg: 1,900 Exif segments": lambda: jpeg_with(segment(0xE1, b"Exif\0\0" + bytes(65_000)) * 1_900),
    "jpeg: a million fractions in Exif": lambda: jpeg_with(exif_segments(exif_of_rationals(1_000_000))),
    "jpeg: 2,000 empty scans": lambda: jpeg_of_scans(SIDE, 2_000),
    "jpeg: 17 scans of the most pixels": lambda: jpeg_of_scans(SIDE, 17),
    "jpeg: fill between segments": lambda: jpeg_with(b"\xff" * 10_000_000),
    "jpeg: stray bytes between segments": lambda: jpeg_with(segment(0xFE, b"") + bytes(10_000_000)),
    "jpeg: segments in unknown ones": lambda: jpeg_with(segment(0xF0, segment(0xE1, b"Exif\0\0abc") * 4_000) * 99),
    "jpeg: segments behind an end": lambda: jpeg_with(b"\xff\xd9" + segment(0xE1, b"Exif\0\0abc") * 100_000),
    "jpeg: tables without end": lambda: jpeg_with(segment(0xC4, bytes(17 * 3_000)) * 500),
    "jpeg: arithmetic coding": lambda: jpeg_with(segment(0xC9, b"\x08\0\x08\0\x08\x01\x01\x11\0")),
    "jpeg: lossless": lambda: jpeg_with(segment(0xC3, b"\x08\0\x08\0\x08\x01\x01\x11\0")),
    "jpeg: two frames": lambda: jpeg_with(segment(0xC0, b"\x08\0\x08\0\x08\x01\x01\x11\0") * 2),
    "png: a million empty chunks": lambda: png_with(chunk(b"abCd", b"") * 1_000_000),
    "png: a million chunks of no pixel": lambda: png_with(chunk(b"IDAT", b"") * 1_000_000, at_end=True),
    "png: frames without end": lambda: png_with(chunk(b"fcTL", bytes(26)) * 300_000, at_end=True),
    "png: a million fractions in Exif": lambda: png_with(chunk(b"eXIf", exif_of_rationals(1_000_000, 0x0112))),
    "webp: four million chunks": lambda: tiny("WEBP") + b"abcd\0\0\0\0" * 4_000_000,
    "gif: a comment in pieces of a byte": lambda: gif_with(b"!\xfe" + b"\1a" * 10_000_000 + b"\0"),
    "gif: extensions without end": lambda: gif_with(b"!\1\0\0" * 5_000_000),
    "gif: pieces behind an empty one": lambda: gif_with(b"!\1\0," + bytes(43) + b"\1a" * 10_000_000 + b"\0"),
    "gif: pieces behind an empty loop": lambda: gif_with(
        b"!\xff\x0bNETSCAPE2.0\0," + bytes(43) + b"\1a" * 10_000_000 + b"\0"
    ),
    "bmp: run lengths": lambda: bmp(4_000, 4_000, compression=1),
    "bmp: one row of all pixels": lambda: bmp(10_000_000, 1),
    "pgm: 500,000 comments": lambda: b"P5\n" + b"#\n" * 500_000 + b"1 1\n255\n\0",
    "pbm: 500,000 comments": lambda: b"P4\n" + b"#\n" * 500_000 + b"1 1\n\0",
    "ppm: text": lambda: b"P3\n2000 2000\n255\n" + b"1 " * 12_000_000,
    "ppm: an odd maximum": lambda: b"P6\n2000 2000\n7\n" + bytes(12_000_000),
    "ppm: 16 bits": lambda: b"P6\n2000 1000\n65535\n" + bytes(12_000_000),
    "ppm: an odd maximum behind a comment in a number": lambda: b"P6\n20#\n00 2000 7 " + bytes(12_000_000),
    "ppm: one row of all pixels": lambda: b"P6\n40000000 1\n255\n" + bytes(120_000_000),
    "tiff: a million fractions": lambda: tiff_of_rationals(1_000_000),
    "tiff: a million fractions in Exif": lambda: grey_tiff(
        1, 1, (273, 4, 1, 0, True), (34665, 4, 1, 0, True),
        beyond=struct.pack("<HHHII", 1, 33434, 5, 1_000_000, 200) + bytes(4 + 8_000_200),
    ),
    "tiff: Exif's place in a list": lambda: grey_tiff(1, 1, (34665, 4, 2, 0, True), beyond=bytes(8)),
    "tiff: a strip a row": lambda: striped_tiff(60_000),
    "tiff: LZMA": lambda: grey_tiff(64, 64, (273, 4, 1, 0, True), compression=34_925, beyond=bytes(70_000)),
    "tiff: 600 tags": lambda: grey_tiff(1, 1, *[(40_000 + tag, 3, 1, 0, False) for tag in range(600)]),
    "tiff: 64-bit offsets": lambda: b"II+\0\x08\0\0\0" + struct.pack("<Q", 16) + bytes(100),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_take_long_is_refused_at_once(case):
    data = REFUSED[case]()
    start = time.thread_time()
    with pytest.raises(PictureError) as caught:
        decode_picture(data)
    assert time.thread_time() - start < seconds_of_the_largest()
    assert len(str(caught.value)) < 300


WITHIN = {
    "jpeg: as many scans as the most pixels may have": lambda: jpeg_of_scans(SIDE, 16),
    "jpeg: as many scans as any may have": lambda: jpeg_of_scans(3_200, MAX_SCANS),
    "jpeg: as much Exif as may be": lambda: jpeg_with(exif_segments(exif_of_rationals(MAX_EXIF_BYTES // 8 - 200))),
    "jpeg: Exif in as many segments as may be": lambda: jpeg_with(segment(0xE1, b"Exif\0\0" + bytes(2_000)) * 490),
    "jpeg: Photoshop's blocks": lambda: jpeg_with(
        segment(0xED, b"Photoshop 3.0\0" + b"8BIM\4\4\0\0\0\0\0\0" * 5_400) * 250
    ),
    "png: as many inflated profiles as may be": lambda: png_with(
        chunk(b"iCCP", inflating_to_a_mebibyte()) * (MAX_PARTS - 7)
    ),
    "png: as many small chunks as may be": lambda: png_with(chunk(b"IDAT", b"") * 16_000, at_end=True),
    "png: as much Exif as may be": lambda: png_with(
        chunk(b"eXIf", exif_of_rationals(MAX_EXIF_BYTES // 8 - 10, 0x0112))
    ),
    "gif: as many blocks as may be": lambda: gif_with(b"!\xfe" + b"\1a" * 65_000 + b"\0"),
    "ppm: the longest row": lambda: b"P6\n65536 600\n255\n" + bytes(3 * 65_536 * 600),
    "tiff: as many strips as may be": lambda: striped_tiff(MAX_STRIPS),
    "tiff: as many fractions as may be": lambda: tiff_of_rationals(131_000),
}


@pytest.mark.parametrize("case", WITHIN)
def test_nothing_that_is_decoded_takes_longer_than_a_few_of_the_largest_pictures(case):
    data = WITHIN[case]()
    start = time.thread_time()
    decode_picture(data)
    assert time.thread_time() - start < LARGEST_PICTURES * seconds_of_the_largest()


# What people's files hold.


def test_a_cameras_jpeg_with_all_its_metadata_decodes():
    """Exif with a thumbnail, a colour profile in parts, a depth map in extended XMP, an index of pictures, restarts."""
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph = Image.effect_noise((64, 40), 50).convert("RGB")
    data = encoded(photograph, "JPEG", exif=exif, icc_profile=bytes(600_000), restart_marker_blocks=1)
    xmp = segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(65_000)) * 120
    data = data[:2] + xmp + segment(0xED, b"Photoshop 3.0\x008BIM\4\4\0\0\0\0\0\0") + data[2:]
    with_trailer = data + data + bytes(1_000_000)
    expected = Image.open(io.BytesIO(data)).convert("RGB").transpose(Image.Transpose.ROTATE_270)
    np.testing.assert_array_equal(np.asarray(decode_picture(with_trailer)), np.asarray(expected))


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_progressive_jpegs_decode_as_pil_does(subsampling):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (65, 43, 3), np.uint8))
    data = encoded(noise, "JPEG", progressive=True, quality=95, subsampling=subsampling)
    expected = Image.open(io.BytesIO(data)).convert("RGB")
    np.testing.assert_array_equal(np.asarray(decode_picture(data)), np.asarray(expected))


def test_a_jpeg_in_several_scans_that_is_not_progressive_is_counted_too():
    """Three components in three scans, as some scanners write them; here 101 of the first."""
    header, scan = b"\xff\xd8", segment(0xDA, b"\1\1\0\0\x3f\0") + b"\0"
    frame = segment(0xC0, b"\x08\0\x08\0\x08\3\1\x11\0\2\x11\0\3\x11\0")
    with pytest.raises(PictureError, match="101 scans"):
        decode_picture(header + frame + scan * 101 + b"\xff\xd9")


def test_a_png_with_a_row_a_chunk_and_text_decodes():
    rows = zlib.compressobj()
    pieces = [rows.compress(b"\0" + bytes([row % 256] * 30)) + rows.flush(zlib.Z_SYNC_FLUSH) for row in range(5_000)]
    header = struct.pack(">IIBBBBB", 10, 5_000, 8, 2, 0, 0, 0)
    text = b"".join(chunk(b"tEXt", b"Comment\0" + bytes([65 + n % 26])) for n in range(300))
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + text + b"".join(chunk(b"IDAT", piece) for piece in pieces)
    picture = np.asarray(decode_picture(data + chunk(b"IDAT", rows.flush()) + chunk(b"IEND", b"")))
    np.testing.assert_array_equal(picture[:, 0, 0], np.arange(5_000) % 256)


@pytest.mark.parametrize(
    ("header", "value"),
    [
        (b"P5\n# CREATOR: GIMP PNM Filter Version 1.1\n2 1\n255\n", 7),
        (b"P5 2 1 255\n", 7),
        (b"P5\r\n2\t1\r\n# one\n# two\n255 ", 7),
    ],
)
def test_pnm_headers_with_comments_decode(header, value):
    assert np.asarray(decode_picture(header + bytes([value, value])))[0, 0].tolist() == [value] * 3


def test_a_pbm_decodes_whatever_its_pixels_look_like():
    # 0x20 0x35 are " 5": no maximum, but pixels.
    assert np.asarray(decode_picture(b"P4\n12 1\n\x35\x30"))[0, :8, 0].tolist() == [255, 255, 0, 0, 255, 0, 255, 0]


def test_gifs_with_comments_loops_and_profiles_before_the_first_frame_decode():
    frames = [Image.new("P", (8, 8), colour) for colour in (1, 2)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], loop=0, comment=b"c" * 2_000)
    expected = Image.open(io.BytesIO(data)).convert("RGB")
    np.testing.assert_array_equal(np.asarray(decode_picture(data)), np.asarray(expected))


@pytest.mark.parametrize("order", ["<", ">"])
def test_tiffs_of_both_byte_orders_decode(order):
    short = 0 if order == "<" else 16  # A short lies at the start of its four bytes.
    tags = [
        (256, 3, 1, 2 << short, False), (257, 3, 1, 1 << short, False), (258, 3, 1, 8 << short, False),
        (259, 3, 1, 1 << short, False), (262, 3, 1, 1 << short, False), (273, 4, 1, 0, True),
        (278, 3, 1, 1 << short, False), (279, 4, 1, 2, False),
    ]  # fmt: skip
    assert np.asarray(decode_picture(tiff(tags, bytes([3, 200]), order)))[0, :, 0].tolist() == [3, 200]


def test_a_large_profile_in_a_tiff_is_no_reason_to_refuse_it():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    data = encoded(noise, "TIFF", icc_profile=bytes(3_000_000), compression="tiff_lzw")
    np.testing.assert_array_equal(np.asarray(decode_picture(data)), np.asarray(noise))


def test_real_pictures_decode_in_every_form_that_is_accepted(sample_pictures):
    for path in sorted(sample_pictures.glob("*/*"))[::16]:
        picture = decode_picture(path.read_bytes())
        for pil_format, options in (
            ("JPEG", {"progressive": True}),
            ("JPEG", {"optimize": True, "restart_marker_rows": 1}),
            ("PNG", {}),
            ("WEBP", {}),
            ("GIF", {}),
            ("BMP", {}),
            ("TIFF", {"compression": "tiff_lzw"}),
            ("PPM", {}),
        ):
            data = encoded(picture.quantize() if pil_format == "GIF" else picture, pil_format, **options)
            assert decode_picture(data).size == picture.size


def test_every_real_picture_is_accepted(sample_pictures):
    coco = sample_pictures.parent / "coco128" / "train2017"
    paths = [*sample_pictures.glob("*/*"), *coco.glob("*.jpg")]
    assert len(paths) >= 160
    for path in paths:
        decode_picture(path.read_bytes())
