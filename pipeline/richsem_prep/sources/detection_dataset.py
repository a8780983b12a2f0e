"""The record of a detection dataset: where users have its annotations and pictures, and what the classes are."""

import re
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from richsem_prep.sources.class_names import checked_names
from richsem_prep.sources.dataset import Dataset, Source
from richsem_prep.sources.detection import list_detection
from richsem_prep.sources.remote_annotations import local_annotations
from richsem_schemas.annotations import AnnotationFormat, DetectionData, check_vocabulary, read_annotations
from richsem_schemas.cache.manifest import Plan
from richsem_schemas.errors import SourceError
from richsem_schemas.io.files import hash_file
from richsem_schemas.io.places import Place, map_small_files, name_below
from richsem_schemas.vocabularies.known import known_vocabulary
from richsem_schemas.vocabularies.vocabulary import Vocabulary


@dataclass(frozen=True)
class DetectionDataset(Dataset):
    """Pictures with boxes. They stay where they are; 4 passes cost a sixth of what the teacher costs online.

    Attributes:
        file_format: of its annotations.
        annotations: where those of the training split may lie below the root; the first that is there counts.
        images: folders where the pictures may lie, from the root, in the order of preference; `{split}` is the part of
            the annotations' name that says which split they are of, such as `train2017`.
        has_classes: whether boxes keep their classes.
    """

    _: KW_ONLY
    file_format: AnnotationFormat
    annotations: tuple[str, ...]
    images: tuple[str, ...]
    has_classes: bool = True
    windows: int = 4
    pictures: Literal["copy", "reference"] = "reference"
    has_boxes: ClassVar[bool] = True

    def open(self, root: Place, *, annotations: Path | None = None, images: Path | None = None) -> Source:
        """Read the annotations and find the pictures; see `datasets.open_source`."""
        path = self._annotations_path(root, annotations)
        folders = self._image_folders(root, path.name, images)
        with local_annotations(path) as local:
            data = read_annotations(local, folders, file_format=self.file_format, may_miss=True)
            annotations_file = hash_file(local)
        vocabulary, row_of = self._rows(data, path)
        return Source(
            vocabulary=vocabulary,
            root=data.root,
            entries=partial(list_detection, data, row_of),
            class_count=len(data.categories),
            has_boxes=True,
            annotations=_name_of(path, root),
            annotations_file=annotations_file,
            notes=tuple(f"{path.name}: {line}" for line in data.problem_lines()),
        )

    def find_pictures(self, root: Place, plan: Plan, names: Sequence[str], *, images: Path | None = None) -> Place:
        """The folder that has most of some pictures; see `datasets.find_pictures`."""
        folders = self._image_folders(root, plan.annotations or "", images)
        counts = {folder: _count_there(folder, names) for folder in folders}
        best = max(counts, key=counts.__getitem__)
        if not counts[best]:
            raise SourceError(
                f"{', '.join(map(str, folders))}: no picture of the plan is there, such as {names[0]}; name their "
                "folder with --images"
            )
        return best

    def other_annotations(self, plan: Plan, root: Place, annotations: Path | None) -> dict[str, object]:
        """The fields of a plan that would be others with the annotations which a run asks for.

        They are known by their bytes, wherever they lie now; where they are gone, by as much of the path as was given.
        """
        try:
            path = self._annotations_path(root, annotations)
        except SourceError:
            if annotations is None or _may_be(annotations, plan.annotations):
                return {}
            return {"annotations": str(annotations)}
        found = hash_file(path)
        if found == plan.annotations_file:
            return {}
        return {"annotations": _name_of(path, root), "annotations_file": found}

    def _annotations_path(self, root: Place, annotations: Path | None) -> Place:
        if not root.is_dir():
            raise SourceError(f"{root} is no folder; point --root at the folder that holds {self.name}")
        places: list[Place] = [root / name for name in self.annotations]
        if annotations is not None:
            places = [annotations, root / annotations, root / "annotations" / annotations]
        for place in places:
            if place.is_file():
                return place
        if annotations is not None:
            raise SourceError(f"--annotations {annotations} is not there, and neither is it below {root}")
        raise SourceError(
            f"{root} has no annotations of {self.name}; expected {' or '.join(self.annotations[:3])}. Point --root at "
            "the folder that holds them, or name the file with --annotations"
        )

    def _image_folders(self, root: Place, annotations_name: str, images: Path | None) -> list[Place]:
        """Folders in which the pictures may lie, at least one."""
        if images is not None:
            found = [folder for folder in (images, root / images) if folder.is_dir()]
            if not found:
                raise SourceError(f"--images {images} is no folder, and neither is {root / images}")
            return found[:1]
        match = re.search(r"(train|val|test)\d*", annotations_name)
        folders = [_below(root, pattern.format(split=match[0] if match else "train")) for pattern in self.images]
        return [folder for folder in dict.fromkeys(folders) if folder.is_dir()] or [root]

    def _rows(self, data: DetectionData, path: Place) -> tuple[Vocabulary, NDArray[np.int32]]:
        ids = np.array([category.id for category in data.categories])
        row_of = np.zeros(data.num_rows, np.int32)
        lvis = known_vocabulary("lvis")
        if not self.has_classes:
            return lvis, row_of
        if self.name == "lvis" and _are_rows_of(lvis, data):
            row_of[ids] = ids
            return lvis, row_of
        row_of[ids] = np.arange(1, len(ids) + 1)
        name = path.stem if self.name == "lvis" else self.name.removesuffix("-detection")
        names = checked_names(str(path), [category.name for category in data.categories])
        return Vocabulary(name=name, class_names=names), row_of


def _are_rows_of(vocabulary: Vocabulary, data: DetectionData) -> bool:
    """Whether the categories are those of a vocabulary, or some of them."""
    try:
        check_vocabulary(data, vocabulary.class_names)
    except SourceError:
        return False
    return True


def _name_of(annotations: Place, root: Place) -> str:
    """Below ROOT, since splits may be told apart by their folders alone."""
    try:
        return name_below(annotations.absolute(), root.absolute())
    except ValueError:
        return annotations.name


def _may_be(asked: Path, planned: str | None) -> bool:
    pairs = zip(asked.parts[::-1], Path(planned or "").parts[::-1], strict=False)
    return planned is not None and all(part == other for part, other in pairs)


def _below(root: Place, pattern: str) -> Place:
    """The place without `.` and `..`: the plan keeps it, and names are joined to it."""
    place = root.absolute()
    for part in pattern.split("/"):
        if part == "..":
            place = place.parent
        elif part != ".":
            place = place / part
    return place


def _count_there(folder: Place, names: Sequence[str]) -> int:
    return sum(map_small_files(folder, lambda name: (folder / name).is_file(), names))
