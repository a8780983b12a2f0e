"""Pictures that are drawn and weigh what photographs weigh, for benchmarks that have none at hand."""

import io

import numpy as np
from PIL import Image


def drawn_photograph(number: int) -> bytes:
    """A JPEG of ImageNet's usual size, 500 x 375 or upright, that compresses about as photographs do."""
    rng = np.random.default_rng(number)
    width, height = (500, 375) if number % 3 else (375, 500)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    noisy = np.clip(smooth + rng.normal(0, 8, (height, width, 3)), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
