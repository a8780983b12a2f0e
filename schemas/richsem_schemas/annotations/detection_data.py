"""Detection annotations in compact arrays, from the files of LVIS, COCO, Objects365, OpenImages and Visual Genome.

Files are untrusted: their types are checked, and the names in them can't lead out of the folder of the pictures.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.annotations.annotation_file import AnnotationFile, AnnotationFormat
from richsem_schemas.annotations.boxes import clean_boxes, count_images, look_like_fractions
from richsem_schemas.annotations.picture_files import locate_pictures, require_names_once
from richsem_schemas.annotations.read_annotation_file import read_annotation_file
from richsem_schemas.annotations.scored_annotations import (
    Category,
    ScoredAnnotations,
    scored_as_cleaned,
    scored_as_written,
)
from richsem_schemas.errors import SourceError
from richsem_schemas.io.places import Place, RemotePath
from richsem_schemas.pictures.boxes import xywh_to_xyxy

_SHOWN = 5
"""How many culprits a message names."""


@dataclass(frozen=True, eq=False)
class DetectionData:
    """N pictures and their M boxes.

    Attributes:
        root: folder of the pictures.
        files: N names of pictures below `root`.
        image_ids: int64 [N].
        hws_px: int32 [N, 2], heights and widths as annotated; all 1 where `are_relative`.
        offsets: int64 [N + 1]; picture i owns the boxes from `offsets[i]` up to `offsets[i + 1]`.
        boxes_xywh_px: float32 [M, 4]; left, top, width, height, inside their pictures and with area; fractions of the
            picture's sides where `are_relative`.
        category_ids: int64 [M].
        categories: by ascending id.
        problems: what was left out or changed, and how often; for `problem_lines`.
        are_relative: the annotations give no sizes, and boxes are fractions.
        scored: what detections are compared with; None where that wasn't asked for.
    """

    root: Place
    files: tuple[str, ...]
    image_ids: NDArray[np.int64]
    hws_px: NDArray[np.int32]
    offsets: NDArray[np.int64]
    boxes_xywh_px: NDArray[np.float32]
    category_ids: NDArray[np.int64]
    categories: tuple[Category, ...]
    problems: dict[str, int]
    are_relative: bool = False
    scored: ScoredAnnotations | None = None

    def __len__(self) -> int:
        return len(self.files)

    @property
    def num_rows(self) -> int:
        """Rows of a classifier in which row = `category_id`: the largest id and one, row 0 included."""
        return self.categories[-1].id + 1

    def path(self, index: int) -> Place:
        """Where a picture lies."""
        return self.root / self.files[index]

    def objects(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Boxes (xywh, pixels, float32 [G, 4]) and category ids (int64 [G]) of a picture."""
        part = slice(self.offsets[index], self.offsets[index + 1])
        return self.boxes_xywh_px[part], self.category_ids[part]

    def boxes_xyxy(self, index: int) -> NDArray[np.float32]:
        """Boxes of a picture by their corners, float32 [G, 4]; pixels, or fractions where `are_relative`."""
        return xywh_to_xyxy(self.objects(index)[0])

    def image_counts(self, num_classes: int) -> NDArray[np.int64]:
        """Pictures a category, int64 [C], 0 for rows without a category; for the federated loss."""
        counts = np.zeros(num_classes, np.int64)
        counts[[category.id for category in self.categories]] = [category.image_count for category in self.categories]
        return counts

    def of_pictures(self, pictures: NDArray[np.int64]) -> "DetectionData":
        """The same of some pictures, by their places, int64 [P], each once; categories keep their counts of pictures.

        What was left out or changed is counted for all of them.
        """
        counts = np.diff(self.offsets)[pictures]
        offsets = np.concatenate([[0], counts.cumsum()])
        kept = np.repeat(self.offsets[pictures] - offsets[:-1], counts) + np.arange(offsets[-1])
        return replace(
            self,
            files=tuple(self.files[picture] for picture in pictures.tolist()),
            image_ids=self.image_ids[pictures],
            hws_px=self.hws_px[pictures],
            offsets=offsets,
            boxes_xywh_px=self.boxes_xywh_px[kept],
            category_ids=self.category_ids[kept],
            scored=None if self.scored is None else self.scored.of_pictures(pictures),
        )

    def problem_lines(self) -> list[str]:
        """One line of text a kind of problem; empty where there was none."""
        return [f"{count:,} {problem}" for problem, count in self.problems.items() if count]


def read_annotations(
    path: Path,
    root: Place | Sequence[Place],
    *,
    file_format: AnnotationFormat = "lvis",
    class_names: Sequence[str] | None = None,
    may_miss: bool = False,
    is_scored: bool = False,
) -> DetectionData:
    """Read a file of detection annotations.

    Crowd regions are left out: they are not single objects. Boxes are clipped to their picture; those without area,
    outside, or not finite are left out; all this is counted. Pictures without boxes stay.

    Args:
        path: the JSON file; of OpenImages the CSV of boxes, of Visual Genome `objects.json`.
        root: folder of the pictures, or several in the order of preference, of which the first that has them counts;
            see `picture_files.locate_pictures` for where they may lie in it.
        file_format: whose files these are.
        class_names: for Visual Genome, whose files don't list their classes: those to keep, in the order of their ids
            from 1. None keeps the frequent ones.
        may_miss: some pictures may be missing; else one that is looked for and missing is an error.
        is_scored: read what the metric of the format needs as well, and require it.

    Raises:
        SourceError: the file, a record of it, or one of the first few pictures is missing or not as it should be; about
            the first folder where the pictures are in none.
    """
    found = read_annotation_file(path, file_format, class_names, is_scored=is_scored)
    categories = _categories(found)
    kept, problems = clean_boxes(found.boxes, found.hws_px, are_relative=found.are_relative)
    scored = None
    if is_scored and found.metric_fields is None:
        scored = scored_as_cleaned(found, kept, categories, str(path))
        problems["crowd regions, which are ignored"] = problems.pop("crowd regions left out")
    elif is_scored:
        scored, problems = scored_as_written(found, categories, str(path))
    if not found.are_relative:
        problems = problems | look_like_fractions(found.boxes, found.hws_px)
    order = np.argsort(kept.image_index, kind="stable")
    kept = kept.only(order)
    roots = [root] if isinstance(root, Path | RemotePath) else root
    folder, files = _located(found, roots, path, may_miss)
    require_names_once(files, found.image_ids, path)
    return DetectionData(
        root=folder,
        files=files,
        image_ids=found.image_ids,
        hws_px=found.hws_px,
        offsets=np.searchsorted(kept.image_index, np.arange(len(files) + 1)).astype(np.int64),
        boxes_xywh_px=kept.boxes_xywh,
        category_ids=kept.category_ids,
        categories=categories,
        problems=found.problems | problems,
        are_relative=found.are_relative,
        scored=scored,
    )


def _located(
    found: AnnotationFile, roots: Sequence[Place], path: Path, may_miss: bool
) -> tuple[Place, tuple[str, ...]]:
    failures = []
    for root in roots:
        try:
            return root, locate_pictures(len(found.image_ids), found.name_rules, root, path, may_miss=may_miss)
        except SourceError as error:
            failures.append(error)
    raise failures[0]


def check_vocabulary(data: DetectionData, class_names: Sequence[str]) -> None:
    """Check that the categories of a dataset are rows of a vocabulary: row = `category_id`, and the same names.

    A vocabulary may hold more classes than the dataset.

    Raises:
        SourceError: some category has no row, or a row of another name; the first few are named.
    """
    wrong = [
        f"{category.id} is {category.name!r} here, {_row_name(class_names, category.id)} there"
        for category in data.categories
        if not 0 < category.id < len(class_names) or class_names[category.id] != category.name
    ]
    if wrong:
        raise SourceError(
            f"{len(wrong):,} of {len(data.categories):,} categories don't fit the vocabulary of {len(class_names):,} "
            f"rows: {'; '.join(wrong[:_SHOWN])}{'; ...' if len(wrong) > _SHOWN else ''}. A category_id is the row of "
            "its class and the names are equal; use a cache or text bank made for these categories"
        )


def _row_name(class_names: Sequence[str], row: int) -> str:
    return repr(class_names[row]) if row < len(class_names) else "no row"


def _categories(found: AnnotationFile) -> tuple[Category, ...]:
    """Pictures are counted before boxes are left out: a picture shows its categories however poorly they are boxed.

    LVIS writes the counts of its training split into every split, and derives r, c and f from them: they are kept,
    where every category has one and not all are 0. Otherwise the pictures of this very file are counted.
    """
    records = found.categories
    counted = count_images(found.boxes, num_rows=max(records) + 1)
    given = [record.image_count for record in records.values()]
    are_given = None not in given and any(given)
    return tuple(
        Category(
            number, record.name, record.frequency, (record.image_count or 0) if are_given else int(counted[number])
        )
        for number, record in sorted(records.items())
    )
