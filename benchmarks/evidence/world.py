"""The world that the experiment is made in: the demo's things, drawn larger and smaller, with LVIS's long tail.

Scenes hold 4 to 14 objects, whose radii span a factor of three; views are the reference's, a fifth of its sizes,
so that crops cut and showings differ; an object of a classification picture may stand anywhere and be cut away. All
144 names of the demo's world are classes, those included that its teacher was never shown.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from richsem_prep.demo import TEACHER_SIZE, world
from richsem_prep.demo.dataset import TRAIN_ANNOTATIONS, WorldContent, write_world
from richsem_prep.demo.geometry import GEOMETRY
from richsem_prep.sources.dataset import PictureDataset
from richsem_prep.sources.datasets import DATASETS
from richsem_prep.sources.demo import open_demo
from richsem_prep.sources.detection_dataset import DetectionDataset
from richsem_schemas.io.places import Place, require_local

SCENE_SIZES = ((120, 160), (160, 120), (144, 144), (112, 168))
"""(height, width), pixels."""

SCENE_RADII = (0.055, 0.18)
"""Of objects, in shorter sides of the scene."""

SCENE_OBJECTS = (4, 14)
"""Fewest and most in a scene."""

PICTURE_RADII = (0.14, 0.4)
"""Of the one object of a classification picture, in its shorter sides; it may stand anywhere in it."""

PICTURE_SIDES = (96, 160)
"""Least and most pixels of a classification picture's sides."""

PICTURES_PER_CLASS = 20

CLASS_COUNTS: dict[world.Frequency, int] = {"r": 40, "c": 56, "f": 48}
"""LVIS's shares: 337, 461 and 405 of 1,203."""

INSTANCES: dict[world.Frequency, tuple[int, int]] = {"r": (10, 1), "c": (100, 11), "f": (200, 106)}
"""Instances in train of the most and the least frequent class of each kind; LVIS's bounds are 10 and 100 pictures."""

VAL_INSTANCES = 24
"""Of each class, rare ones as well, so that all of their APs stand on as much."""

_SEED = 0
_ASSIGNMENT_SEED = 11

RECIPE: dict[str, Any] = {
    "world": "evidence",
    "scene_sizes": SCENE_SIZES,
    "scene_radii": SCENE_RADII,
    "scene_objects": SCENE_OBJECTS,
    "picture_radii": PICTURE_RADII,
    "picture_sides": PICTURE_SIDES,
    "pictures_per_class": PICTURES_PER_CLASS,
    "class_counts": CLASS_COUNTS,
    "instances": INSTANCES,
    "val_instances": VAL_INSTANCES,
    "assignment_seed": _ASSIGNMENT_SEED,
}


def classes() -> tuple[world.DetectionClass, ...]:
    """All names, dealt out to the frequencies at random; instances fall geometrically within each."""
    order = np.random.default_rng(_ASSIGNMENT_SEED).permutation(len(world.NAMES)).tolist()
    dealt = []
    for frequency, count in CLASS_COUNTS.items():
        most, least = INSTANCES[frequency]
        instances = np.rint(np.geomspace(most, least, count)).astype(int).tolist()
        dealt += [world.DetectionClass(world.NAMES[order.pop()], frequency, each) for each in instances]
    return tuple(sorted(dealt))


def draw_scene(rng: np.random.Generator, names: Sequence[str]) -> world.Scene:
    """A scene of one of the sizes with an object for each name."""
    size = SCENE_SIZES[int(rng.integers(len(SCENE_SIZES)))]
    return world.draw_scene(rng, names, size=size, radii=SCENE_RADII)


def draw_picture(rng: np.random.Generator, name: str) -> world.Scene:
    """A classification picture with its object anywhere."""
    height, width = rng.integers(PICTURE_SIDES[0], PICTURE_SIDES[1] + 1, 2).tolist()
    return world.draw_scene(rng, [name], size=(height, width), radii=PICTURE_RADII)


def draw(root: Place) -> None:
    """Draw the world, unless it is there.

    Raises:
        SourceError: `root` is a URL, or holds something else.
    """
    of_all = classes()
    content = WorldContent(
        classes=of_all,
        val_instances=[VAL_INSTANCES] * len(of_all),
        pictures_per_class=PICTURES_PER_CLASS,
        objects=SCENE_OBJECTS,
        draw_scene=draw_scene,
        draw_picture=draw_picture,
    )
    # As JSON reads it again, which knows no tuples.
    write_world(require_local(root, "the world"), content, seed=_SEED, recipe=_as_json(RECIPE))


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_json(each) for key, each in value.items()}
    return [_as_json(each) for each in value] if isinstance(value, tuple) else value


def add_datasets() -> None:
    """Make the world known to `richsem-prep shard` in this process, as `evidence` and `evidence-detection`."""
    records: tuple[PictureDataset | DetectionDataset, ...] = (
        PictureDataset(
            "evidence",
            "pictures of the experiment's world",
            draw=draw,
            open=open_demo,
            teacher="demo",
            teacher_size=TEACHER_SIZE,
            geometry=GEOMETRY,
        ),
        DetectionDataset(
            "evidence-detection",
            "its scenes and their boxes",
            folder="evidence",
            draw=draw,
            file_format="lvis",
            annotations=(str(TRAIN_ANNOTATIONS),),
            images=("detection/{split}",),
            teacher="demo",
            teacher_size=TEACHER_SIZE,
            geometry=GEOMETRY,
        ),
    )
    DATASETS.update({record.name: record for record in records})


def root_of(data: Path) -> Path:
    """Where the world lies in a folder of data."""
    return data / "evidence"
