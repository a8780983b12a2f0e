"""`richsem-prep teachers`: several teachers on the same labelled boxes, and the one to take."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from richsem_prep.demo import TEACHER_SIZE
from richsem_prep.executors.worker import Worker
from richsem_prep.teacher.teacher import parse_teacher, torch_device
from richsem_prep.teacher_choice.judged_teacher import Bar, JudgedTeacher, TeacherWord, judge_teacher, load_worker
from richsem_prep.teacher_choice.label_shape import LabelShape, label_shapes, names_beside
from richsem_prep.teacher_choice.recommendation import Recommendation, recommend
from richsem_prep.teacher_choice.sample import BoxSample
from richsem_prep.teacher_choice.teachers_request import TeachersRequest, WiderNames
from richsem_schemas.cache.soft_labels import class_log_probs
from richsem_schemas.errors import RichSemError, TeacherError
from richsem_schemas.vocabularies.imagenet21k import imagenet21k_names
from richsem_schemas.vocabularies.known import known_vocabulary
from richsem_schemas.vocabularies.vocabulary import NONE_NAME, Vocabulary

OWN_NAMES = "own"


@dataclass(frozen=True)
class AbsentTeacher:
    """A teacher that could not be judged, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class TeachersCompared:
    """Several teachers on the same boxes.

    Attributes:
        boxes: drawn.
        of_boxes: in the annotations.
        pictures: that the boxes are of.
        classes: with boxes.
        notes: what the annotations' reader left out.
        teachers: those that could be judged, in the order they were named.
        absent: those that couldn't.
        recommended: one of `teachers`.
        labels: soft labels of the one recommended, over one's own names, and over wider ones where those of one's own
            are nearly one-hot.
    """

    boxes: int
    of_boxes: int
    pictures: int
    classes: int
    notes: tuple[str, ...]
    teachers: tuple[JudgedTeacher, ...]
    absent: tuple[AbsentTeacher, ...]
    recommended: Recommendation
    labels: tuple[LabelShape, ...]


def check_teachers(names: Sequence[str], device: str | None) -> None:
    """Check, before any work, that teachers are known by name; their weights are not looked for.

    Raises:
        RichSemError: one is unknown, or named twice.
    """
    for name in names:
        if names.count(name) > 1:
            raise RichSemError(f"{name!r} is named twice; name each teacher once")
        parse_teacher(name)
    torch_device(device)


def compare_teachers(
    names: Sequence[str], sample: BoxSample, request: TeachersRequest, *, device: str | None, bar: Bar
) -> TeachersCompared:
    """Show a sample of boxes to teachers, one after the other; those that can't be had are told, and the others go on.

    Raises:
        TeacherError: not a single one can be had.
        SourceError: no picture can be read.
    """
    judged: list[JudgedTeacher] = []
    absent: list[AbsentTeacher] = []
    words: dict[str, TeacherWord] = {}
    for name in names:
        try:
            found, words[name] = judge_teacher(name, _worker(name, request, device), sample, request, bar)
        except TeacherError as error:
            absent.append(AbsentTeacher(name, str(error)))
        else:
            judged.append(found)
    if not judged:
        told = "; ".join(each.reason for each in absent)
        raise TeacherError(f"none of the {len(names)} teachers could be judged: {told}")
    rows_R = words[judged[0].name].rows
    recommended = recommend(judged, rows_R, {name: word.is_right for name, word in words.items()})
    best = next(each for each in judged if each.name == recommended.teacher)
    return TeachersCompared(
        len(sample.rows),
        int(sample.counts.sum()),
        len(sample.pictures),
        int((sample.counts > 0).sum()),
        sample.notes,
        tuple(judged),
        tuple(absent),
        recommended,
        _labels(best, words[best.name], sample, request, device, bar),
    )


def _worker(name: str, request: TeachersRequest, device: str | None) -> Worker:
    # As for the demo's own datasets.
    size = TEACHER_SIZE if name == "demo" and request.teacher_size is None else request.teacher_size
    return load_worker(name, request, device, size)


def _labels(
    judged: JudgedTeacher, word: TeacherWord, sample: BoxSample, request: TeachersRequest, device: str | None, bar: Bar
) -> tuple[LabelShape, ...]:
    own = sample.vocabulary.class_names
    shapes = label_shapes(OWN_NAMES, word.log_probs, word.rows, len(own), judged.temperature)
    plain = next(each for each in shapes if each.temperature == 1)
    if request.wider == "none" or not plain.is_nearly_one_hot:
        return shapes
    wider = _wider_vocabulary(request.wider)
    beside = names_beside(own, wider.class_names)
    if not len(beside):
        return shapes
    worker = _worker(judged.name, request, device)
    with bar(f"{judged.name}: {request.wider}", "classes") as on_progress:
        wide_bank = worker.text_bank(wider, request.names, on_progress)
    own_bank = worker.text_bank(sample.vocabulary, request.names)
    features = np.concatenate([own_bank.features, wide_bank.features[beside]])
    log_probs_RC = class_log_probs(word.seen.features, features, logit_scale=own_bank.logit_scale)
    name = f"{OWN_NAMES} and {request.wider}"
    return (*shapes, *label_shapes(name, log_probs_RC, word.rows, len(own), judged.temperature))


def _wider_vocabulary(name: WiderNames) -> Vocabulary:
    if name == "imagenet-21k":
        return Vocabulary(name=name, class_names=(NONE_NAME, *imagenet21k_names().values()))
    return known_vocabulary(name)
