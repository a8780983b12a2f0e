"""Views with their exact labels, in a padded batch and alone, and with what a cache has of the same things."""

from collections.abc import Container, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.evidence.forms import Kind, Lesson, StoredView, stored_view
from benchmarks.evidence.online_teacher import OnlineTeacher
from benchmarks.evidence.views import (
    Sees,
    Shown,
    World,
    fresh_crops,
    fresh_mosaics,
    fresh_windows,
    stored_crops,
    stored_windows,
)
from richsem_prep.teacher.region_encoder import scaled_to
from richsem_train.data.collate import Sample, collate
from richsem_train.data.soft_labels import target_of
from richsem_train.data.transforms import channels_first
from richsem_train.models.inputs import Normalise
from richsem_train.targets import Target

PICTURES_A_DRAW = 2
"""That are padded to one size, as on a rank of the reference."""

STUDENT = Normalise((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
"""The demo's; padding has its mean colour."""

SHOWINGS_IN_MOSAICS = 4
"""Of each picture, so that there are as many mosaics as pictures."""


def lessons_of(each: World, kind: Kind, sees: Sees, most: int) -> list[Lesson]:
    """At most so many views of a kind, in an order of their own, so that batches are of many pictures."""
    views = list(_views(each, kind))
    order = np.random.default_rng([7, len(views)]).permutation(len(views))[:most]
    chosen = [views[index] for index in order.tolist()]
    exact = [embeddings for _, embeddings in sees.embeddings(iter(chosen))]
    padded = list(padded_embeddings(sees, chosen, each.teacher_size))
    stored = _stored(each, kind, sees, {index for shown in chosen for index in shown.indices})
    return [
        Lesson(
            shown,
            ours,
            theirs,
            tuple(view for picture in dict.fromkeys(shown.indices) for view in stored.get(picture, ())),
            each.teacher_size,
            each.student_size,
        )
        for shown, ours, theirs in zip(chosen, exact, padded, strict=True)
    ]


def _views(each: World, kind: Kind) -> Iterator[Shown]:
    if kind == "windows":
        return fresh_windows(each, 1)
    return fresh_mosaics(each, SHOWINGS_IN_MOSAICS) if kind == "mosaics" else fresh_crops(each, 1)


def _stored(each: World, kind: Kind, sees: Sees, pictures: Container[int]) -> dict[int, list[StoredView]]:
    """What a cache has of some pictures, by picture."""
    found: dict[int, list[StoredView]] = {}
    if kind == "crops":
        return found
    views = stored_windows(each) if kind == "windows" else stored_crops(each)
    for shown, embeddings in sees.embeddings(shown for shown in views if shown.indices[0] in pictures):
        (picture,) = shown.indices
        found.setdefault(picture, []).append(stored_view(shown, embeddings))
    return found


def padded_embeddings(sees: Sees, views: Sequence[Shown], teacher_size: int | None) -> Iterator[NDArray[np.float32]]:
    """What the teacher says of each view where it sees it in a padded batch, as the reference does.

    Each is brought to the size at which the teacher sees views before, so that nothing but the padding differs.
    """
    online = OnlineTeacher(sees.teacher, STUDENT, precision="fp32")
    for first in range(0, len(views), PICTURES_A_DRAW):
        draw = views[first : first + PICTURES_A_DRAW]
        samples = [sample_of(shown, target_of(shown.view, image_id=-1), teacher_size) for shown in draw]
        if not any(len(sample.target.labels) for sample in samples):
            yield from (np.empty((0, sees.teacher.identity.embed_dim), np.float32) for _ in draw)
            continue
        for target in online.labelled(collate(samples)).targets:
            assert target.soft_labels is not None
            assert target.soft_labels.embeddings is not None
            yield target.soft_labels.embeddings.numpy()


def sample_of(shown: Shown, target: Target, longer_side: int | None) -> Sample:
    """A view with its truth, brought to a size; None is the view's own."""
    pixels_HW3 = scaled_to(shown.pixels, longer_side)
    height, width, _ = pixels_HW3.shape
    return Sample(channels_first(pixels_HW3), replace(target, image_hw=(height, width)), "a view")
