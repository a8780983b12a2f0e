"""The forms in which a cache hands the teacher's labels on, each beside the exact label of the very same view."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.evidence.distances import Logs, coarsened
from benchmarks.evidence.views import Shown
from richsem_schemas.cache.codec import LabelledView, stored_embeddings
from richsem_schemas.cache.soft_labels import TopKSoftLabels, class_log_probs, top_k_soft_labels
from richsem_schemas.cache.text_bank import TextBank
from richsem_train.choices import Tail
from richsem_train.data.cache.nearest import borrowed_labels, joined_sights, nearest, sights_of
from richsem_train.data.fresh_windows import MIN_OVERLAP
from richsem_train.data.soft_labels import soft_labels, target_of
from richsem_train.targets import SoftLabels, Target

Kind = Literal["windows", "mosaics", "crops"]
COUNTS = (1, 2, 4, 8)
TOP_K = (8, 32, 64, 128)
TAILS: tuple[Tail, ...] = ("bucket", "uniform", "renormalise")
EXACT, HARD, PADDED = "exact", "hard labels", "padded batch"


@dataclass(frozen=True, eq=False)
class StoredView:
    """A view of the cache that shows things of a lesson.

    Attributes:
        labelled: with float16 embeddings.
        things: [R] keys of its regions.
        number: of the view among those of its picture.
    """

    labelled: LabelledView
    things: list[tuple[int, int]]
    number: int


@dataclass(frozen=True, eq=False)
class Lesson:
    """A view as the student sees it, and all that is known of its R regions.

    Attributes:
        shown: the view.
        exact: float32 [R, D], what the teacher says of this very view.
        padded: float32 [R, D], what it says where the view stands in a padded batch.
        stored: views that a cache has of the same things, the view itself not among them.
        teacher_size: longer side at which the teacher sees a view; None is the view's own.
        student_size: the same of the student.
    """

    shown: Shown
    exact: NDArray[np.float32]
    padded: NDArray[np.float32]
    stored: tuple[StoredView, ...]
    teacher_size: int | None
    student_size: int | None

    @property
    def rows(self) -> NDArray[np.int64]:
        """Of the vocabulary, [R]; 0 where there is no label."""
        return self.shown.view.regions["category_id"].astype(np.int64)


@dataclass(frozen=True)
class Form:
    """A form of labels; None for soft labels is hard ones.

    Attributes:
        tail: of the loss.
    """

    name: str
    soft_labels: Callable[[Lesson, TextBank], SoftLabels | None]
    tail: Tail = "bucket"

    def target(self, lesson: Lesson, text: TextBank) -> Target:
        """The truth of a lesson with labels of this form; classes are taught as `cached_target` has it."""
        is_labelled = bool((lesson.rows > 0).all())
        target = replace(
            target_of(lesson.shown.view, image_id=-1),
            supervision="labelled" if is_labelled else "unlabelled",
        )
        labels = self.soft_labels(lesson, text)
        return replace(target, soft_labels=labels, is_hard=labels is None and is_labelled)


def forms_of(kind: Kind, classes: int) -> tuple[Form, ...]:
    """All forms of a kind of views, the exact one first; top-k ones up to so many rows of the vocabulary."""
    borrowed = {"windows": ("fresh window", MIN_OVERLAP), "mosaics": ("free mosaic", 0.0)}
    name, overlap = borrowed.get(kind, ("", 0.0))
    return (
        Form(EXACT, lambda lesson, _text: of_embeddings(lesson.exact)),
        Form(PADDED, lambda lesson, _text: of_embeddings(lesson.padded)),
        *(Form(storage, partial(rounded, storage=storage)) for storage in ("float16", "int8")),
        *(
            Form(f"top {top_k}, {tail}", partial(truncated, top_k=top_k), tail)
            for top_k in TOP_K
            if top_k < classes
            for tail in TAILS
        ),
        *(
            Form(f"{name}, K = {count}", partial(borrowed_of, count=count, min_overlap=overlap))
            for count in COUNTS
            if name
        ),
        Form(HARD, lambda _lesson, _text: None),
    )


def of_embeddings(embeddings_RD: NDArray[np.float32]) -> SoftLabels:
    return SoftLabels(embeddings=torch.from_numpy(embeddings_RD))


def rounded(lesson: Lesson, _text: TextBank, *, storage: Literal["float16", "int8"]) -> SoftLabels:
    return soft_labels(_no_classes(len(lesson.exact)), stored_embeddings(lesson.exact, storage), "embedding")


def truncated(lesson: Lesson, text: TextBank, *, top_k: int) -> SoftLabels:
    return soft_labels(top_k_labels(lesson.exact, text, top_k), None, "topk")


def borrowed_of(lesson: Lesson, _text: TextBank, *, count: int, min_overlap: float) -> SoftLabels:
    """Of the nearest of the first so many stored views, as the trainer finds it."""
    stored = [each for each in lesson.stored if each.number < count]
    number_of = {thing: number for number, thing in enumerate(dict.fromkeys(lesson.shown.things))}
    things = [[number_of.setdefault(thing, len(number_of)) for thing in each.things] for each in stored]
    rows_S = nearest(
        sights_of(lesson.shown.view, teacher_size=lesson.teacher_size),
        np.array([number_of[thing] for thing in lesson.shown.things], np.int64),
        joined_sights([sights_of(each.labelled.view, teacher_size=lesson.teacher_size) for each in stored]),
        np.concatenate([np.array(each, np.int64) for each in things]),
        np.repeat([each.number for each in stored], [len(each.things) for each in stored]),
        min_overlap=min_overlap,
    )
    labels, embeddings, is_known = borrowed_labels([each.labelled for each in stored], rows_S)
    return soft_labels(labels, embeddings, "embedding", is_known_R=is_known)


def stored_view(shown: Shown, embeddings_RD: NDArray[np.float32]) -> StoredView:
    stored = stored_embeddings(embeddings_RD, "float16")
    labelled = LabelledView(shown.view, _no_classes(len(stored)), stored)
    return StoredView(labelled, shown.things, shown.number)


def top_k_labels(embeddings_RD: NDArray[np.float32], text: TextBank, top_k: int) -> TopKSoftLabels:
    """As the pipeline makes them: of the embeddings as they are stored."""
    stored = stored_embeddings(embeddings_RD, "float16")
    return top_k_soft_labels(class_log_probs(stored, text.features, logit_scale=text.logit_scale), top_k=top_k)


def _no_classes(regions: int) -> TopKSoftLabels:
    """Where embeddings are learnt nobody looks at the classes."""
    return TopKSoftLabels(
        np.zeros((regions, 1), np.int32), np.zeros((regions, 1), np.float16), np.zeros(regions, np.float32)
    )


@dataclass(frozen=True, eq=False)
class Taught:
    """What a form teaches of R regions beside what is exact, over the same X classes.

    Attributes:
        exact: [R, X].
        taught: [R, X]; for a bucket X is the stored classes and one of all the others.
        top: int [R], the most probable class.
        embeddings: [R, D]; None where the form has none.
        is_known: bool [R].
    """

    exact: Logs
    taught: Logs
    top: NDArray[np.int64]
    embeddings: NDArray[np.float32] | None
    is_known: NDArray[np.bool_]


def taught_by(form: Form, lesson: Lesson, text: TextBank, exact_RC: Logs) -> Taught:
    """The distribution that the loss in effect teaches, in float64."""
    labels = form.soft_labels(lesson, text)
    if labels is None:
        with np.errstate(divide="ignore"):
            one_hot_RC = np.log(np.eye(exact_RC.shape[1])[lesson.rows])
        return Taught(exact_RC, one_hot_RC, lesson.rows, None, lesson.rows > 0)
    everywhere = np.ones(len(exact_RC), bool)
    if labels.embeddings is not None:
        embeddings = labels.embeddings.numpy()
        taught_RC = class_log_probs(embeddings, text.features, logit_scale=text.logit_scale)
        is_known = everywhere if labels.is_known is None else labels.is_known.numpy()
        return Taught(exact_RC, taught_RC, taught_RC.argmax(-1), embeddings, is_known)
    assert labels.class_ids is not None
    assert labels.log_probs is not None
    assert labels.log_rest is not None
    ids_RK = labels.class_ids.numpy()
    masses = np.concatenate([labels.log_probs.numpy(), labels.log_rest.numpy()[:, None]], axis=1).astype(np.float64)
    exact_RX, taught_RX = with_tail(exact_RC, ids_RK, masses, form.tail)
    return Taught(exact_RX, taught_RX, ids_RK[:, 0], None, everywhere)


def with_tail(exact_RC: Logs, ids_RK: NDArray[np.int64], masses: Logs, tail: Tail) -> tuple[Logs, Logs]:
    """What is exact and what is taught, over the classes that the loss tells apart.

    Args:
        exact_RC: over all classes.
        ids_RK: the stored ones.
        masses: [R, K + 1], of these and of the rest; rounded, so that they sum to about one.
        tail: `bucket` compares K + 1 masses; the others make up a distribution over all classes.
    """
    masses = masses - np.log(np.exp(masses).sum(axis=1, keepdims=True))
    if tail == "bucket":
        return coarsened(exact_RC, ids_RK), masses
    kept_RK, rest_R1 = masses[:, :-1], masses[:, -1:]
    taught_RC = np.full_like(exact_RC, -np.inf)
    if tail == "renormalise":
        kept_RK = kept_RK - np.log(np.exp(kept_RK).sum(axis=1, keepdims=True))
    else:
        taught_RC[:] = rest_R1 - np.log(exact_RC.shape[1] - ids_RK.shape[1])
    np.put_along_axis(taught_RC, ids_RK, kept_RK, axis=1)
    return exact_RC, taught_RC
