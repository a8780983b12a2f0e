"""The sampled boxes through one teacher, as `shard --whole` shows them."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from richsem_prep.teacher.batches import PreparedView
from richsem_prep.teacher.region_encoder import RegionEncoder
from richsem_prep.teacher_choice.sample import BoxSample, SampledPicture
from richsem_schemas.cache.codec import stored_embeddings
from richsem_schemas.cache.manifest import ViewGeometry
from richsem_schemas.cache.recipes import AnnotatedPicture, whole_view
from richsem_schemas.cache.render import render_view
from richsem_schemas.errors import PictureError, SourceError, TeacherError
from richsem_schemas.io.words import os_error_parts
from richsem_schemas.pictures.decode import decode_picture
from richsem_schemas.pictures.originals import WHOLE_FILE, Original, read_original
from richsem_schemas.vocabularies.vocabulary import NO_LABEL

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class SeenBoxes:
    """R boxes as a teacher sees them; those of pictures that can't be read are left out.

    Attributes:
        numbers: int64 [R], of the sample's boxes.
        features: float32 [R, D], as a cache stores them by float16.
        seconds: that the teacher took for them, reading and decoding aside.
        unreadable: pictures, with the reason.
    """

    numbers: NDArray[np.int64]
    features: NDArray[np.float32]
    seconds: float
    unreadable: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Shown:
    numbers: NDArray[np.int64]
    pixels: NDArray[np.uint8]
    boxes_xyxy_px: NDArray[np.float32]


def see_boxes(sample: BoxSample, encoder: RegionEncoder, geometry: ViewGeometry, on_progress: OnProgress) -> SeenBoxes:
    """Show a sample to a teacher.

    Raises:
        SourceError: not a single picture can be read.
        TeacherError: its embeddings are not finite.
    """
    unreadable: list[str] = []
    numbers, features = [], []
    for shown in islice(_shown(sample, geometry, [], _Clock()), 1):
        # The first forward of all sets things up.
        list(encoder.encode([(shown, encoder.prepare(shown.pixels, shown.boxes_xyxy_px))]))
    clock = _Clock()

    def prepared() -> Iterator[tuple[_Shown, PreparedView]]:
        for shown in _shown(sample, geometry, unreadable, clock):
            yield shown, encoder.prepare(shown.pixels, shown.boxes_xyxy_px)

    for shown, features_RD in encoder.encode(prepared()):
        numbers.append(shown.numbers)
        features.append(features_RD)
        on_progress(sum(map(len, numbers)), len(sample.rows))
    if not numbers:
        raise SourceError(f"{sample.root}: no picture of the {len(sample.pictures)} drawn can be read: {unreadable[0]}")
    found = np.concatenate(features)
    if not np.isfinite(found).all():
        raise TeacherError("its embeddings are not finite: its weights are damaged; get them again")
    return SeenBoxes(np.concatenate(numbers), stored_embeddings(found, "float16"), clock.seconds(), tuple(unreadable))


class _Clock:
    """Seconds since it was made, but for those in which it was held."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._held = 0.0

    def hold(self, since: float) -> None:
        """Leave out the time since then."""
        self._held += time.perf_counter() - since

    def seconds(self) -> float:
        return time.perf_counter() - self._started - self._held


def _shown(sample: BoxSample, geometry: ViewGeometry, unreadable: list[str], clock: _Clock) -> Iterator[_Shown]:
    first = 0
    for number, picture in enumerate(sample.pictures):
        began = time.perf_counter()
        try:
            shown = _render(sample, picture, number, first, geometry)
        except PictureError as error:
            unreadable.append(f"{picture.name}: {error}")
            continue
        except OSError as error:
            unreadable.append(f"{picture.name}: {os_error_parts(error)[1]}")
            continue
        finally:
            first += len(picture.boxes.rows)
            clock.hold(began)
        yield shown


def _render(sample: BoxSample, picture: SampledPicture, number: int, first: int, geometry: ViewGeometry) -> _Shown:
    """The picture as evaluation shows it, and its boxes there; some may not be seen, where its size is another."""
    data = read_original(sample.root, Original(os.fsencode(picture.name), WHOLE_FILE, 0))
    pixels = decode_picture(data)
    hw = (pixels.height, pixels.width)
    annotated = AnnotatedPicture(number, hw, NO_LABEL, picture.boxes.in_picture(hw), picture.boxes.rows)
    view = whole_view(annotated, geometry)
    numbers = first + view.regions["annotation"].astype(np.int64)
    return _Shown(numbers, render_view(view, {number: pixels}), view.regions["box_xyxy_px"])
