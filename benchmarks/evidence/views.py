"""Two worlds, the views of them that a student sees and those that a cache stores, and what the demo's teacher says.

*demo*: scenes and pictures of the demo's world, objects with radii of a sixteenth to a quarter of the shorter side,
views of a fifth of the reference's sizes, seen at the size at which the teacher was trained. *pictures*: those of an
annotation file in COCO's format, views of the reference's sizes, seen at them; the teacher doesn't know what is on them
and wavers: its labels are flat.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from richsem_prep.demo import TEACHER_SIZE, world
from richsem_prep.demo.geometry import GEOMETRY
from richsem_prep.teacher.region_encoder import RegionEncoder, make_region_encoder
from richsem_prep.teacher.teacher import Teacher
from richsem_prep.teacher.text import text_means
from richsem_schemas.annotations import read_annotations
from richsem_schemas.cache import recipes
from richsem_schemas.cache.manifest import ViewGeometry
from richsem_schemas.cache.render import render_view
from richsem_schemas.cache.text_bank import TextBank
from richsem_schemas.cache.view import View
from richsem_schemas.pictures.decode import decode_picture
from richsem_schemas.vocabularies.vocabulary import NONE_NAME

STORED = 8
"""Windows and crops that are stored of each picture, at most."""

SCENE_SIZES = ((96, 128), (128, 96), (120, 120), (100, 150))
RADII = (0.06, 0.25)

SMALL_STUDENT = 256
"""Longer side at which a detector of the demo is shown views of real pictures: at the reference's sizes a step of it
takes minutes on a core."""


@dataclass(frozen=True, eq=False)
class Scene:
    """A detection picture.

    Attributes:
        picture: decoded.
        boxes_xyxy_px: float32 [G, 4].
        rows: int [G], of the vocabulary, in which row 0 is "none".
    """

    picture: Image.Image
    boxes_xyxy_px: NDArray[np.float32]
    rows: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class World:
    """What is shown, and how.

    Attributes:
        names: of the classes.
        scenes: pictures with their boxes, for windows.
        pictures: for crops and mosaics.
        picture_rows: of the vocabulary, a picture's label; 0 where it has none.
        geometry: the sizes of views.
        teacher_size: longer side at which the teacher sees a view, pixels; None is the view's own.
        student_size: the same of a student.
    """

    names: tuple[str, ...]
    scenes: list[Scene]
    pictures: list[Image.Image]
    picture_rows: list[int]
    geometry: ViewGeometry
    teacher_size: int | None
    student_size: int | None


def demo_world(count: int) -> World:
    names = tuple(each.name for each in world.assignment().detection)
    scenes, pictures, rows = [], [], []
    for number in range(count):
        rng = np.random.default_rng([0xF4E5, number])
        shown = rng.integers(0, len(names), int(rng.integers(1, 7))).tolist()
        size = SCENE_SIZES[number % len(SCENE_SIZES)]
        scene = world.draw_scene(rng, [names[row] for row in shown], size=size, radii=RADII)
        boxes = np.array([each.box_xyxy_px for each in scene.objects], np.float32)
        labels = np.array([1 + names.index(each.name) for each in scene.objects])
        scenes.append(Scene(Image.fromarray(scene.pixels), boxes, labels))
        pictures.append(Image.fromarray(world.draw_picture(rng, names[number % len(names)]).pixels))
        rows.append(1 + number % len(names))
    return World(names, scenes, pictures, rows, GEOMETRY, TEACHER_SIZE, None)


def annotated_world(annotations: Path, images: Path) -> World:
    """Pictures of an annotation file in COCO's format; as a whole, one is of the class of its largest box."""
    data = read_annotations(annotations, images, file_format="coco")
    row_of = {category.id: row for row, category in enumerate(data.categories, start=1)}
    scenes, pictures, picture_rows = [], [], []
    for index in range(len(data)):
        picture = decode_picture(data.path(index).read_bytes())
        boxes_xywh, categories = data.objects(index)
        rows = np.array([row_of[category] for category in categories.tolist()], np.int64)
        pictures.append(picture)
        picture_rows.append(int(rows[boxes_xywh[:, 2:].prod(axis=1).argmax()]) if len(rows) else 0)
        if len(rows):
            scenes.append(Scene(picture, data.boxes_xyxy(index), rows))
    names = tuple(category.name for category in data.categories)
    return World(names, scenes, pictures, picture_rows, ViewGeometry(), None, SMALL_STUDENT)


@dataclass(frozen=True, eq=False)
class Sees:
    """A teacher with a text bank, for a world."""

    teacher: Teacher
    encoder: RegionEncoder
    text: TextBank

    @classmethod
    def for_world(cls, teacher: Teacher, each: World) -> "Sees":
        names = (NONE_NAME, *each.names)
        prompted = tuple(name.replace("_", " ") for name in names)
        features = text_means(teacher, prompted, on_progress=lambda _done, _all: None)
        encoder = make_region_encoder(teacher, kind="roi-align", teacher_size=each.teacher_size, precision="fp32")
        return cls(teacher, encoder, TextBank(names, prompted, (), teacher.identity.logit_scale, features))

    def embeddings(self, views: Iterator["Shown"]) -> Iterator[tuple["Shown", NDArray[np.float32]]]:
        """Each view with the unit-norm embeddings of its regions, [R, D]."""

        def prepared() -> Iterator[tuple[Shown, Any]]:
            for shown in views:
                yield shown, self.encoder.prepare(shown.pixels, shown.view.regions["box_xyxy_px"])

        return self.encoder.encode(prepared())


@dataclass(frozen=True, eq=False)
class Shown:
    """A view of pictures, with what each of its R regions is.

    Attributes:
        things: [R] picture and box of it.
        number: of the view among those of the picture.
        view: the recipe.
        indices: of its pictures in the world.
        pictures: by the samples that its tiles name.
    """

    things: list[tuple[int, int]]
    number: int
    view: View
    indices: tuple[int, ...]
    pictures: Mapping[int, Image.Image]

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """Rendered each time, RGB, [H, W, 3]: of all views together there are gigabytes."""
        return render_view(self.view, self.pictures)


def stored_windows(each: World) -> Iterator[Shown]:
    return windows(each, STORED, stream=1)


def fresh_windows(each: World, fresh: int) -> Iterator[Shown]:
    return windows(each, fresh, stream=2)


def windows(each: World, count: int, *, stream: int) -> Iterator[Shown]:
    for index, scene in enumerate(each.scenes):
        annotated = recipes.AnnotatedPicture(0, hw_of(scene.picture), 0, scene.boxes_xyxy_px, scene.rows)
        for number in range(count):
            view = recipes.window_view(annotated, number, each.geometry, np.random.default_rng([stream, index, number]))
            things = [(index, annotation) for annotation in view.regions["annotation"].tolist()]
            yield Shown(things, number, view, (index,), {0: scene.picture})


def hw_of(picture: Image.Image) -> tuple[int, int]:
    return picture.height, picture.width


def stored_crops(each: World) -> Iterator[Shown]:
    return crops(each, STORED, stream=3)


def fresh_crops(each: World, fresh: int) -> Iterator[Shown]:
    return crops(each, fresh, stream=6)


def crops(each: World, count: int, *, stream: int) -> Iterator[Shown]:
    for index, picture in enumerate(each.pictures):
        annotated = recipes.AnnotatedPicture(0, hw_of(picture), each.picture_rows[index])
        for number in range(count):
            view = recipes.crop_view(annotated, number, each.geometry, np.random.default_rng([stream, index, number]))
            yield Shown([(index, 0)], number, view, (index,), {0: picture})


def fresh_mosaics(each: World, fresh: int) -> Iterator[Shown]:
    """Every picture `fresh` times."""
    for number in range(fresh):
        order = np.random.default_rng([4, number]).permutation(len(each.pictures))
        for start in range(0, len(order), 4):
            four = np.take(order, range(start, start + 4), mode="wrap").tolist()
            pictures = {tile: each.pictures[index] for tile, index in enumerate(four)}
            annotated = [
                recipes.AnnotatedPicture(tile, hw_of(pictures[tile]), each.picture_rows[index])
                for tile, index in enumerate(four)
            ]
            view = recipes.mosaic_view(annotated, 0, each.geometry, np.random.default_rng([5, number, start]))
            yield Shown([(index, 0) for index in four], number, view, tuple(four), pictures)
