import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import v2

from richsem_schemas.pictures import resize
from richsem_schemas.pictures.resize import PackedPicture, resize_picture, resize_pixels

SHAPES = [(480, 640), (37, 53), (300, 200)]
OUTPUTS = [(640, 640), (80, 107), (800, 1066), (37, 200)]

needs_cykooz = pytest.mark.skipif(resize.cykooz_resizer is None, reason="this machine has no wheel of cykooz-resizer")


def noise(height, width, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def smooth(height, width):
    """As photographs are: neighbours are alike."""
    small = noise(height // 32 + 2, width // 32 + 2)
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def in_float(pixels_HW3, out_hw):
    """Pillow's bicubic filter without rounding, channel by channel."""
    channels = [Image.fromarray(pixels_HW3[..., each].astype(np.float32)) for each in range(3)]
    resized = [each.resize(out_hw[::-1], Image.Resampling.BICUBIC) for each in channels]
    return np.stack([np.asarray(each) for each in resized], axis=-1)


def digest():
    """Of noise resized to many sizes, whole and in part."""
    found = hashlib.sha256()
    for number, (height, width) in enumerate(SHAPES):
        picture = noise(height, width, number)
        for out_hw in OUTPUTS:
            part = (width * 0.123, height * 0.234, width * 0.789, height * 0.891)
            found.update(resize_picture(picture, out_hw).tobytes())
            found.update(resize_picture(picture, out_hw, part).tobytes())
    return found.hexdigest()


def by_pillow(monkeypatch, *args, **options):
    with monkeypatch.context() as patch:
        patch.setattr(resize, "cykooz_resizer", None)
        return resize_picture(*args, **options)


# Pillow holds the largest in several pieces.
@pytest.mark.parametrize("shape", [(1, 1), *SHAPES, (3000, 3001)])
def test_packed_pictures_have_the_bytes_that_pillow_gives(shape):
    picture = noise(*shape)
    for each in (picture, picture.transpose(Image.Transpose.ROTATE_90), picture.crop((0, 0, 1, 1))):
        packed = PackedPicture.of(each)
        assert packed.size == each.size
        assert packed.rgb == each.tobytes()


def test_packed_pictures_are_resized_alike_by_either_kernel(monkeypatch):
    picture, box = noise(37, 53), (0.3, 1.7, 50.8, 36.6)
    packed = PackedPicture.of(picture)
    for resized in (resize_picture, lambda *args: by_pillow(monkeypatch, *args)):
        assert np.array_equal(resized(packed, (80, 107), box), resized(picture, (80, 107), box))


@pytest.mark.parametrize("out_hw", OUTPUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_both_kernels_are_within_a_grey_level_of_each_other(shape, out_hw, monkeypatch):
    height, width = shape
    for box in (None, (0.3, 1.7, width - 2.2, height - 0.4)):
        ours = resize_picture(noise(height, width), out_hw, box).astype(int)
        theirs = by_pillow(monkeypatch, noise(height, width), out_hw, box)
        assert ours.shape == (*out_hw, 3)
        assert np.abs(ours - theirs).max() <= 1


@pytest.mark.parametrize("out_hw", OUTPUTS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("filter_", "levels"), [("bilinear", 1), ("bicubic", 2)])
def test_pixels_of_an_array_are_resized_as_torchvision_does_it(shape, out_hw, filter_, levels, monkeypatch):
    """Exactly by Pillow's kernel, and nothing beyond the array is seen."""
    larger = smooth(shape[0] + 9, shape[1] + 9)
    part = larger[4:-5, 4:-5]
    ours = resize_pixels(part, out_hw, filter_).astype(int)
    expected = v2.functional.resize(Image.fromarray(part), list(out_hw), v2.InterpolationMode(filter_))
    assert np.abs(ours - np.asarray(expected)).max() <= levels
    monkeypatch.setattr(resize, "cykooz_resizer", None)
    assert np.array_equal(resize_pixels(part, out_hw, filter_), np.asarray(expected))


@needs_cykooz
@pytest.mark.parametrize("out_hw", OUTPUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_bicubic_pixels_are_as_near_to_exact_arithmetic_as_pillows(shape, out_hw, monkeypatch):
    """Also of noise, where both overshoot white after one of their two passes, and cut it off: within 0.02 levels."""
    pixels = np.asarray(noise(*shape))
    exact = np.clip(in_float(pixels, out_hw), 0, 255)
    ours = np.abs(resize_pixels(pixels, out_hw, "bicubic") - exact).mean()
    monkeypatch.setattr(resize, "cykooz_resizer", None)
    assert ours <= np.abs(resize_pixels(pixels, out_hw, "bicubic") - exact).mean() + 0.02


@needs_cykooz
@pytest.mark.parametrize("extensions", ["none", "sse4_1", "avx2"])
def test_the_kernel_gives_the_same_bytes_by_any_extension_of_the_processor(extensions, monkeypatch):
    expected, cykooz_resizer = digest(), resize.cykooz_resizer
    if sys.platform != "linux" or f" {extensions} " not in f" none {Path('/proc/cpuinfo').read_text()} ":
        pytest.skip(f"this processor has no {extensions}")

    class Limited(cykooz_resizer.Resizer):
        def __init__(self):
            super().__init__()
            self.cpu_extensions = getattr(cykooz_resizer.CpuExtensions, extensions)

    monkeypatch.setattr(cykooz_resizer, "Resizer", Limited)
    assert digest() == expected


def test_threads_and_forks_change_nothing():
    expected = digest()
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: digest(), range(8))) == {expected}
    if not (child := os.fork()):
        os._exit(digest() != expected)
    assert os.waitpid(child, 0)[1] == 0


def test_without_a_wheel_pillow_resizes_and_says_so():
    code = """
import sys
sys.modules["cykooz_resizer"] = None
from PIL import Image, __version__
from richsem_schemas.pictures import resize
assert resize.KERNEL == f"pillow {__version__}", resize.KERNEL
assert resize.resize_picture(Image.new("RGB", (8, 6)), (3, 4)).shape == (3, 4, 3)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
