"""Pictures that look the same though their files differ: saved anew, resized, or the next frame of a video."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from richsem_schemas.errors import PictureError
from richsem_schemas.io.ordered_map import default_threads
from richsem_schemas.pictures.decode import MAX_PICTURE_BYTES, decode_picture
from richsem_train.console import Reporter

_SIDE = 16
"""Of thumbnails, pixels."""

_BITS_ASIDE = 7
"""Bits of 256 by which the brightness gradients of near copies may differ."""

_MOST_DIFFERENCE = 6.0
"""Of their grey thumbnails, on average, of 255."""

_AT_A_TIME = 16
_BANDS = 8
"""More than `_BITS_ASIDE`, so that near copies agree in one band at least."""


def groups_of_near_copies(files: Sequence[Path], reporter: Reporter) -> list[list[int]]:
    """Positions of pictures that look the same, a list for each set of two or more; pictures are decoded for it.

    Two look the same where at most 7 of 256 bits of their difference hash (is a pixel brighter than its right
    neighbour, of 16 x 16 after shrinking) differ, and their grey thumbnails by at most 6 of 255 on average. Sets are
    chains of such pairs. Pictures that are flat all over have nothing to be told by, and are left alone.

    Source:
        Difference hashes as of N. Krawetz, "Kind of Like That", 2013; longer here, and thumbnails decide as well.
    """
    thumbnails, is_known = _thumbnails(files, reporter)
    bits_NB = (thumbnails[:, :, 1:] > thumbnails[:, :, :-1]).reshape(len(files), -1)
    small = thumbnails[:, :, :_SIDE].reshape(len(files), -1)
    first = list(range(len(files)))

    def root(position: int) -> int:
        while first[position] != position:
            first[position] = first[first[position]]
            position = first[position]
        return position

    for one, others in _pairs(bits_NB, is_known):
        differing = np.count_nonzero(bits_NB[others] != bits_NB[one], axis=1)
        shades = np.abs(small[others].astype(np.float32) - small[one]).mean(axis=1)
        for other in others[(differing <= _BITS_ASIDE) & (shades <= _MOST_DIFFERENCE)].tolist():
            first[root(other)] = root(one)
    groups: dict[int, list[int]] = {}
    for position in range(len(files)):
        groups.setdefault(root(position), []).append(position)
    return [group for group in groups.values() if len(group) > 1]


def _pairs(bits_NB: NDArray[np.bool_], is_known: NDArray[np.bool_]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Each picture with later ones that agree with it in one band of bits at least, as all near copies do."""
    packed = np.packbits(bits_NB, axis=1).reshape(len(bits_NB), _BANDS, -1)
    for band in range(_BANDS):
        buckets: dict[bytes, list[int]] = {}
        for position in np.flatnonzero(is_known & packed[:, band].any(axis=1)).tolist():
            buckets.setdefault(packed[position, band].tobytes(), []).append(position)
        for bucket in buckets.values():
            positions = np.array(bucket, np.int64)
            for place, one in enumerate(bucket[:-1]):
                yield one, positions[place + 1 :]


def _thumbnails(files: Sequence[Path], reporter: Reporter) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Grey, uint8 [N, 16, 17], and which of them could be made, bool [N]."""
    thumbnails = np.zeros((len(files), _SIDE, _SIDE + 1), np.uint8)
    is_known = np.zeros(len(files), np.bool_)
    reporter.begin("making thumbnails", len(files))
    with ThreadPoolExecutor(default_threads()) as pool:
        for start in range(0, len(files), _AT_A_TIME):
            part = files[start : start + _AT_A_TIME]
            for position, thumbnail in enumerate(pool.map(_thumbnail, part), start):
                if thumbnail is not None:
                    thumbnails[position], is_known[position] = thumbnail, True
            reporter.move(start + len(part))
    reporter.end()
    return thumbnails, is_known


def _thumbnail(path: Path) -> NDArray[np.uint8] | None:
    try:
        with path.open("rb") as file:
            image = decode_picture(file.read(MAX_PICTURE_BYTES))
    except (OSError, PictureError):
        return None
    return np.asarray(image.convert("L").resize((_SIDE + 1, _SIDE), Image.Resampling.BOX))
