"""Writes the demo to disk: an LVIS-format detection split and an ImageNet-layout classification split."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file, save_file

from richsem_schemas.errors import SourceError

from . import world

DEMO_VERSION = 3
"""Raised whenever the same seed would write other files than before."""

TRAIN_ANNOTATIONS = Path("detection/annotations/lvis_demo_train.json")
VAL_ANNOTATIONS = Path("detection/annotations/lvis_demo_val.json")
TRAIN_PICTURES = Path("detection/train")
VAL_PICTURES = Path("detection/val")
CLASSIFICATION = Path("classification")
CATEGORIES = Path("categories.json")
BACKBONE = Path("backbone.safetensors")

_COMPLETE = "demo.json"
_JPEG_QUALITY = 85

# What each stream of randomness is for: the splits stay the same when one of them changes its size.
_TRAIN_STREAM, _VAL_STREAM, _CLASSIFICATION_STREAM = 0, 1, 2


def write_demo(root: Path, *, seed: int = 0, pictures_per_class: int = 10, val_instances_per_class: int = 14) -> None:
    """Draw the whole demo and write it as the folder `root`, which appears only when complete.

    A complete demo of the same version, seed and sizes is left as it is; another demo is replaced.

    ```
    root/
      classification/NAME/NAME_0000.jpg   one object a picture, a folder a class (ImageNet layout)
      detection/train/000000000001.jpg    scenes of 128x128 px with 1..6 objects
      detection/val/...
      detection/annotations/lvis_demo_{train,val}.json
      categories.json                     the 96 classes, ids 1..96 in the order of the class folders
      backbone.safetensors                weights for a detector's backbone: the demo teacher's convolutions
      demo.json                           version and seed; written last
    ```

    Args:
        root: folder to write; its parent is created.
        seed: draws the pictures. What the classes are, and how frequent, is the same for every seed.
        pictures_per_class: classification pictures for each of the 96 detection classes.
        val_instances_per_class: mean instances of a class in val; rare classes get 5/7 of the frequent ones' share.

    Raises:
        ValueError: a size is smaller than 1.
        SourceError: `root` holds something that is no demo.
    """
    if pictures_per_class < 1 or val_instances_per_class < 1:
        raise ValueError(
            f"pictures_per_class={pictures_per_class} and val_instances_per_class={val_instances_per_class} "
            "must be at least 1"
        )
    classes = world.assignment().detection
    # Flatter than train, so that the AP of a rare class stands on as much as that of a frequent one, nearly.
    share = {"r": 5 / 6, "c": 1.0, "f": 7 / 6}
    content = WorldContent(
        classes=classes,
        val_instances=[max(1, round(share[each.frequency] * val_instances_per_class)) for each in classes],
        pictures_per_class=pictures_per_class,
    )
    sizes = {"pictures_per_class": pictures_per_class, "val_instances_per_class": val_instances_per_class}
    write_world(root, content, seed=seed, recipe=sizes)


@dataclass(frozen=True)
class WorldContent:
    """What is drawn for a world.

    Attributes:
        classes: of both splits, with their instances in train.
        val_instances: of each class.
        pictures_per_class: classification pictures of each class.
        objects: fewest and most objects of a scene.
        draw_scene: by a generator, of the classes named.
        draw_picture: a classification picture of one class.
    """

    classes: Sequence[world.DetectionClass]
    val_instances: Sequence[int]
    pictures_per_class: int
    objects: tuple[int, int] = (1, world.MAX_OBJECTS)
    draw_scene: Callable[[np.random.Generator, Sequence[str]], world.Scene] = world.draw_scene
    draw_picture: Callable[[np.random.Generator, str], world.Scene] = world.draw_picture


def write_world(root: Path, content: WorldContent, *, seed: int, recipe: Mapping[str, Any]) -> None:
    """Draw a world in the demo's layout as the folder `root`, which appears only when complete.

    Args:
        root: folder to write; its parent is created. What it holds is left as it is if it was written by the same
            recipe and seed, and replaced if by others.
        content: what is drawn.
        seed: draws the pictures.
        recipe: JSON that tells this content from others.

    Raises:
        SourceError: `root` holds something that is no such world.
    """
    full_recipe = {"version": DEMO_VERSION, "seed": seed, **recipe}
    root = root.absolute()
    if _recipe_of(root) == full_recipe:
        return
    if root.exists() and _recipe_of(root) is None and (not root.is_dir() or any(root.iterdir())):
        raise SourceError(f"{root} exists and is no demo; name an empty or a new folder for the demo")
    root.parent.mkdir(parents=True, exist_ok=True)
    temporary = root.parent / f".{root.name}.{os.getpid()}.tmp"
    try:
        _write_all(temporary, content, seed)
        _write_json(temporary / _COMPLETE, full_recipe)
        if root.exists():
            shutil.rmtree(root)
        temporary.rename(root)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def is_demo(root: Path) -> bool:
    """Whether a complete demo of this version stands at `root`."""
    recipe = _recipe_of(root)
    return recipe is not None and recipe.get("version") == DEMO_VERSION


def _recipe_of(root: Path) -> dict[str, Any] | None:
    try:
        recipe = json.loads((root / _COMPLETE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return recipe if isinstance(recipe, dict) and "version" in recipe else None


def _write_all(root: Path, content: WorldContent, seed: int) -> None:
    train_instances = [each.instance_count for each in content.classes]
    train_scenes = _plan_scenes(np.random.default_rng([seed, _TRAIN_STREAM]), train_instances, content.objects)
    val_scenes = _plan_scenes(np.random.default_rng([seed, _VAL_STREAM]), content.val_instances, content.objects)
    categories = _categories(content.classes, train_scenes)
    # Image ids go on counting: no picture of val has the id of one of train.
    first_val_id = len(train_scenes) + 1
    for pictures, annotations, scenes, first_id, stream in (
        (TRAIN_PICTURES, TRAIN_ANNOTATIONS, train_scenes, 1, _TRAIN_STREAM),
        (VAL_PICTURES, VAL_ANNOTATIONS, val_scenes, first_val_id, _VAL_STREAM),
    ):
        written = _write_scenes(
            root / pictures, scenes, categories, content.draw_scene, first_id=first_id, stream=(seed, stream)
        )
        (root / annotations).parent.mkdir(parents=True, exist_ok=True)
        _write_json(root / annotations, written)
    for category_id, detection_class in enumerate(content.classes, start=1):
        folder = root / CLASSIFICATION / detection_class.name
        folder.mkdir(parents=True)
        for number in range(content.pictures_per_class):
            rng = np.random.default_rng([seed, _CLASSIFICATION_STREAM, category_id, number])
            picture = content.draw_picture(rng, detection_class.name)
            _save_jpeg(picture.pixels, folder / f"{detection_class.name}_{number:04d}.jpg")
    _write_json(root / CATEGORIES, categories)
    _write_backbone(root / BACKBONE)


def _write_backbone(path: Path) -> None:
    """The teacher's convolutions under their own names, without its attention pool."""
    weights = load_file(Path(__file__).parent / "teacher" / "open_clip_model.safetensors")
    trunk = {
        name: tensor
        for name, tensor in weights.items()
        if name.startswith("visual.") and not name.startswith("visual.attnpool.")
    }
    save_file(trunk, path)


def _plan_scenes(rng: np.random.Generator, instance_counts: Sequence[int], objects: tuple[int, int]) -> list[list[int]]:
    """Deal all instances out to scenes of so many objects: category ids (from 1), a list a scene."""
    fewest, most = objects
    dealt = rng.permutation(np.repeat(np.arange(1, len(instance_counts) + 1), instance_counts)).tolist()
    scenes = []
    while dealt:
        take = int(rng.integers(fewest, most + 1))
        scenes.append(dealt[:take])
        del dealt[:take]
    return scenes


def _categories(classes: Sequence[world.DetectionClass], train_scenes: Iterable[Sequence[int]]) -> list[dict[str, Any]]:
    """The LVIS category table; its counts are those of the training split, as in LVIS."""
    image_counts = Counter(category_id for scene in train_scenes for category_id in set(scene))
    table = []
    for category_id, each in enumerate(classes, start=1):
        texture, colour, shape = world.split_name(each.name)
        table.append(
            {
                "id": category_id,
                "name": each.name,
                "synset": f"{each.name}.n.01",
                "synonyms": [each.name],
                "definition": f"a {texture} {shape} painted {colour}",
                "frequency": each.frequency,
                "image_count": image_counts[category_id],
                "instance_count": each.instance_count,
                "wnid": None,
            }
        )
    return table


def _write_scenes(
    folder: Path,
    scenes: Sequence[Sequence[int]],
    categories: Sequence[dict[str, Any]],
    draw_scene: Callable[[np.random.Generator, Sequence[str]], world.Scene],
    *,
    first_id: int,
    stream: tuple[int, int],
) -> dict[str, Any]:
    """Draw the planned scenes into `folder`; returns their annotations in the LVIS v1 format."""
    folder.mkdir(parents=True)
    names = {category["id"]: category["name"] for category in categories}
    image_records: list[dict[str, Any]] = []
    annotation_records: list[dict[str, Any]] = []
    for image_id, category_ids in enumerate(scenes, start=first_id):
        rng = np.random.default_rng([*stream, image_id])
        scene = draw_scene(rng, [names[category_id] for category_id in category_ids])
        file_name = f"{image_id:012d}.jpg"
        _save_jpeg(scene.pixels, folder / file_name)
        height, width = scene.pixels.shape[:2]
        image_records.append(
            {
                "id": image_id,
                "file_name": file_name,
                # Where LVIS readers look: the last two parts are folder and file, as with COCO's.
                "coco_url": f"http://demo.invalid/{folder.name}/{file_name}",
                "height": height,
                "width": width,
                # Drawn by code, so every absent class is known to be absent.
                "neg_category_ids": sorted(set(names) - set(category_ids)),
                "not_exhaustive_category_ids": [],
            }
        )
        for category_id, painted in zip(category_ids, scene.objects, strict=True):
            annotation_records.append(_annotation(len(annotation_records) + 1, image_id, category_id, painted))
    return {
        "info": {"description": "RichSem's built-in demo, drawn by code", "version": str(DEMO_VERSION)},
        "licenses": [],
        "categories": list(categories),
        "images": image_records,
        "annotations": annotation_records,
    }


def _annotation(annotation_id: int, image_id: int, category_id: int, painted: world.SceneObject) -> dict[str, Any]:
    left, top, right, bottom = painted.box_xyxy_px
    polygon = painted.polygon_xy_px
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [float(left), float(top), float(right - left), float(bottom - top)],
        "area": round(_polygon_area(polygon), 1),
        # A tenth of a pixel is finer than the drawing.
        "segmentation": [[round(coordinate, 1) for coordinate in polygon.ravel().tolist()]],
    }


def _polygon_area(polygon_xy: NDArray[np.float32]) -> float:
    """The shoelace formula; the slit of a ring cancels out, and so does what it encloses."""
    x, y = polygon_xy.astype(np.float64).T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def _save_jpeg(pixels: NDArray[np.uint8], path: Path) -> None:
    Image.fromarray(pixels).save(path, "JPEG", quality=_JPEG_QUALITY)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
