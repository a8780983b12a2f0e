"""A picture's size is that of its decoded pixels, told without them."""

import numpy as np
import pytest
from PIL import Image

from richsem_schemas.errors import PictureError
from richsem_schemas.pictures.decode import decode_picture
from richsem_schemas.pictures.header import picture_hw
from tests.pictures import encoded

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 90, 3), np.uint8))


@pytest.mark.parametrize("pil_format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_header_has_the_size_of_the_upright_picture(pil_format, orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(PICTURE, pil_format, exif=exif)
    (tmp_path / "x").write_bytes(data)
    assert picture_hw(tmp_path / "x") == decode_picture(data).size[::-1]


@pytest.mark.parametrize("pil_format", ["BMP", "GIF", "PPM", "MPO"])
def test_other_formats_are_known_too(pil_format, tmp_path):
    (tmp_path / "x").write_bytes(encoded(PICTURE, pil_format))
    assert picture_hw(tmp_path / "x") == (40, 90)


def test_a_header_longer_than_what_is_read_at_first_is_read(tmp_path):
    profile = np.random.default_rng(0).bytes(300_000)
    (tmp_path / "x").write_bytes(encoded(PICTURE, "JPEG", icc_profile=profile))
    assert picture_hw(tmp_path / "x") == (40, 90)


@pytest.mark.parametrize("data", [b"", b"no picture", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\nand nothing"])
def test_what_is_no_picture_is_refused(data, tmp_path):
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(PictureError):
        picture_hw(tmp_path / "x")
