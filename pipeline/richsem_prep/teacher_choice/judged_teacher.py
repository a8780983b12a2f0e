"""One teacher on the sampled boxes: accuracy, calibration, speed and sizes."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from richsem_prep.executors.worker import Worker
from richsem_prep.teacher.worker_settings import WorkerSettings
from richsem_prep.teacher_choice.calibration import Calibration, at_temperature, calibration, fit_temperature
from richsem_prep.teacher_choice.sample import BoxSample
from richsem_prep.teacher_choice.seen_boxes import SeenBoxes, see_boxes
from richsem_prep.teacher_choice.teachers_request import TeachersRequest
from richsem_schemas.cache.codec import RecordLayout
from richsem_schemas.cache.manifest import ViewGeometry
from richsem_schemas.cache.soft_labels import class_log_probs, largest_columns

TOP_K = 64
"""Classes that `shard` keeps in each soft label."""

_FEW = 5
"""The second accuracy is of so many most probable classes."""

Bar = Callable[[str, str], AbstractContextManager[Callable[[int, int], None]]]
"""Makes a bar of a name and a unit, which takes what is done and all."""


@dataclass(frozen=True)
class ClassAccuracy:
    """How well a teacher knows one class.

    Attributes:
        boxes: in the annotations.
        seen: by the teacher.
        top_1: share of these whose class is the most probable one.
        top_5: among the 5 most probable ones.
    """

    name: str
    boxes: int
    seen: int
    top_1: float
    top_5: float


@dataclass(frozen=True)
class TopAccuracy:
    """Share of boxes that are right.

    Attributes:
        over_classes: mean of the accuracies of all classes with boxes, so that each counts alike.
        over_boxes: what all boxes of the annotations would have: each class by its number of boxes.
    """

    over_classes: float
    over_boxes: float


@dataclass(frozen=True)
class StoredBytes:
    """What a cache stores of a region, bytes.

    Attributes:
        labels: the most probable classes, their probabilities and the rest.
        embedding: by float16.
        region: all of it, the box among it.
    """

    labels: int
    embedding: int
    region: int


@dataclass(frozen=True)
class JudgedTeacher:
    """A teacher's figures.

    Attributes:
        name: as it was asked for.
        region_encoder: roi-align or crop.
        precision: of its forwards.
        device: where it ran.
        pictures: that it saw.
        boxes: that it saw.
        top_1: of boxes whose class is the most probable one, "none" being one of them.
        top_5: likewise, among the 5 most probable ones.
        temperature: the most probable one of these boxes.
        before: calibration at temperature 1.
        after: at `temperature`, on the same boxes.
        seconds: of the teacher alone.
        weights_bytes: of both towers.
        stored: of a region.
        classes: those with boxes seen, by their rows.
        unreadable: pictures that were left out, with the reason.
    """

    name: str
    region_encoder: str
    precision: str
    device: str
    pictures: int
    boxes: int
    top_1: TopAccuracy
    top_5: TopAccuracy
    temperature: float
    before: Calibration
    after: Calibration
    seconds: float
    weights_bytes: int
    stored: StoredBytes
    classes: tuple[ClassAccuracy, ...]
    unreadable: tuple[str, ...]

    @property
    def regions_per_second(self) -> float:
        """Boxes that one worker sees in a second."""
        return self.boxes / self.seconds


@dataclass(frozen=True, eq=False)
class TeacherWord:
    """What is kept of a teacher's word on R boxes.

    Attributes:
        seen: the boxes.
        rows: int64 [R], their classes.
        log_probs: float64 [R, C], over one's own names, "none" first.
        is_right: bool [R], whether the most probable class is the box's.
    """

    seen: SeenBoxes
    rows: NDArray[np.int64]
    log_probs: NDArray[np.float64]
    is_right: NDArray[np.bool_]


def load_worker(name: str, request: TeachersRequest, device: str | None, teacher_size: int | None) -> Worker:
    """The teacher as a worker of `shard` has it.

    Raises:
        TeacherError: its weights can't be had, or it can't see boxes as is asked for.
    """
    return Worker(
        WorkerSettings(
            teacher=name,
            region_encoder=request.region_encoder,
            teacher_size=teacher_size,
            device=device,
            precision=None,
            decode_threads=1,
        )
    )


def judge_teacher(
    name: str, worker: Worker, sample: BoxSample, request: TeachersRequest, bar: Bar
) -> tuple[JudgedTeacher, TeacherWord]:
    """Show the sample to a teacher, and judge what it says.

    Raises:
        SourceError: not a single picture can be read.
        TeacherError: its embeddings are not finite.
    """
    with bar(f"{name}: text", "classes") as on_progress:
        bank = worker.text_bank(sample.vocabulary, request.names, on_progress)
    with bar(name, "boxes") as on_progress:
        seen = see_boxes(sample, worker.encoder, ViewGeometry(), on_progress)
    rows_R = sample.rows[seen.numbers]
    log_probs_RC = class_log_probs(seen.features, bank.features, logit_scale=bank.logit_scale)
    ranked_RK = largest_columns(log_probs_RC, min(_FEW, log_probs_RC.shape[1]))
    hits_R5 = (ranked_RK == rows_R[:, None]).cumsum(axis=1) > 0
    word = TeacherWord(seen, rows_R, log_probs_RC, hits_R5[:, 0])
    classes = _classes(sample, rows_R, hits_R5[:, 0], hits_R5[:, -1])
    temperature = fit_temperature(log_probs_RC, rows_R)
    description = worker.describe()
    dim, names = description.teacher.embed_dim, len(sample.vocabulary.class_names)
    return JudgedTeacher(
        name=name,
        region_encoder=description.region_encoder.kind,
        precision=description.precision,
        device=description.environment.device,
        pictures=len(sample.pictures) - len(seen.unreadable),
        boxes=len(rows_R),
        top_1=_accuracy(classes, [each.top_1 for each in classes]),
        top_5=_accuracy(classes, [each.top_5 for each in classes]),
        temperature=temperature,
        before=calibration(log_probs_RC, rows_R),
        after=calibration(at_temperature(log_probs_RC, temperature), rows_R),
        seconds=seen.seconds,
        weights_bytes=worker.weights_bytes,
        stored=_stored(dim, min(TOP_K, names)),
        classes=classes,
        unreadable=seen.unreadable,
    ), word


def _classes(
    sample: BoxSample, rows_R: NDArray[np.int64], hits_1: NDArray[np.bool_], hits_5: NDArray[np.bool_]
) -> tuple[ClassAccuracy, ...]:
    size = len(sample.counts)
    seen, right_1, right_5 = (np.bincount(rows, minlength=size) for rows in (rows_R, rows_R[hits_1], rows_R[hits_5]))
    return tuple(
        ClassAccuracy(
            sample.vocabulary.class_names[row],
            int(sample.counts[row]),
            int(seen[row]),
            float(right_1[row] / seen[row]),
            float(right_5[row] / seen[row]),
        )
        for row in np.flatnonzero(seen).tolist()
    )


def _accuracy(classes: tuple[ClassAccuracy, ...], shares: list[float]) -> TopAccuracy:
    return TopAccuracy(float(np.mean(shares)), float(np.average(shares, weights=[each.boxes for each in classes])))


def _stored(dim: int, top_k: int) -> StoredBytes:
    dtype = RecordLayout(embeddings="float16", dim=dim, top_k=top_k).region_dtype()
    labels = sum(dtype[name].itemsize for name in ("log_rest", "class_ids", "log_probs"))
    return StoredBytes(labels, dtype["embedding"].itemsize, dtype.itemsize)
