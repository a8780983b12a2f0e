"""The official evaluator of LVIS, for who must report it; `evaluation` has the same figures in a thirtieth of the time.

`lvis` 0.5.3 is the last release. It uses `np.float`, which NumPy has taken away, and imports OpenCV, which needs shared
libraries that slim images lack.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from richsem_schemas.errors import RichSemError
from richsem_schemas.scoring.detections import Detections
from richsem_schemas.scoring.evaluation import GroundTruth, numbered
from richsem_schemas.scoring.metrics import METRICS

_BYTES_A_PAIR, _BYTES_A_DETECTION = 650, 1_230
_SECONDS_A_PAIR, _SECONDS_A_DETECTION = 9.2e-6, 33e-6
"""Of pairs of a picture and a category, and of detections: 3,000 pictures of LVIS with 300 detections each take 63 s
and 3.45 GB (`benchmarks/score.py`)."""

_ANY_NUMBER = -1
"""Of detections a picture, to `lvis`."""


@dataclass(frozen=True)
class Cost:
    """Of scoring: beyond the memory of this process so far, and on a core such as of today's servers."""

    gigabytes: float
    seconds: float

    def __str__(self) -> str:
        time = f"{self.seconds / 60:.0f} minutes" if self.seconds >= 90 else f"{max(self.seconds, 1):.0f} seconds"
        return f"about {max(self.gigabytes, 0.1):.1f} GB of memory and {time}"


def official_cost(truth: GroundTruth, detections: int) -> Cost:
    """The cost of scoring so many detections; `lvis` looks at every category in every picture, whatever is in there."""
    pairs = len(truth.image_ids) * len(truth.category_ids)
    return Cost(
        (pairs * _BYTES_A_PAIR + detections * _BYTES_A_DETECTION) / 1e9,
        pairs * _SECONDS_A_PAIR + detections * _SECONDS_A_DETECTION,
    )


def require_official(truth: GroundTruth) -> None:
    """Check that `lvis` can score these annotations, and that it can be imported.

    Raises:
        RichSemError: it can't.
    """
    if truth.metric != "lvis":
        raise RichSemError(
            f"{truth.annotations.source}: --scorer lvis scores by LVIS's metric, and this is read as another format "
            "(detection.format); leave --scorer out"
        )
    _imported()


def official_score(
    truth: GroundTruth,
    detections: Detections,
    *,
    max_detections: int | None = 300,
    max_of_category: int | None = None,
) -> dict[str, float]:
    """The same as `evaluation.score`, by `lvis` 0.5.3 from the annotations as they were read.

    Without a limit a picture it is told of none, which is how the authors of Fixed AP use it.

    Raises:
        RichSemError: as `evaluation.score` has it; `lvis` can't be imported; or nothing is detected, where it fails.
    """
    lvis = _imported()
    results = numbered(truth, detections, max_detections=max_detections, max_of_category=max_of_category).as_results()
    if not results:
        raise RichSemError("lvis fails where nothing at all is detected; --scorer hotcoco says 0")

    class Annotations(lvis.LVIS):  # type: ignore[name-defined]
        """The annotations that were read, in the place of a file."""

        def _load_json(self, _: object) -> dict[str, Any]:
            return _content(truth)

    with _np_float_restored(), _warnings_silenced():
        annotations = Annotations(None)
        limit = _ANY_NUMBER if max_detections is None else max_detections
        evaluation = lvis.LVISEval(annotations, lvis.LVISResults(annotations, results, limit), "bbox")
        evaluation.run()
    return {name: float(evaluation.results[name]) for name in METRICS}


def _imported() -> Any:
    try:
        import lvis  # noqa: PLC0415 - it imports OpenCV and matplotlib, and only who asks for it needs them
    except ImportError as error:
        raise RichSemError(
            f"--scorer lvis: lvis can't be imported ({error}). It imports OpenCV, which needs the shared libraries "
            "libGL, glib and libxcb: on Debian and Ubuntu `apt install libgl1 libglib2.0-0 libxcb1`; or `pip uninstall "
            "opencv-python` and `pip install opencv-python-headless`, which needs none. Without --scorer, hotcoco "
            "gives the same figures"
        ) from None
    return lvis


def _content(truth: GroundTruth) -> dict[str, Any]:
    """The annotations as LVIS writes them, by our numbers."""
    annotations = truth.annotations
    columns = zip(
        truth.box_images.tolist(),
        truth.box_categories.tolist(),
        annotations.boxes.boxes_xywh.tolist(),
        annotations.areas.tolist(),
        annotations.are_ignored.tolist(),
        strict=True,
    )
    return {
        "images": truth.image_records(),
        "categories": truth.category_records(),
        "annotations": [
            {"id": number, "image_id": image, "category_id": category, "bbox": box, "area": area, "ignore": ignore}
            for number, (image, category, box, area, ignore) in enumerate(columns, 1)
        ],
    }


@contextmanager
def _np_float_restored() -> Iterator[None]:
    """`np.float`, where NumPy has none, as it was: Python's own."""
    if "float" in vars(np):
        yield
        return
    np.float = float  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del np.float  # type: ignore[attr-defined]


@contextmanager
def _warnings_silenced() -> Iterator[None]:
    """Without its warning that results are assumed to be right."""
    logger = logging.getLogger("lvis")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
