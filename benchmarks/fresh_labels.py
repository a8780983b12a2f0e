"""How near a borrowed label is to the exact one: fresh views against the nearest of K stored ones.

    python benchmarks/fresh_labels.py --annotations coco128/annotations/instances_train2017.json \
        --images coco128/train2017 --json benchmarks/results/fresh_labels.json --figure docs/images/fresh-labels.svg

Two worlds, both by the demo's teacher with RoIAlign on views of their own size, as in the paper. *demo*: scenes of the
demo's world at 0.3 of COCO's size, objects of a sixteenth to a half of the shorter side, views of 0.3 of the
reference's sizes. *pictures*: those of an annotation file in COCO's format, at the reference's sizes; the teacher
doesn't know what is on them and wavers, so that world is an upper bound.

For each picture the pipeline draws K windows, and the trainer's augmentation draws fresh ones. The teacher sees both:
the exact label of a fresh box is what it says of that very view, the borrowed one what it said of the nearest window.
KL(exact ‖ borrowed), the cosine of the embeddings, and how often both have the same class first; beside the mean of
the K labels (in probabilities), the best of the K (an oracle), and the entropy of the exact labels. The same for free
mosaics: the exact label of a tile as the canvas cuts it, the borrowed one of the nearest of V stored crops.
"""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from common import report
from numpy.typing import NDArray
from PIL import Image

from richsem_prep import recipes
from richsem_prep.demo import world
from richsem_prep.region_encoder import RegionEncoder, make_region_encoder
from richsem_prep.teacher import Teacher, load_teacher, parse_teacher
from richsem_prep.text import text_means
from richsem_schemas.annotations import read_annotations
from richsem_schemas.manifest import ViewGeometry
from richsem_schemas.picture import decode_picture
from richsem_schemas.render import render_view
from richsem_schemas.soft_labels import class_log_probs
from richsem_schemas.view import View
from richsem_train.data import nearest
from richsem_train.data.fresh_windows import fresh_view
from richsem_train.data.transforms import Augmentation, apply, draw

STORED = 8
COUNTS = (1, 2, 4, 8)

DEMO_SCALE = 0.3
DEMO_SIZES = ((144, 192), (192, 144), (128, 192), (144, 144))
DEMO_RADII = (0.06, 0.25)


@dataclass(frozen=True, eq=False)
class World:
    """Pictures with boxes, the names of their classes, and the sizes at which they are shown."""

    names: tuple[str, ...]
    pictures: list[tuple[Image.Image, NDArray[np.float32]]]
    geometry: ViewGeometry


def main(
    annotations: Annotated[Path | None, typer.Option(help="In COCO's format; none: the demo's world alone.")] = None,
    images: Annotated[Path | None, typer.Option(help="Their pictures.")] = None,
    scenes: Annotated[int, typer.Option(help="Of the demo's world.")] = 200,
    fresh: Annotated[int, typer.Option(help="Fresh views of each picture.")] = 4,
    json: Annotated[Path | None, typer.Option(help="Write the figures here.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw the curves here.")] = None,
) -> None:
    """Measure both worlds."""
    teacher = load_teacher(parse_teacher("demo"), device=torch.device("cpu"))
    worlds = {"demo": demo_world(scenes)}
    if annotations is not None and images is not None:
        worlds["pictures"] = annotated_world(annotations, images)
    figures = {name: measured(each, teacher, fresh) for name, each in worlds.items()}
    report("fresh_labels", {"fresh_views": fresh, "worlds": figures, "load_average": os.getloadavg()}, json)
    if figure is not None:
        draw_curves(figures, figure)


def demo_world(scenes: int) -> World:
    names = tuple(each.name for each in world.assignment().detection)
    pictures = []
    for number in range(scenes):
        rng = np.random.default_rng([0xF4E5, number])
        shown = [names[row] for row in rng.integers(0, len(names), int(rng.integers(1, 7))).tolist()]
        size = DEMO_SIZES[number % len(DEMO_SIZES)]
        scene = world.draw_scene(rng, shown, size=size, radii=DEMO_RADII)
        boxes = np.array([each.box_xyxy_px for each in scene.objects], np.float32)
        pictures.append((Image.fromarray(scene.pixels), boxes))
    whole = ViewGeometry()
    return World(
        names,
        pictures,
        ViewGeometry(
            short_sides=tuple(round(DEMO_SCALE * side) for side in whole.short_sides),
            longest_side=round(DEMO_SCALE * whole.longest_side),
            first_short_sides=tuple(round(DEMO_SCALE * side) for side in whole.first_short_sides),
            crop_sides=(round(DEMO_SCALE * whole.crop_sides[0]), round(DEMO_SCALE * whole.crop_sides[1])),
            mosaic_tile=round(DEMO_SCALE * whole.mosaic_tile),
        ),
    )


def annotated_world(annotations: Path, images: Path) -> World:
    data = read_annotations(annotations, images, file_format="coco")
    pictures = [
        (decode_picture(data.path(index).read_bytes()), data.boxes_xyxy(index))
        for index in range(len(data))
        if len(data.boxes_xyxy(index))
    ]
    return World(tuple(category.name for category in data.categories), pictures, ViewGeometry())


@dataclass(frozen=True, eq=False)
class Seen:
    """What the teacher says of R regions.

    Attributes:
        pictures: [R] which picture each is of.
        things: [R] which box of it.
        views: [R] which of its views, counted from 0.
        sights: [R] how it is seen.
        embeddings: [R, D].
        log_probs: [R, C].
    """

    pictures: NDArray[np.int64]
    things: NDArray[np.int64]
    views: NDArray[np.int64]
    sights: nearest.Sights
    embeddings: NDArray[np.float32]
    log_probs: NDArray[np.float64]


Drawn = tuple[int, int, View, Image.Image]
"""Picture, number of the view among the picture's, the view, its pixels."""


def seen_by(teacher: "Sees", drawn: Iterator[Drawn]) -> Seen:
    """Show views to the teacher."""
    kept: list[tuple[int, int, View]] = []

    def prepared() -> Iterator[Any]:
        for picture, number, view, pixels in drawn:
            kept.append((picture, number, view))
            yield teacher.encoder.prepare(pixels, view.regions["box_xyxy_px"])

    embeddings = np.concatenate(list(teacher.encoder.encode(prepared())))
    counts = [len(view.regions) for _, _, view in kept]
    sights = [nearest.sights_of(view) for _, _, view in kept]
    return Seen(
        np.repeat([picture for picture, _, _ in kept], counts),
        np.concatenate([view.regions["annotation"] for _, _, view in kept]).astype(np.int64),
        np.repeat([number for _, number, _ in kept], counts),
        nearest.Sights(
            np.concatenate([each.parts_xyxy_px for each in sights]),
            np.concatenate([each.scales for each in sights]),
            np.concatenate([each.are_mirrored for each in sights]),
        ),
        embeddings,
        class_log_probs(embeddings, teacher.text, logit_scale=teacher.logit_scale),
    )


@dataclass(frozen=True, eq=False)
class Sees:
    """A teacher with a text bank."""

    encoder: RegionEncoder
    text: NDArray[np.float32]
    logit_scale: float

    @classmethod
    def with_names(cls, teacher: Teacher, names: tuple[str, ...]) -> "Sees":
        prompted = tuple(name.replace("_", " ") for name in names)
        text = text_means(teacher, ("none", *prompted), on_progress=lambda _done, _all: None)
        encoder = make_region_encoder(teacher, kind="roi-align", teacher_size=None, precision="fp32")
        return cls(encoder, text, teacher.identity.logit_scale)


def measured(each: World, teacher: Teacher, fresh: int) -> dict[str, Any]:
    sees = Sees.with_names(teacher, each.names)
    stored = seen_by(sees, stored_windows(each))
    shown = seen_by(sees, fresh_windows(each, fresh))
    return {"pictures": len(each.pictures), "windows": compared(shown, stored)}


def stored_windows(each: World) -> Iterator[Drawn]:
    for index, (picture, boxes) in enumerate(each.pictures):
        sample = recipes.Sample(0, (picture.height, picture.width), 0, boxes, np.ones(len(boxes), np.int32))
        for number in range(STORED):
            rng = np.random.default_rng([1, index, number])
            view = recipes.window_view(sample, number, each.geometry, rng)
            yield index, number, view, render_view(view, {0: picture})


def fresh_windows(each: World, fresh: int) -> Iterator[Drawn]:
    sizes = each.geometry
    augmentation = Augmentation(
        sizes.short_sides, sizes.longest_side, sizes.first_short_sides, sizes.crop_sides, flip=True
    )
    for index, (picture, boxes) in enumerate(each.pictures):
        for number in range(fresh):
            rng = np.random.default_rng([2, index, number])
            drawn = draw((picture.height, picture.width), augmentation, rng)
            augmented = apply(picture, boxes, drawn)
            yield index, number, fresh_view(drawn, augmented), augmented.image


def compared(shown: Seen, stored: Seen) -> dict[str, Any]:
    """Borrowed labels beside the exact ones, for several numbers of stored views."""
    rows_SK = candidates(shown, stored)
    differences_SKT = nearest.differences(shown.sights[:, None], stored.sights[rows_SK])
    kl_SK = kl(shown.log_probs[:, None], stored.log_probs[rows_SK])
    exact = shown.log_probs
    result: dict[str, Any] = {
        "boxes": len(exact),
        "entropy": float(-(np.exp(exact) * exact).sum(-1).mean()),
        "stored": {},
        "weights": searched(differences_SKT, kl_SK, rows_SK),
    }
    for count in COUNTS:
        has_S = (rows_SK[:, :count] >= 0).any(axis=1)
        few_SK = rows_SK[has_S, :count]
        distances = differences_SKT[has_S, :count] @ np.array(nearest.WEIGHTS)
        best = np.where(few_SK < 0, np.inf, distances).argmin(axis=1)[:, None]
        borrowed = np.take_along_axis(few_SK, best, axis=1)[:, 0]
        known = np.where(few_SK[..., None] < 0, -np.inf, stored.log_probs[few_SK])
        mean = np.logaddexp.reduce(known, axis=1) - np.log((few_SK >= 0).sum(axis=1))[:, None]
        cosines = (shown.embeddings[has_S] * stored.embeddings[borrowed]).sum(-1)
        result["stored"][count] = {
            "unseen": float(1 - has_S.mean()),
            "kl": float(np.take_along_axis(kl_SK[has_S, :count], best, axis=1).mean()),
            "cosine": float(cosines.mean()),
            "top_1_agrees": top_1(exact[has_S], stored.log_probs[borrowed]),
            "kl_of_mean": float(kl(exact[has_S], mean).mean()),
            "top_1_of_mean": top_1(exact[has_S], mean),
            "kl_of_best": float(np.where(few_SK < 0, np.inf, kl_SK[has_S, :count]).min(axis=1).mean()),
        }
    return result


def candidates(shown: Seen, stored: Seen) -> NDArray[np.int64]:
    """Rows of `stored` that show the same thing, [S, K], one a view; -1 where that view doesn't."""
    row_of = {
        key: row
        for row, key in enumerate(zip(stored.pictures.tolist(), stored.things.tolist(), stored.views.tolist()))
    }
    return np.array(
        [
            [row_of.get((picture, thing, view), -1) for view in range(STORED)]
            for picture, thing in zip(shown.pictures.tolist(), shown.things.tolist())
        ]
    )


def searched(
    differences_SKT: NDArray[np.float64], kl_SK: NDArray[np.float64], rows_SK: NDArray[np.int64]
) -> list[dict[str, Any]]:
    """KL by the weights of the distance, with four and with eight stored views."""
    found = []
    for weights in [nearest.WEIGHTS, *itertools.product((0.25, 0.5, 1.0, 2.0), (1.0,), (0.0, 0.05, 0.1, 0.2)), (1, 0, 0), (0, 1, 0)]:
        by_count = {}
        for count in (4, 8):
            distances = np.where(rows_SK < 0, np.inf, differences_SKT @ np.array(weights))[:, :count]
            is_seen = (rows_SK[:, :count] >= 0).any(axis=1)
            best = distances.argmin(axis=1)
            by_count[str(count)] = float(kl_SK[np.arange(len(best)), best][is_seen].mean())
        found.append({"weights": weights, "kl": by_count})
    return found


def kl(exact: NDArray[np.float64], borrowed: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((np.exp(exact) * (exact - borrowed)).sum(-1))


def top_1(exact: NDArray[np.float64], borrowed: NDArray[np.float64]) -> float:
    return float((exact.argmax(-1) == borrowed.argmax(-1)).mean())


if __name__ == "__main__":
    typer.run(main)
