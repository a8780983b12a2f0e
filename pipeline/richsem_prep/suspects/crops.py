"""Suspects as they look: each box in its picture, with something of what is around it."""

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from PIL import Image

from richsem_prep.analyses.analysed_set import OnProgress
from richsem_prep.explore.page import unreadable
from richsem_prep.sources.entry import PictureBoxes
from richsem_prep.suspects.find_suspects import Suspect
from richsem_schemas.cache.reader import Cache
from richsem_schemas.cache.shard import StoredPicture
from richsem_schemas.errors import RichSemError
from richsem_schemas.io.places import Place
from richsem_schemas.pictures.boxes import xywh_to_xyxy
from richsem_schemas.pictures.decode import decode_picture

_AROUND = 0.35
"""What is shown around a box on each side, as a share of its longer side."""

_LEAST_AROUND_PX = 8
_LONGEST_SIDE = 360
_JPEG_QUALITY = 82


@dataclass(frozen=True)
class ShownSuspect:
    """A suspect and its picture.

    Attributes:
        jpeg: base64.
        size: width and height of what is shown, pixels of the picture.
        box_xywh: in what is shown.
    """

    suspect: Suspect
    jpeg: str
    size: tuple[int, int]
    box_xywh: tuple[float, float, float, float]


def shown_suspects(
    cache: Cache, suspects: Sequence[Suspect], root: Place | None, on_progress: OnProgress
) -> list[ShownSuspect]:
    """Suspects with their pictures, in their order; pictures are read one at a time.

    Raises:
        RichSemError: an original isn't where it was.
        CorruptCacheError: a file of the cache is damaged.
    """
    shown: dict[int, ShownSuspect] = {}
    by_sample = sorted(range(len(suspects)), key=lambda number: suspects[number].sample)
    groups = {
        sample: list(numbers) for sample, numbers in groupby(by_sample, key=lambda number: suspects[number].sample)
    }
    try:
        for sample, picture in _pictures(cache, list(groups), root):
            pixels = decode_picture(picture.data)
            for number in groups[sample]:
                shown[number] = _shown(suspects[number], pixels)
            on_progress(len(shown), len(suspects))
    except OSError as error:
        raise RichSemError(unreadable(cache, error)) from error
    return [shown[number] for number in range(len(suspects))]


def _pictures(cache: Cache, samples: Sequence[int], root: Place | None) -> Iterator[tuple[int, StoredPicture]]:
    """The pictures of ascending planned positions."""
    per_shard = cache.manifest.plan.samples_per_shard
    originals = root or cache.originals_root
    for number, group in groupby(samples, key=lambda sample: sample // per_shard):
        shard = cache.picture_shard(number)
        rows = shard.rows()
        wanted = [sample - number * per_shard for sample in group]
        for picture in shard.pictures(rows[np.isin(rows["sample"], wanted)], root=originals):
            yield number * per_shard + int(picture.row["sample"]), picture


def _shown(suspect: Suspect, picture: Image.Image) -> ShownSuspect:
    boxes = PictureBoxes(
        xywh_to_xyxy(np.array([suspect.box_xywh], np.float32)),
        np.zeros(1, np.int32),
        suspect.hw if all(suspect.hw) else None,
    )
    left, top, right, bottom = boxes.in_picture((picture.height, picture.width))[0].tolist()
    around = max(_AROUND * max(right - left, bottom - top), _LEAST_AROUND_PX)
    x1, y1 = max(int(left - around), 0), max(int(top - around), 0)
    x2, y2 = min(int(np.ceil(right + around)), picture.width), min(int(np.ceil(bottom + around)), picture.height)
    part = picture.crop((x1, y1, x2, y2))
    part.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    part.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    box = (left - x1, top - y1, right - left, bottom - top)
    return ShownSuspect(suspect, base64.b64encode(buffer.getvalue()).decode(), (x2 - x1, y2 - y1), box)
