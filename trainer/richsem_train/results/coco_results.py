"""What was found in many pictures in the result format of COCO, for COCO's and LVIS's own tools."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from richsem_schemas.annotations.read_annotation_file import format_by_content, read_annotation_file
from richsem_schemas.errors import RichSemError
from richsem_schemas.scoring.detections import PictureDetections
from richsem_train.results.json_list import JsonList, write_object
from richsem_train.results.prediction import ClassTable, Prediction

RESULTS, IMAGES = "coco_results.json", "coco_images.json"

_SHOWN = 5

Names = Mapping[str, Sequence[tuple[tuple[str, ...], int]]]
"""Ids of annotated pictures by the last part of their names, and all parts of these."""


@dataclass(frozen=True)
class AnnotatedIds:
    """The ids that an annotation file gives pictures and categories.

    Attributes:
        path: the file.
        names: of its pictures.
        categories: ids by name.
    """

    path: Path
    names: Names
    categories: Mapping[str, int]

    @classmethod
    def read(cls, path: Path) -> "AnnotatedIds":
        """Read a file in the format of COCO, LVIS, Objects365, OpenImages or Visual Genome.

        Raises:
            RichSemError: it can't be read, is none, or gives several categories one name.
        """
        found = read_annotation_file(path, format_by_content(path))
        names: dict[str, list[tuple[tuple[str, ...], int]]] = {}
        for position, image_id in enumerate(found.image_ids.tolist()):
            for name in filter(None, (rule(position) for rule in found.name_rules.values())):
                parts = Path(name).parts
                named = names.setdefault(parts[-1] if parts else "", [])
                if (parts, image_id) not in named:
                    named.append((parts, image_id))
        categories: dict[str, int] = {}
        for category_id, record in found.categories.items():
            if record.name in categories:
                raise RichSemError(
                    f"{path}: categories {categories[record.name]} and {category_id} are both called {record.name!r}, "
                    "so that names don't tell their ids; give each a name of its own"
                )
            categories[record.name] = category_id
        return cls(path, names, categories)

    def image_ids(self, paths: Sequence[Path]) -> dict[Path, int]:
        """The ids of those pictures that the file has: by as many parts of their names as tell them apart.

        Raises:
            RichSemError: it has none of them, or two of them are the same one of the file.
        """
        found = {path: image_id for path in paths if (image_id := self._image_id(path)) is not None}
        if not found and paths:
            raise RichSemError(
                f"{self.path} has none of the {len(paths):,} pictures, such as {paths[0]}; give the annotations of "
                "these very pictures, or leave --annotations out: they are then numbered in their order"
            )
        first: dict[int, Path] = {}
        for path, image_id in found.items():
            if image_id in first:
                raise RichSemError(
                    f"{first[image_id]} and {path} are both called like picture {image_id} of {self.path}; name one of "
                    "them, or leave --annotations out"
                )
            first[image_id] = path
        return found

    def _image_id(self, path: Path) -> int | None:
        """The one picture that has most of the path's last parts in common with it."""
        parts = Path(os.path.abspath(path)).parts
        shared = [(_parts_in_common(parts, named), image_id) for named, image_id in self.names.get(path.name, ())]
        most = max((number for number, _ in shared), default=0)
        best = {image_id for number, image_id in shared if number == most}
        return best.pop() if len(best) == 1 else None

    def classes(self, classes: ClassTable) -> ClassTable:
        """A detector's classes with the category ids of the file, by their names; negative where it hasn't them.

        Raises:
            RichSemError: they have no name in common.
        """
        ids = tuple(self.categories.get(name, -1) if row and name else -1 for row, name in enumerate(classes.names))
        if max(ids, default=-1) < 0:
            known = [name for name in classes.names[1:] if name]
            raise RichSemError(
                f"{self.path}: none of its {len(self.categories):,} categories ({_few(self.categories)}) is one of the "
                f"detector's {len(known):,} classes ({_few(known)}); names are compared letter by letter"
            )
        return replace(classes, category_ids=ids)


class CocoResults:
    """Results of pictures as they come, written at the end into `coco_results.json` and `coco_images.json`.

    The first is a list of {image_id, category_id, bbox, score}. The second says which pictures and categories the ids
    are of, in the form of an annotation file without annotations. Detections whose class has no category id, and
    pictures without an id, are in neither.

    Args:
        out: their folder.
        classes: the detector's, with the category ids to write.
        image_ids: of the pictures that have one.
    """

    def __init__(self, out: Path, classes: ClassTable, image_ids: Mapping[Path, int]) -> None:
        self._out = out
        self._classes = classes
        self._image_ids = image_ids
        self._results = JsonList(out / RESULTS)
        self._images = JsonList(out / IMAGES)

    def add(self, path: Path, found: PictureDetections, hw: tuple[int, int]) -> None:
        """Add what was found, by rows of the vocabulary, in a picture that is (height, width) pixels large."""
        image_id = self._image_ids.get(path)
        if image_id is None:
            return
        self._images.add({"id": image_id, "file_name": str(path), "height": hw[0], "width": hw[1]})
        for result in Prediction.of(found, self._classes).to_coco(image_id):
            self._results.add(result)

    def write(self) -> None:
        """Write the two files, each whole or not at all.

        Raises:
            OSError: they can't be written.
        """
        self._results.write()
        categories = list(self._categories())
        write_object(self._out / IMAGES, {"images": self._images, "categories": categories, "annotations": []})

    def _categories(self) -> Iterator[dict[str, Any]]:
        for row, name in enumerate(self._classes.names):
            category_id = self._classes.id_of(row)
            if row and name and category_id >= 0:
                yield {"id": category_id, "name": name}


def _parts_in_common(path: Sequence[str], other: Sequence[str]) -> int:
    """From the last one on."""
    return sum(
        1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(reversed(path), reversed(other), strict=False))
    )


def _few(names: Mapping[str, int] | Sequence[str]) -> str:
    shown = list(names)[:_SHOWN]
    return ", ".join(map(repr, shown)) + (", ..." if len(names) > _SHOWN else "")
