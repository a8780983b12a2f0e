"""Which datasets there are: where their pictures and class names come from, and the defaults that suit them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from richsem_prep.demo import TEACHER_SIZE, is_demo, write_demo
from richsem_prep.demo.dataset import CATEGORIES, CLASSIFICATION
from richsem_prep.demo.views import GEOMETRY, SCENE_GEOMETRY
from richsem_prep.sources import (
    absent_classes,
    folder_classes,
    list_cc3m,
    list_folder,
    list_imagenet,
    list_webdataset,
)
from richsem_prep.sources.class_names import checked_names
from richsem_prep.sources.detection_datasets import LAYOUTS, images_folders, open_detection, pictures_root
from richsem_prep.sources.folder import NO_LABEL
from richsem_prep.sources.source import Source, lvis_vocabulary
from richsem_schemas.cache.manifest import Plan, ViewGeometry
from richsem_schemas.errors import RichSemError, SourceError
from richsem_schemas.io.places import Place, require_local
from richsem_schemas.vocabularies.imagenet21k import imagenet21k_names
from richsem_schemas.vocabularies.lvis import class_ids_by_wnid, inet_lvis_categories
from richsem_schemas.vocabularies.vocabulary import NONE_NAME, Vocabulary


@dataclass(frozen=True)
class Preset:
    """Defaults of a dataset.

    Attributes:
        about: one line for help texts.
        folder: where its pictures lie in $RICHSEM_DATA; None is a folder of the dataset's name.
        crops: passes of crop views.
        mosaics: passes of mosaic views.
        windows: passes of window views; 0 for classification data, which has no boxes.
        pictures: as `--pictures` takes it.
        teacher: as `--teacher` takes it.
        teacher_size: as `--teacher-size` takes it.
        geometry: the scales of views.
    """

    about: str
    folder: str | None = None
    crops: int = 1
    mosaics: int = 4
    windows: int = 0
    pictures: str = "copy"
    teacher: str = "RN50:openai"
    teacher_size: int | None = None
    geometry: ViewGeometry = field(default_factory=ViewGeometry)

    @property
    def has_boxes(self) -> bool:
        """Whether it is detection data: its views are windows, and nothing else's are."""
        return self.windows > 0


def _detection(about: str, **changes: Any) -> Preset:
    """Detection data stays where it is, and a cache of 4 passes costs a sixth of what the teacher costs online."""
    return Preset(about, **{"crops": 0, "mosaics": 0, "windows": 4, "pictures": "reference", **changes})


PRESETS: dict[str, Preset] = {
    "inet-lvis": Preset("ImageNet-21k's 997 classes that LVIS knows; a folder or tar a wnid"),
    "inet-21k": Preset("all 21,841 classes of ImageNet-21k; a folder or tar a wnid"),
    "inet-unlabeled": Preset("the pictures of inet-21k without labels", folder="inet-21k"),
    "cc3m": Preset("Conceptual Captions: its TSV beside the pictures, or img2dataset's tars"),
    "cc3m-unlabeled": Preset("the pictures of cc3m without captions", folder="cc3m"),
    "webdataset": Preset("any tars of pictures, without labels"),
    "lvis": _detection("LVIS v1 boxes on the pictures of COCO"),
    "coco": _detection("COCO 2017 boxes"),
    "objects365": _detection("Objects365 v1 or v2 boxes"),
    "objects365-boxes": _detection("Objects365 boxes without their classes", folder="objects365"),
    "openimages": _detection("OpenImages V4 and later: the CSV of boxes"),
    "visual-genome": _detection("Visual Genome's objects of frequent names"),
    "folder": Preset("any folder of pictures; a class is a folder's name"),
    "demo": Preset("drawn by code, nothing to download", teacher="demo", teacher_size=TEACHER_SIZE, geometry=GEOMETRY),
    "demo-detection": _detection(
        "the demo's scenes and their boxes",
        folder="demo",
        teacher="demo",
        teacher_size=TEACHER_SIZE,
        geometry=SCENE_GEOMETRY,
    ),
}


def preset(dataset: str) -> Preset:
    """Defaults of a dataset.

    Raises:
        RichSemError: there is no such dataset.
    """
    if dataset not in PRESETS:
        known = "; ".join(f"{name} ({item.about})" for name, item in PRESETS.items())
        raise RichSemError(f"--dataset {dataset!r} is unknown; there are: {known}")
    return PRESETS[dataset]


def open_source(dataset: str, root: Place, *, annotations: Path | None = None, images: Path | None = None) -> Source:
    """Look at a dataset's root, without listing it.

    Args:
        dataset: a name of `PRESETS`.
        root: its folder.
        annotations: of detection data, as `--annotations` takes it.
        images: of detection data, as `--images` takes it.

    Raises:
        SourceError: it isn't there, or not in the expected layout, or a class can't have its name.
    """
    if dataset in LAYOUTS:
        _draw_demo(dataset, root)
        return open_detection(dataset, root, annotations=annotations, images=images)
    source = _open_classification(dataset, root)
    checked_names(str(root), source.vocabulary.class_names[1:])
    return source


def _open_classification(dataset: str, root: Place) -> Source:
    if dataset == "demo":
        return _open_demo(require_local(root, "the demo"))
    if dataset == "folder":
        return _open_folder(root)
    if dataset == "webdataset":
        return Source(lvis_vocabulary(), (), root, 0, partial(list_webdataset, root))
    if dataset in {"cc3m", "cc3m-unlabeled"}:
        has_captions = dataset == "cc3m"
        entries = partial(list_cc3m, root, with_captions=has_captions)
        return Source(lvis_vocabulary(), (), root, 0, entries, has_captions=has_captions)
    return _open_imagenet(dataset, root)


def _open_imagenet(dataset: str, root: Place) -> Source:
    if dataset == "inet-21k":
        names_by_wnid = imagenet21k_names()
        vocabulary = Vocabulary(name="imagenet-21k", class_names=(NONE_NAME, *names_by_wnid.values()))
        ids = {wnid: row for row, wnid in enumerate(names_by_wnid, 1)}
    elif dataset == "inet-unlabeled":
        vocabulary, ids = lvis_vocabulary(), dict.fromkeys(imagenet21k_names(), NO_LABEL)
    else:
        vocabulary, ids = lvis_vocabulary(), class_ids_by_wnid(inet_lvis_categories())
    return Source(vocabulary, tuple(absent_classes(root, ids)), root, len(ids), partial(list_imagenet, root, ids))


def _open_demo(root: Path) -> Source:
    _draw_demo("demo", root)
    ids = _demo_class_ids(root)
    names = (NONE_NAME, *sorted(ids, key=ids.__getitem__))
    pictures = root / CLASSIFICATION
    vocabulary = Vocabulary(name="demo", class_names=names)
    return Source(vocabulary, (), pictures, len(ids), partial(list_imagenet, pictures, ids))


def find_pictures(dataset: str, root: Place, plan: Plan, names: Sequence[str], *, images: Path | None = None) -> Place:
    """Where the pictures of an existing plan lie, without reading annotations again.

    Args:
        dataset: a name of `PRESETS`.
        root: its folder.
        plan: of the cache.
        names: of some pictures of it.
        images: of detection data, as `--images` takes it.

    Raises:
        SourceError: they aren't there.
    """
    if dataset not in LAYOUTS:
        return open_source(dataset, root).root
    _draw_demo(dataset, root)
    folders = images_folders(dataset, root, plan.annotations or "", images)
    found = pictures_root(folders, names)
    if found is None:
        raise SourceError(
            f"{', '.join(map(str, folders))}: no picture of the plan is there, such as {names[0]}; name their folder "
            "with --images"
        )
    return found


def _draw_demo(dataset: str, root: Place) -> None:
    if dataset in {"demo", "demo-detection"} and not is_demo(folder := require_local(root, "the demo")):
        write_demo(folder)


def _demo_class_ids(root: Path) -> dict[str, int]:
    try:
        return {category["name"]: int(category["id"]) for category in json.loads((root / CATEGORIES).read_bytes())}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{root / CATEGORIES} is damaged ({error}); delete {root}, it is drawn again") from None


def _open_folder(root: Place) -> Source:
    classes = folder_classes(root)
    own = Vocabulary(name="folders", class_names=(NONE_NAME, *classes))
    vocabulary = own if classes else lvis_vocabulary()
    ids = {name: row for row, name in enumerate(classes, 1)}
    return Source(vocabulary, (), root, len(ids), partial(list_folder, root, ids))
