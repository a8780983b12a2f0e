"""Which detection datasets there are: where users have their annotations and pictures, and what the classes are."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from richsem_prep.sources.class_names import checked_names
from richsem_prep.sources.detection import list_detection
from richsem_prep.sources.remote_annotations import local_annotations
from richsem_prep.sources.source import Source, lvis_vocabulary
from richsem_schemas.annotations import AnnotationFormat, DetectionData, check_vocabulary, read_annotations_below
from richsem_schemas.cache.manifest import Plan
from richsem_schemas.errors import SourceError
from richsem_schemas.io.files import FileHash, file_sha256
from richsem_schemas.io.places import Place, each_of, name_below
from richsem_schemas.vocabularies.vocabulary import Vocabulary


@dataclass(frozen=True)
class DetectionLayout:
    """How a dataset lies on disk, relative to ROOT.

    Attributes:
        file_format: of its annotations.
        annotations: where those of the training split may lie; the first that is there counts.
        images: folders where the pictures may lie, in the order of preference; `{split}` is the part of the
            annotations' name that says which split they are of, such as `train2017`.
        has_classes: whether boxes keep their classes.
    """

    file_format: AnnotationFormat
    annotations: tuple[str, ...]
    images: tuple[str, ...]
    has_classes: bool = True


_OBJECTS365 = (
    "annotations/zhiyuan_objv2_train.json",
    "zhiyuan_objv2_train.json",
    "train/zhiyuan_objv2_train.json",
    "annotations/objects365_train.json",
    "objects365_train.json",
)
_OPENIMAGES = ("oidv6-train-annotations-bbox.csv", "train-annotations-bbox.csv")

LAYOUTS: dict[str, DetectionLayout] = {
    "lvis": DetectionLayout(
        "lvis", ("annotations/lvis_v1_train.json", "lvis_v1_train.json"), (".", "images", "../coco", "../coco/images")
    ),
    "coco": DetectionLayout(
        "coco",
        ("annotations/instances_train2017.json", "annotations/instances_train2014.json"),
        ("{split}", "images/{split}", ".", "images"),
    ),
    "objects365": DetectionLayout("objects365", _OBJECTS365, ("{split}", "images/{split}", "images", ".")),
    "objects365-boxes": DetectionLayout(
        "objects365", _OBJECTS365, ("{split}", "images/{split}", "images", "."), has_classes=False
    ),
    "openimages": DetectionLayout(
        "openimages",
        tuple(f"{folder}{name}" for folder in ("", "annotations/", "metadata/") for name in _OPENIMAGES),
        (".", "images", "OpenImages"),
    ),
    "visual-genome": DetectionLayout("visual-genome", ("objects.json", "annotations/objects.json"), (".", "images")),
    "demo-detection": DetectionLayout("lvis", ("detection/annotations/lvis_demo_train.json",), ("detection/{split}",)),
}


def open_detection(dataset: str, root: Place, *, annotations: Path | None, images: Path | None) -> Source:
    """Read the annotations of a dataset and find its pictures.

    Args:
        dataset: a name of `LAYOUTS`.
        root: its folder.
        annotations: file to take instead of that of the training split, from here or below `root`.
        images: folder of the pictures, from here or below `root`; None looks where the layout has them.

    Raises:
        SourceError: something isn't there, or not in the expected layout.
    """
    layout = LAYOUTS[dataset]
    path = annotations_path(dataset, root, annotations)
    folders = images_folders(dataset, root, path.name, images)
    with local_annotations(path) as local:
        data = read_annotations_below(local, folders, file_format=layout.file_format, may_miss=True)
        annotations_file = _hash_of(local)
    vocabulary, row_of = _rows(dataset, data, path, has_classes=layout.has_classes)
    return Source(
        vocabulary,
        absent=(),
        root=data.root,
        class_count=len(data.categories),
        entries=partial(list_detection, data, row_of),
        has_boxes=True,
        annotations=_name_of(path, root),
        annotations_file=annotations_file,
        notes=tuple(f"{path.name}: {line}" for line in data.problem_lines()),
    )


def annotations_path(dataset: str, root: Place, annotations: Path | None) -> Place:
    """Where the annotations lie.

    Raises:
        SourceError: nowhere that is looked at.
    """
    if not root.is_dir():
        raise SourceError(f"{root} is no folder; point --root at the folder that holds {dataset}")
    wanted = LAYOUTS[dataset].annotations
    places: list[Place] = [root / name for name in wanted]
    if annotations is not None:
        places = [annotations, root / annotations, root / "annotations" / annotations]
    for place in places:
        if place.is_file():
            return place
    if annotations is not None:
        raise SourceError(f"--annotations {annotations} is not there, and neither is it below {root}")
    raise SourceError(
        f"{root} has no annotations of {dataset}; expected {' or '.join(wanted[:3])}. Point --root at the folder that "
        "holds them, or name the file with --annotations"
    )


def _name_of(annotations: Place, root: Place) -> str:
    """Below ROOT, since splits may be told apart by their folders alone."""
    try:
        return name_below(annotations.absolute(), root.absolute())
    except ValueError:
        return annotations.name


def other_annotations(plan: Plan, root: Place, annotations: Path | None) -> dict[str, object]:
    """The fields of a plan that would be others with the annotations which a run asks for.

    They are known by their bytes, wherever they lie now; where they are gone, by as much of their path as was given.

    Args:
        plan: of the cache.
        root: as `open_detection` takes it.
        annotations: likewise.
    """
    try:
        path = annotations_path(plan.dataset, root, annotations)
    except SourceError:
        if annotations is None or _may_be(annotations, plan.annotations):
            return {}
        return {"annotations": str(annotations)}
    found = _hash_of(path)
    if found == plan.annotations_file:
        return {}
    return {"annotations": _name_of(path, root), "annotations_file": found}


def _may_be(asked: Path, planned: str | None) -> bool:
    pairs = zip(asked.parts[::-1], Path(planned or "").parts[::-1], strict=False)
    return planned is not None and all(part == other for part, other in pairs)


def _hash_of(path: Place) -> FileHash:
    return FileHash(bytes=path.stat().st_size, sha256=file_sha256(path))


def images_folders(dataset: str, root: Place, annotations_name: str, images: Path | None) -> list[Place]:
    """Folders in which the pictures may lie.

    Raises:
        SourceError: `images` is given and no folder.
    """
    if images is not None:
        found = [folder for folder in (images, root / images) if folder.is_dir()]
        if not found:
            raise SourceError(f"--images {images} is no folder, and neither is {root / images}")
        return found[:1]
    split = _split_of(annotations_name)
    folders = [_below(root, pattern.format(split=split)) for pattern in LAYOUTS[dataset].images]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()] or [root]


def _split_of(annotations_name: str) -> str:
    match = re.search(r"(train|val|test)\d*", annotations_name)
    return match[0] if match else "train"


def _below(root: Place, pattern: str) -> Place:
    """The place without `.` and `..`: the plan keeps it, and names are joined to it."""
    place = root.absolute()
    for part in pattern.split("/"):
        if part == "..":
            place = place.parent
        elif part != ".":
            place = place / part
    return place


def pictures_root(folders: Iterable[Place], names: Sequence[str]) -> Place | None:
    """The folder that has most of some pictures; None where none has any.

    Args:
        folders: where they may lie, in the order of preference.
        names: of some pictures of a plan.
    """
    counts = {folder: _count_there(folder, names) for folder in folders}
    best = max(counts, key=counts.__getitem__, default=None)
    return best if best is not None and counts[best] else None


def _count_there(folder: Place, names: Sequence[str]) -> int:
    return sum(each_of(folder, lambda name: (folder / name).is_file(), names))


def _rows(dataset: str, data: DetectionData, path: Place, *, has_classes: bool) -> tuple[Vocabulary, NDArray[np.int32]]:
    """The vocabulary, and its row for each category id."""
    ids = np.array([category.id for category in data.categories])
    row_of = np.zeros(data.num_rows, np.int32)
    if not has_classes:
        return lvis_vocabulary(), row_of
    if dataset == "lvis" and _is_lvis_v1(data):
        row_of[ids] = ids
        return lvis_vocabulary(), row_of
    row_of[ids] = np.arange(1, len(ids) + 1)
    name = path.stem if dataset == "lvis" else dataset.removesuffix("-detection")
    names = checked_names(str(path), [category.name for category in data.categories])
    return Vocabulary(name=name, class_names=names), row_of


def _is_lvis_v1(data: DetectionData) -> bool:
    """Whether the categories are those of LVIS v1, or some of them."""
    try:
        check_vocabulary(data, lvis_vocabulary().class_names)
    except SourceError:
        return False
    return True
