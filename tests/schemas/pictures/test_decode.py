import gzip
import io
import random
import struct
import subprocess
import sys
import threading
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageFile, ImageOps

from richsem_schemas.errors import PictureError
from richsem_schemas.pictures.decode import decode_picture, gunzip_picture, picture_extension
from tests.pictures import encoded

# Pytest resets the filter that `picture` sets; a test of its own looks at that.
pytestmark = pytest.mark.filterwarnings("ignore")

HEIGHT, WIDTH = 24, 40


def rgb_array(height=HEIGHT, width=WIDTH):
    """Smooth, without any symmetry, so that JPEG keeps it and a wrong turn shows."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, (x + 2 * y) * 255 // (width + 2 * height)], -1).astype("u1")


def rgb_image():
    return Image.fromarray(rgb_array())


def oriented(pil_format, orientation, **options):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return encoded(rgb_image(), pil_format, exif=exif, **options)


def png_chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_claiming(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = png_chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + pixels + png_chunk(b"IEND", b"")


LOSSLESS = {
    "png": ("PNG", {}),
    "bmp": ("BMP", {}),
    "tif": ("TIFF", {}),
    "ppm": ("PPM", {}),
    "webp": ("WEBP", {"lossless": True, "exact": True}),
}


@pytest.mark.parametrize("extension", LOSSLESS)
def test_lossless_formats_decode_to_their_pixels(extension):
    pil_format, options = LOSSLESS[extension]
    data = encoded(rgb_image(), pil_format, **options)
    picture = decode_picture(data)
    assert picture.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(picture), rgb_array())
    assert picture_extension(data) == extension


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "packbits"])
def test_compressed_tiff_decodes(compression):
    data = encoded(rgb_image(), "TIFF", compression=compression)
    np.testing.assert_array_equal(np.asarray(decode_picture(data)), rgb_array())


def test_jpeg_and_gif_decode_as_pil_does():
    for pil_format, extension in (("JPEG", "jpg"), ("GIF", "gif")):
        data = encoded(rgb_image(), pil_format)
        assert picture_extension(data) == extension
        expected = Image.open(io.BytesIO(data)).convert("RGB")
        np.testing.assert_array_equal(np.asarray(decode_picture(data)), np.asarray(expected))


@pytest.mark.parametrize(
    ("pil_format", "mode"),
    [
        *(("PNG", mode) for mode in ("1", "L", "LA", "P", "RGBA")),
        *(("TIFF", mode) for mode in ("1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr")),
        *(("JPEG", mode) for mode in ("1", "L", "CMYK", "YCbCr")),
    ],
)
def test_modes_become_rgb_as_pil_converts_them(pil_format, mode):
    data = encoded(rgb_image().convert(mode), pil_format)
    expected = Image.open(io.BytesIO(data)).convert("RGB")
    picture = decode_picture(data)
    assert picture.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(picture), np.asarray(expected))


def test_alpha_is_dropped_not_blended():
    image = rgb_image()
    image.putalpha(0)
    np.testing.assert_array_equal(np.asarray(decode_picture(encoded(image, "PNG"))), rgb_array())


@pytest.mark.parametrize("transparency", [3, bytes(range(256))])
def test_palette_with_transparency_keeps_its_colours(transparency):
    image = rgb_image().quantize(256)
    data = encoded(image, "PNG", transparency=transparency)
    np.testing.assert_array_equal(np.asarray(decode_picture(data)), np.asarray(image.convert("RGB")))


def grey16():
    values = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    return values, np.repeat((values >> 8).astype(np.uint8)[..., None], 3, -1)


@pytest.mark.parametrize("pil_format", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_keeps_its_high_byte(pil_format):
    values, expected = grey16()
    data = encoded(Image.fromarray(values), pil_format)
    np.testing.assert_array_equal(np.asarray(decode_picture(data)), expected)


def test_big_endian_16_bit_grey_keeps_its_high_byte():
    values, expected = grey16()
    image = Image.frombytes("I;16B", (WIDTH, HEIGHT), values.astype(">u2").tobytes())
    data = encoded(image, "TIFF")
    assert Image.open(io.BytesIO(data)).mode == "I;16B"
    np.testing.assert_array_equal(np.asarray(decode_picture(data)), expected)


def test_32_bit_grey_is_clipped_to_16_bits():
    values = np.array([[-5, 0, 256, 65535, 65536, 2**31 - 1]], np.int32)
    picture = np.asarray(decode_picture(encoded(Image.fromarray(values), "TIFF")))
    assert picture[0, :, 0].tolist() == [0, 0, 1, 255, 255, 255]


def test_floating_point_pixels_are_refused():
    with pytest.raises(PictureError, match="floating-point"):
        decode_picture(encoded(Image.new("F", (4, 4), 0.5), "TIFF"))
    with pytest.raises(PictureError):
        decode_picture(b"Pf\n1 1\n-1.0\n" + struct.pack("<f", 0.5))


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("pil_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_pictures_are_turned_upright(pil_format, orientation):
    data = oriented(pil_format, orientation, **({"lossless": True} if pil_format == "WEBP" else {}))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    picture = decode_picture(data)
    assert picture.size == ((HEIGHT, WIDTH) if orientation in {5, 6, 7, 8} else (WIDTH, HEIGHT))
    np.testing.assert_array_equal(np.asarray(picture), np.asarray(expected))


BROKEN_EXIF = [
    b"Exif\0\0",
    b"Exif\0\0garbage",
    b"Exif\0\0II*\0\xff\xff\xff\xff",
    b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
    b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04up\0\0\0\0\0\0",
    b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\xff\xff\0\0\0\0\0\0",
]


@pytest.mark.parametrize("exif", BROKEN_EXIF)
@pytest.mark.parametrize("pil_format", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_does_not_fail_the_picture(exif, pil_format):
    data = encoded(rgb_image(), pil_format, exif=exif)
    plain = decode_picture(encoded(rgb_image(), pil_format))
    np.testing.assert_array_equal(np.asarray(decode_picture(data)), np.asarray(plain))


@pytest.mark.parametrize("pil_format", ["GIF", "PNG", "WEBP", "TIFF", "MPO"])
def test_the_first_frame_of_an_animation_counts(pil_format):
    frames = [Image.new("RGB", (16, 8), colour) for colour in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
    options = {"lossless": True} if pil_format == "WEBP" else {}
    data = encoded(frames[0], pil_format, save_all=True, append_images=frames[1:], **options)
    pixels = np.asarray(decode_picture(data)).astype(int)
    assert pixels.shape == (8, 16, 3)
    assert np.abs(pixels - [200, 0, 0]).max() <= 2


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1)])
def test_extreme_shapes_decode(size):
    assert decode_picture(encoded(Image.new("RGB", size), "PNG")).size == size


def test_size_is_checked_before_pixels_are_decoded():
    data = encoded(rgb_image(), "PNG")
    assert decode_picture(data, max_pixels=HEIGHT * WIDTH).size == (WIDTH, HEIGHT)
    with pytest.raises(PictureError, match="40x24 are 960 pixels; at most 959"):
        decode_picture(data, max_pixels=HEIGHT * WIDTH - 1)


@pytest.mark.parametrize("side", [8_193, 12_000, 60_000, 2**31 - 1])
def test_decompression_bombs_are_refused(side):
    with pytest.raises(PictureError, match="pixels"):
        decode_picture(png_claiming(side, side))


def test_pil_limits_hold_whatever_the_caller_allows():
    with pytest.raises(PictureError, match="DecompressionBomb"):
        decode_picture(png_claiming(60_000, 60_000), max_pixels=2**40)


@pytest.mark.parametrize("name", ["picture.jpg", "picture.eps"])
def test_postscript_is_refused_without_starting_ghostscript(name, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    data = encoded(rgb_image(), "EPS")
    for start in (data, b"\xc5\xd0\xd3\xc6" + data):
        with pytest.raises(PictureError, match="starts with"):
            decode_picture(start)
        with pytest.raises(PictureError, match="starts with"):
            picture_extension(start)


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"hello world", b"RIFF\0\0\0\0WAVE", b"P7\n", b"\xff\xd8", b"P"])
def test_what_is_no_picture_is_refused(data):
    with pytest.raises(PictureError):
        decode_picture(data)
    with pytest.raises(PictureError):
        picture_extension(data)


def test_an_empty_file_is_called_so():
    with pytest.raises(PictureError, match="0 bytes"):
        decode_picture(b"")


@pytest.mark.parametrize("pil_format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_truncated_pictures_are_refused_at_every_length(pil_format):
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    data = encoded(Image.fromarray(noise), pil_format)
    # The last few bytes may be an end marker or metadata that no pixel needs.
    for length in [*range(0, 200, 7), *range(200, len(data) * 9 // 10, 97)]:
        with pytest.raises(PictureError) as caught:
            decode_picture(data[:length])
        assert "\n" not in str(caught.value)
        assert " at 0x" not in str(caught.value)


def test_a_file_named_by_its_content_decodes_whatever_its_name_was():
    assert picture_extension(encoded(rgb_image(), "PNG")) == "png"
    assert picture_extension(encoded(rgb_image(), "MPO", save_all=True, append_images=[rgb_image()])) == "jpg"


@pytest.mark.parametrize("pil_format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_damaged_bytes_raise_nothing_but_picture_errors(pil_format, capfd):
    data = (
        oriented(pil_format, 6) if pil_format in {"JPEG", "PNG", "WEBP", "TIFF"} else encoded(rgb_image(), pil_format)
    )
    generator = random.Random(0)
    reasons = []
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(generator.randint(1, 8)):
            damaged[generator.randrange(min(len(data), generator.choice([40, 300, len(data)])))] = generator.randrange(
                256
            )
        try:
            assert decode_picture(bytes(damaged), max_pixels=2**20).mode == "RGB"
        except PictureError as error:
            reasons.append(str(error))
    assert reasons
    assert all(len(reason) < 300 and "\n" not in reason for reason in reasons)
    assert capfd.readouterr().err == ""


def test_running_out_of_memory_is_not_the_pictures_fault(monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(MemoryError):
        decode_picture(encoded(rgb_image(), "BMP"))


def test_pils_global_state_stays_as_it_was():
    before = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
    decode_picture(encoded(rgb_image(), "JPEG"))
    assert before == (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS)


def test_pil_warnings_are_not_printed():
    # In a process of its own: pytest replaces the warning filters.
    code = """
import io, sys
from PIL import Image
from richsem_schemas.errors import PictureError
from richsem_schemas.pictures.decode import decode_picture
for size in (10_000, 60_000):
    header = b"P6 %d %d 255\\n" % (size, size)
    try: decode_picture(header)
    except PictureError: print("refused")
buffer = io.BytesIO()
Image.new("P", (4, 4)).save(buffer, "PNG", transparency=bytes(256))
decode_picture(buffer.getvalue())
buffer = io.BytesIO()
Image.new("RGB", (4, 4)).save(buffer, "JPEG", exif=b"Exif\\0\\0II*\\0\\x08\\0\\0\\0\\xff\\xff")
decode_picture(buffer.getvalue())
"""
    command = [sys.executable, "-W", "always", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "refused\nrefused\n"
    assert done.stderr == ""


def test_threads_decode_the_same_pixels():
    data = encoded(rgb_image(), "JPEG")
    expected = np.asarray(decode_picture(data))
    results = []
    threads = [threading.Thread(target=lambda: results.append(np.asarray(decode_picture(data)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert all(np.array_equal(result, expected) for result in results)


def test_real_pictures_decode_as_pil_does(sample_pictures):
    for path in sorted(sample_pictures.glob("*/*"))[:20]:
        data = path.read_bytes()
        assert picture_extension(data) == "jpg"
        expected = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        np.testing.assert_array_equal(np.asarray(decode_picture(data)), np.asarray(expected))


def test_gunzip_returns_other_files_as_they_are():
    data = encoded(rgb_image(), "JPEG")
    assert gunzip_picture(data) is data
    assert gunzip_picture(b"") == b""


def test_gunzip_inflates_all_members_and_ignores_padding():
    data = encoded(rgb_image(), "JPEG")
    assert gunzip_picture(gzip.compress(data)) == data
    assert gunzip_picture(gzip.compress(data[:50]) + gzip.compress(data[50:]) + bytes(20)) == data


def test_gunzip_is_bounded():
    bomb = gzip.compress(bytes(10_000_000))
    assert len(gunzip_picture(bomb, max_bytes=10_000_000)) == 10_000_000
    with pytest.raises(PictureError, match="more than 9,999,999 bytes"):
        gunzip_picture(bomb, max_bytes=9_999_999)
    with pytest.raises(PictureError, match="more than 15,000,000 bytes"):
        gunzip_picture(bomb + bomb, max_bytes=15_000_000)


def test_gunzip_inflates_no_more_than_its_bound(monkeypatch):
    import tracemalloc

    bomb = gzip.compress(bytes(64 * 2**20), compresslevel=1)
    tracemalloc.start()
    with pytest.raises(PictureError):
        gunzip_picture(bomb, max_bytes=2**20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20


def test_damaged_gzip_data_is_refused():
    data = gzip.compress(encoded(rgb_image(), "JPEG"))
    with pytest.raises(PictureError, match="ends early"):
        gunzip_picture(data[:-9])
    with pytest.raises(PictureError, match="damaged gzip"):
        gunzip_picture(data[:-8] + bytes(8))
    with pytest.raises(PictureError):
        gunzip_picture(b"\x1f\x8b")
