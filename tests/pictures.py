"""Small pictures, drawn at random from their number."""

import io
from pathlib import Path

import numpy as np
from PIL import Image


def encoded(image, pil_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, pil_format, **options)
    return buffer.getvalue()


def jpeg(seed, hw=(48, 64)):
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((hw[1], hw[0]))
    return encoded(small, "JPEG")


def write_pictures(root: Path, count: int, *, classes=3):
    for number in range(count):
        folder = root / f"class_{number % classes}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:05d}.jpg").write_bytes(jpeg(number, (40 + number % 17, 50 + number % 23)))
    return root
