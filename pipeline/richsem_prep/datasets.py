"""Which datasets there are: where their pictures and class names come from, and the defaults that suit them."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from richsem_prep.demo import TEACHER_SIZE, is_demo, write_demo
from richsem_prep.demo.dataset import CATEGORIES, CLASSIFICATION
from richsem_prep.demo.views import GEOMETRY
from richsem_prep.sources import (
    Rejected,
    SourceEntry,
    absent_classes,
    folder_classes,
    list_folder,
    list_imagenet,
)
from richsem_schemas.categories import class_ids_by_wnid, inet_lvis_categories, lvis_categories
from richsem_schemas.errors import RichSemError, SourceError
from richsem_schemas.manifest import ViewGeometry, Vocabulary
from richsem_schemas.text_bank import NONE_NAME


@dataclass(frozen=True)
class Preset:
    """Defaults of a dataset.

    Attributes:
        about: one line for help texts.
        crops: passes of crop views.
        mosaics: passes of mosaic views.
        teacher: as `--teacher` takes it.
        teacher_size: as `--teacher-size` takes it.
        geometry: the scales of views.
    """

    about: str
    crops: int = 1
    mosaics: int = 4
    teacher: str = "RN50:openai"
    teacher_size: int | None = None
    geometry: ViewGeometry = field(default_factory=ViewGeometry)


PRESETS: dict[str, Preset] = {
    "inet-lvis": Preset("ImageNet-21k's 997 classes that LVIS knows; a folder or tar a wnid"),
    "folder": Preset("any folder of pictures; a class is a folder's name"),
    "demo": Preset("drawn by code, nothing to download", teacher="demo", teacher_size=TEACHER_SIZE, geometry=GEOMETRY),
}


@dataclass(frozen=True)
class Source:
    """A dataset opened at its root.

    Attributes:
        vocabulary: names of the classes; row = `category_id`.
        absent: classes of the dataset that the root doesn't hold.
        root: where the pictures lie.
        class_count: classes of the dataset, those that the root doesn't hold included.
        entries: lists everything that the root holds, in a fixed order.
        has_boxes: every entry has boxes.
        has_captions: entries may have captions.
    """

    vocabulary: Vocabulary
    absent: tuple[str, ...]
    root: Path
    class_count: int
    entries: Callable[[], Iterator[SourceEntry | Rejected]]
    has_boxes: bool = False
    has_captions: bool = False


def preset(dataset: str) -> Preset:
    """Defaults of a dataset.

    Raises:
        RichSemError: there is no such dataset.
    """
    if dataset not in PRESETS:
        known = "; ".join(f"{name} ({item.about})" for name, item in PRESETS.items())
        raise RichSemError(f"--dataset {dataset!r} is unknown; there are: {known}")
    return PRESETS[dataset]


def open_source(dataset: str, root: Path) -> Source:
    """Look at a dataset's root, without listing it.

    Raises:
        SourceError: it isn't there, or not in the expected layout.
    """
    if dataset == "inet-lvis":
        names = (NONE_NAME, *(category.name for category in lvis_categories()))
        ids = class_ids_by_wnid(inet_lvis_categories())
        vocabulary = Vocabulary(name="lvis-v1", class_names=names)
        return Source(vocabulary, tuple(absent_classes(root, ids)), root, len(ids), partial(list_imagenet, root, ids))
    if dataset == "demo":
        if not is_demo(root):
            write_demo(root)
        ids = _demo_class_ids(root)
        names = (NONE_NAME, *sorted(ids, key=ids.__getitem__))
        pictures = root / CLASSIFICATION
        vocabulary = Vocabulary(name="demo", class_names=names)
        return Source(vocabulary, (), pictures, len(ids), partial(list_imagenet, pictures, ids))
    return _open_folder(root)


def _demo_class_ids(root: Path) -> dict[str, int]:
    try:
        return {category["name"]: int(category["id"]) for category in json.loads((root / CATEGORIES).read_bytes())}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{root / CATEGORIES} is damaged ({error}); delete {root}, it is drawn again") from None


def _open_folder(root: Path) -> Source:
    classes = folder_classes(root)
    if classes:
        vocabulary = Vocabulary(name="folders", class_names=(NONE_NAME, *classes))
    else:
        names = (NONE_NAME, *(category.name for category in lvis_categories()))
        vocabulary = Vocabulary(name="lvis-v1", class_names=names)
    ids = {name: row for row, name in enumerate(classes, 1)}
    return Source(vocabulary, (), root, len(ids), partial(list_folder, root, ids))
