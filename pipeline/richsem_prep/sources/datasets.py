"""Which datasets there are, a record each: adding one is a lister in a file of its own and a record here."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from richsem_prep.demo import TEACHER_SIZE
from richsem_prep.demo.geometry import GEOMETRY, SCENE_GEOMETRY
from richsem_prep.sources.cc3m import list_cc3m
from richsem_prep.sources.class_names import checked_names
from richsem_prep.sources.dataset import PictureDataset, Source
from richsem_prep.sources.demo import draw_demo, open_demo
from richsem_prep.sources.detection_dataset import DetectionDataset
from richsem_prep.sources.folder import folder_classes, list_folder
from richsem_prep.sources.imagenet import absent_classes, list_imagenet
from richsem_prep.sources.webdataset import list_webdataset
from richsem_schemas.cache.manifest import Plan
from richsem_schemas.errors import RichSemError
from richsem_schemas.io.places import Place
from richsem_schemas.vocabularies.imagenet21k import imagenet21k_names
from richsem_schemas.vocabularies.known import known_vocabulary
from richsem_schemas.vocabularies.lvis import class_ids_by_wnid, inet_lvis_categories
from richsem_schemas.vocabularies.vocabulary import NO_LABEL, NONE_NAME, Vocabulary


def _open_imagenet(root: Place, vocabulary: Vocabulary, class_ids: Mapping[str, int]) -> Source:
    return Source(
        vocabulary=vocabulary,
        root=root,
        entries=partial(list_imagenet, root, class_ids),
        class_count=len(class_ids),
        absent=tuple(absent_classes(root, class_ids)),
    )


def _open_inet_lvis(root: Place) -> Source:
    return _open_imagenet(root, known_vocabulary("lvis"), class_ids_by_wnid(inet_lvis_categories()))


def _open_inet_21k(root: Place) -> Source:
    names = imagenet21k_names()
    vocabulary = Vocabulary(name="imagenet-21k", class_names=(NONE_NAME, *names.values()))
    return _open_imagenet(root, vocabulary, {wnid: row for row, wnid in enumerate(names, 1)})


def _open_inet_unlabeled(root: Place) -> Source:
    return _open_imagenet(root, known_vocabulary("lvis"), dict.fromkeys(imagenet21k_names(), NO_LABEL))


def _open_cc3m(root: Place, *, with_captions: bool) -> Source:
    entries = partial(list_cc3m, root, with_captions=with_captions)
    return Source(vocabulary=known_vocabulary("lvis"), root=root, entries=entries, has_captions=with_captions)


def _open_tars(root: Place) -> Source:
    return Source(vocabulary=known_vocabulary("lvis"), root=root, entries=partial(list_webdataset, root))


def _open_folder(root: Place) -> Source:
    classes = folder_classes(root)
    own = Vocabulary(name="folders", class_names=(NONE_NAME, *classes))
    ids = {name: row for row, name in enumerate(classes, 1)}
    return Source(
        vocabulary=own if classes else known_vocabulary("lvis"),
        root=root,
        entries=partial(list_folder, root, ids),
        class_count=len(ids),
    )


_OBJECTS365 = (
    "annotations/zhiyuan_objv2_train.json",
    "zhiyuan_objv2_train.json",
    "train/zhiyuan_objv2_train.json",
    "annotations/objects365_train.json",
    "objects365_train.json",
)
_OPENIMAGES = ("oidv6-train-annotations-bbox.csv", "train-annotations-bbox.csv")

_RECORDS: tuple[PictureDataset | DetectionDataset, ...] = (
    DetectionDataset(
        "lvis",
        "LVIS v1 boxes on the pictures of COCO",
        file_format="lvis",
        annotations=("annotations/lvis_v1_train.json", "lvis_v1_train.json"),
        images=(".", "images", "../coco", "../coco/images"),
    ),
    DetectionDataset(
        "coco",
        "COCO 2017 boxes",
        file_format="coco",
        annotations=("annotations/instances_train2017.json", "annotations/instances_train2014.json"),
        images=("{split}", "images/{split}", ".", "images"),
    ),
    DetectionDataset(
        "objects365",
        "Objects365 v1 or v2 boxes",
        file_format="objects365",
        annotations=_OBJECTS365,
        images=("{split}", "images/{split}", "images", "."),
    ),
    DetectionDataset(
        "objects365-boxes",
        "Objects365 boxes without their classes",
        folder="objects365",
        file_format="objects365",
        annotations=_OBJECTS365,
        images=("{split}", "images/{split}", "images", "."),
        has_classes=False,
    ),
    DetectionDataset(
        "openimages",
        "OpenImages V4 and later: the CSV of boxes",
        file_format="openimages",
        annotations=tuple(f"{folder}{name}" for folder in ("", "annotations/", "metadata/") for name in _OPENIMAGES),
        images=(".", "images", "OpenImages"),
    ),
    DetectionDataset(
        "visual-genome",
        "Visual Genome's objects of frequent names",
        file_format="visual-genome",
        annotations=("objects.json", "annotations/objects.json"),
        images=(".", "images"),
    ),
    PictureDataset(
        "inet-lvis", "ImageNet-21k's 997 classes that LVIS knows; a folder or tar a wnid", open=_open_inet_lvis
    ),
    PictureDataset("inet-21k", "all 21,841 classes of ImageNet-21k; a folder or tar a wnid", open=_open_inet_21k),
    PictureDataset(
        "inet-unlabeled",
        "the pictures of inet-21k without labels",
        folder="inet-21k",
        open=_open_inet_unlabeled,
    ),
    PictureDataset(
        "cc3m",
        "Conceptual Captions: its TSV beside the pictures, or img2dataset's tars",
        open=partial(_open_cc3m, with_captions=True),
    ),
    PictureDataset(
        "cc3m-unlabeled",
        "the pictures of cc3m without captions",
        folder="cc3m",
        open=partial(_open_cc3m, with_captions=False),
    ),
    PictureDataset("webdataset", "any tars of pictures, without labels", open=_open_tars),
    PictureDataset("folder", "any folder of pictures; a class is a folder's name", open=_open_folder),
    PictureDataset(
        "demo",
        "drawn by code, nothing to download",
        draw=draw_demo,
        open=open_demo,
        teacher="demo",
        teacher_size=TEACHER_SIZE,
        geometry=GEOMETRY,
    ),
    DetectionDataset(
        "demo-detection",
        "the demo's scenes and their boxes",
        folder="demo",
        draw=draw_demo,
        file_format="lvis",
        annotations=("detection/annotations/lvis_demo_train.json",),
        images=("detection/{split}",),
        teacher="demo",
        teacher_size=TEACHER_SIZE,
        geometry=SCENE_GEOMETRY,
    ),
)

DATASETS: dict[str, PictureDataset | DetectionDataset] = {record.name: record for record in _RECORDS}
"""By the names that `--dataset` takes, in the order of help texts."""


def find_dataset(name: str) -> PictureDataset | DetectionDataset:
    """The record of a dataset.

    Raises:
        RichSemError: there is no such dataset.
    """
    if name not in DATASETS:
        known = "; ".join(f"{name} ({record.about})" for name, record in DATASETS.items())
        raise RichSemError(f"--dataset {name!r} is unknown; there are: {known}")
    return DATASETS[name]


def open_source(dataset: str, root: Place, *, annotations: Path | None = None, images: Path | None = None) -> Source:
    """Look at a dataset's root, without listing it; what is drawn by code is drawn where it isn't there.

    Args:
        dataset: its name.
        root: its folder.
        annotations: of detection data, a file to take instead of the training split's, from here or below `root`.
        images: of detection data, the folder of the pictures, from here or below `root`; None finds it.

    Raises:
        SourceError: it isn't there, or not in the expected layout, or a class can't have its name.
    """
    record = _drawn(dataset, root)
    if isinstance(record, DetectionDataset):
        return record.open(root, annotations=annotations, images=images)
    source = record.open(root)
    checked_names(str(root), source.vocabulary.class_names[1:])
    return source


def find_pictures(dataset: str, root: Place, plan: Plan, names: Sequence[str], *, images: Path | None = None) -> Place:
    """Where the pictures of an existing plan lie, known by some of their names, without reading annotations again.

    Raises:
        SourceError: they aren't there.
    """
    record = _drawn(dataset, root)
    if isinstance(record, DetectionDataset):
        return record.find_pictures(root, plan, names, images=images)
    return open_source(dataset, root).root


def _drawn(dataset: str, root: Place) -> PictureDataset | DetectionDataset:
    record = find_dataset(dataset)
    if record.draw is not None:
        record.draw(root)
    return record
