"""How well a teacher recognises the demo's world: top-1 through the pipeline's own text bank and region encoders."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.demo_teacher import views
from richsem_prep.demo import world
from richsem_prep.teacher.region_encoder import make_region_encoder
from richsem_prep.teacher.teacher import Teacher
from richsem_prep.teacher.text import text_means
from richsem_schemas.vocabularies.vocabulary import NONE_NAME

_HELD_OUT_STREAM = 0x7E57
"""Keeps the measured pictures apart from those of training and of the dataset."""

_NAMES_PER_SCENE = 4


class Accuracy(NamedTuple):
    """Top-1 over so many regions."""

    top_1: float
    regions: int


def classifier(teacher: Teacher, names: Sequence[str]) -> NDArray[np.float32]:
    """[C, D] unit-norm zero-shot classifier over "none" and `names`: row 0 is "none", prompts as in every text bank."""
    means = text_means(teacher, (NONE_NAME, *names), on_progress=lambda _done, _all: None)
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def top_1(
    teacher: Teacher,
    named_views: Iterable[views.NamedView],
    text_features: NDArray[np.float32],
    names: Sequence[str],
    *,
    region_encoder: str,
    teacher_size: int | None,
) -> Accuracy:
    """How many regions are nearest to their own name.

    Args:
        teacher: any teacher.
        named_views: what it is shown.
        text_features: of `classifier(teacher, names)`.
        names: the vocabulary.
        region_encoder: `crop` or `roi-align`.
        teacher_size: longer side of a view as the teacher sees it, pixels; None leaves views as they are.
    """
    encoder = make_region_encoder(teacher, kind=region_encoder, teacher_size=teacher_size, precision="fp32")
    rows = {name: row for row, name in enumerate((NONE_NAME, *names))}
    # Equal sizes side by side: the encoder batches consecutive views of one size.
    kept = sorted((view for view in named_views if view.names), key=lambda view: view.picture.size)
    prepared = ((view, encoder.prepare(np.asarray(view.picture), view.boxes_xyxy_px)) for view in kept)
    right = regions = 0
    for view, features in encoder.encode(prepared):
        found = (features @ text_features.T).argmax(axis=1)
        right += sum(rows[name] == row for name, row in zip(view.names, found.tolist(), strict=True))
        regions += len(view.names)
    return Accuracy(round(right / regions, 4), regions)


def measure(teacher: Teacher, *, teacher_size: int, regions: int, seed: int = 0) -> dict[str, Accuracy]:
    """Accuracies on held-out pictures, through JPEG, of the 96 detection classes (and of names never trained on).

    Args:
        teacher: any teacher.
        teacher_size: longer side of a view as the teacher sees it for `roi-align`, pixels.
        regions: how many to measure of each kind, at least.
        seed: draws the pictures.
    """
    split = world.assignment()
    names = [each.name for each in split.detection]
    text_features = classifier(teacher, names)

    def some(rng: np.random.Generator) -> list[str]:
        return [names[index] for index in rng.integers(0, len(names), _NAMES_PER_SCENE).tolist()]

    draws: dict[str, Callable[[np.random.Generator, int], views.NamedView]] = {
        "pictures": lambda rng, number: views.whole_picture(rng, names[number % len(names)]),
        "backgrounds": lambda rng, _: views.whole_picture(rng, NONE_NAME),
        "crop": lambda rng, number: views.crop(rng, names[number % len(names)]),
        "mosaic": lambda rng, _: views.mosaic(rng, some(rng)),
        "scene": lambda rng, _: views.scene(rng, some(rng)),
        "window": lambda rng, _: views.window(rng, some(rng)),
    }

    def accuracy(kind: str, region_encoder: str, size: int | None) -> Accuracy:
        count = regions if kind in {"pictures", "crop"} else -(-regions // 4)
        rngs = (np.random.default_rng([seed, _HELD_OUT_STREAM, number]) for number in range(count))
        drawn = (draws[kind](rng, number) for number, rng in enumerate(rngs))
        return top_1(teacher, drawn, text_features, names, region_encoder=region_encoder, teacher_size=size)

    accuracies = {kind: accuracy(kind, "crop", None) for kind in ("pictures", "backgrounds")}
    for region_encoder, size in (("crop", None), ("roi-align", teacher_size)):
        for kind in ("crop", "mosaic", "scene", "window"):
            accuracies[f"{region_encoder}/{kind}"] = accuracy(kind, region_encoder, size)
    return accuracies | {"pictures of names held out of training": held_out_accuracy(teacher, pictures=regions)}


def held_out_accuracy(teacher: Teacher, *, pictures: int, seed: int = 0) -> Accuracy:
    """Top-1 over all 144 names on pictures of the 24 that the teacher's training never named: does it compose words?"""
    held_out = world.assignment().held_out
    rngs = (np.random.default_rng([seed, _HELD_OUT_STREAM, 1, number]) for number in range(pictures))
    drawn = (views.whole_picture(rng, held_out[number % len(held_out)]) for number, rng in enumerate(rngs))
    features = classifier(teacher, world.NAMES)
    return top_1(teacher, drawn, features, world.NAMES, region_encoder="crop", teacher_size=None)
