"""Detection annotations in compact arrays, from files in the LVIS v1 or the COCO format.

Files are untrusted: their types are checked, and the names in them can't lead out of the folder of the pictures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.annotations.boxes import clean_boxes, count_images, read_boxes
from richsem_schemas.annotations.columns import Records, integer_column, record_list
from richsem_schemas.annotations.json_file import AnnotationFormat, load_annotation_file
from richsem_schemas.annotations.picture_files import locate_pictures
from richsem_schemas.errors import SourceError

MAX_CATEGORY_ID = 1_000_000
"""Largest category id that is accepted; a classifier has as many rows as the largest id."""

_SHOWN = 5
"""How many culprits a message names."""


@dataclass(frozen=True, slots=True)
class Category:
    """One category of an annotation file.

    Attributes:
        id: its `category_id`, 1 or more.
        name: as the file has it.
        frequency: r, c or f; None where the file doesn't say.
        image_count: pictures with this category; of the file where it says so for all, counted otherwise.
    """

    id: int
    name: str
    frequency: Literal["r", "c", "f"] | None
    image_count: int


@dataclass(frozen=True, eq=False)
class DetectionData:
    """N pictures and their M boxes.

    Attributes:
        root: folder of the pictures.
        files: N names of pictures below `root`.
        image_ids: int64 [N].
        hws_px: int32 [N, 2], heights and widths as annotated.
        offsets: int64 [N + 1]; picture i owns the boxes from `offsets[i]` up to `offsets[i + 1]`.
        boxes_xywh_px: float32 [M, 4]; left, top, width, height, inside their pictures and with area.
        category_ids: int64 [M].
        categories: by ascending id.
        problems: what was left out or changed, and how often; for `problem_lines`.
    """

    root: Path
    files: tuple[str, ...]
    image_ids: NDArray[np.int64]
    hws_px: NDArray[np.int32]
    offsets: NDArray[np.int64]
    boxes_xywh_px: NDArray[np.float32]
    category_ids: NDArray[np.int64]
    categories: tuple[Category, ...]
    problems: dict[str, int]

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self.files)

    @property
    def num_rows(self) -> int:
        """Rows of a classifier in which row = `category_id`: the largest id and one, row 0 included."""
        return self.categories[-1].id + 1

    def path(self, index: int) -> Path:
        """Where a picture lies."""
        return self.root / self.files[index]

    def objects(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Boxes (xywh, pixels, float32 [G, 4]) and category ids (int64 [G]) of a picture."""
        part = slice(self.offsets[index], self.offsets[index + 1])
        return self.boxes_xywh_px[part], self.category_ids[part]

    def image_counts(self, num_classes: int) -> NDArray[np.int64]:
        """Pictures a category, int64 [C], 0 for rows without a category; for the federated loss."""
        counts = np.zeros(num_classes, np.int64)
        counts[[category.id for category in self.categories]] = [category.image_count for category in self.categories]
        return counts

    def problem_lines(self) -> list[str]:
        """One line a kind of problem, for people; empty where there was none."""
        return [f"{count:,} {problem}" for problem, count in self.problems.items() if count]


def read_annotations(path: Path, root: Path, *, file_format: AnnotationFormat = "lvis") -> DetectionData:
    """Read a file of detection annotations.

    Crowd regions are left out: they are not single objects. Boxes are clipped to their picture; those without area,
    outside, or not finite are left out; all this is counted. Pictures without boxes stay.

    Args:
        path: the JSON file.
        root: folder of the pictures; see `picture_files.locate_pictures` for where they may lie in it.
        file_format: LVIS v1 files through the `lvis` package, others as plain JSON.

    Raises:
        SourceError: the file, a record of it, or one of the first few pictures is missing or not as it should be.
    """
    dataset = load_annotation_file(path, file_format)
    images = record_list(dataset, "images", path)
    if not images:
        raise SourceError(f"{path}: lists no pictures; an annotation file needs at least one entry in `images`")
    annotations = record_list(dataset, "annotations", path)
    image_ids = integer_column(images, "id", path)
    _check_unique(image_ids, "image", path)
    hws_px = _picture_sizes(images, path)
    names = _category_names(record_list(dataset, "categories", path), path)
    boxes = read_boxes(annotations, image_ids, path)
    _check_known(boxes.category_ids, np.array(sorted(names), np.int64), path)
    # Counted before boxes are left out: a picture shows its categories however poorly they are boxed.
    counted = count_images(boxes, num_rows=max(names) + 1)
    categories = _categories(dataset["categories"], names, counted, path)
    kept, problems = clean_boxes(boxes, hws_px)
    order = np.argsort(kept.image_index, kind="stable")
    return DetectionData(
        root=root,
        files=locate_pictures(images, root, path),
        image_ids=image_ids,
        hws_px=hws_px,
        offsets=np.searchsorted(kept.image_index[order], np.arange(len(images) + 1)).astype(np.int64),
        boxes_xywh_px=kept.boxes_xywh_px[order].astype(np.float32),
        category_ids=kept.category_ids[order],
        categories=categories,
        problems=problems,
    )


def check_vocabulary(data: DetectionData, class_names: Sequence[str]) -> None:
    """Check that the categories of a dataset are rows of a vocabulary: row = `category_id`, and the same names.

    A vocabulary may hold more classes than the dataset.

    Args:
        data: the dataset.
        class_names: of the rows, row 0 for "none"; unmodified names.

    Raises:
        SourceError: some category has no row, or a row of another name; the first few are named.
    """
    wrong = [
        f"{category.id} is {category.name!r} here, {_row_name(class_names, category.id)} there"
        for category in data.categories
        if category.id >= len(class_names) or class_names[category.id] != category.name
    ]
    if wrong:
        raise SourceError(
            f"{len(wrong):,} of {len(data.categories):,} categories don't fit the vocabulary of {len(class_names):,} "
            f"rows: {'; '.join(wrong[:_SHOWN])}{'; ...' if len(wrong) > _SHOWN else ''}. A category_id is the row of "
            "its class and the names are equal; use a cache or text bank made for these categories"
        )


def _row_name(class_names: Sequence[str], row: int) -> str:
    return repr(class_names[row]) if row < len(class_names) else "no row"


def _picture_sizes(images: Records, path: Path) -> NDArray[np.int32]:
    sizes = np.stack([integer_column(images, "height", path), integer_column(images, "width", path)], axis=1)
    wrong = np.flatnonzero(((sizes < 1) | (sizes > np.iinfo(np.int32).max)).any(axis=1))
    if len(wrong):
        height, width = sizes[wrong[0]]
        raise SourceError(f"{path}: images[{wrong[0]}] has height {height} and width {width}; both are pixels from 1")
    return sizes.astype(np.int32)


def _category_names(records: Records, path: Path) -> dict[int, str]:
    """Names by id."""
    if not records:
        raise SourceError(f"{path}: lists no categories; an annotation file needs at least one in `categories`")
    ids = integer_column(records, "id", path)
    _check_unique(ids, "category", path)
    wrong = ids[(ids < 1) | (ids > MAX_CATEGORY_ID)]
    if len(wrong):
        raise SourceError(
            f"{path}: category id {wrong[0]}; ids are rows of the classifier, from 1 (row 0 means no label) "
            f"to {MAX_CATEGORY_ID:,}; renumber the categories"
        )
    for position, record in enumerate(records):
        if not isinstance(record.get("name"), str):
            raise SourceError(f"{path}: categories[{position}] has the name {record.get('name')!r}; a text is needed")
    return {int(category_id): record["name"] for category_id, record in zip(ids, records, strict=True)}


def _categories(
    records: Records, names: dict[int, str], counted: NDArray[np.int64], path: Path
) -> tuple[Category, ...]:
    """Make the table of categories.

    LVIS writes the counts of its training split into every split, and derives r, c and f from them: they are kept,
    where every category has one and not all are 0. Otherwise the pictures of this very file are counted.
    """
    given = [record.get("image_count") for record in records]
    if all(type(count) is int and count >= 0 for count in given) and any(given):
        counts = dict(zip((record["id"] for record in records), given, strict=True))
    else:
        counts = {category_id: int(counted[category_id]) for category_id in names}
    frequencies = {record["id"]: record.get("frequency") for record in records}
    for category_id, frequency in frequencies.items():
        if frequency not in (None, "r", "c", "f"):
            raise SourceError(f"{path}: category {category_id} has the frequency {frequency!r}; it is r, c or f")
    return tuple(Category(id_, names[id_], frequencies[id_], counts[id_]) for id_ in sorted(names))


def _check_known(category_ids: NDArray[np.int64], known: NDArray[np.int64], path: Path) -> None:
    unknown = np.setdiff1d(category_ids, known)
    if len(unknown):
        shown = ", ".join(str(category_id) for category_id in unknown[:_SHOWN])
        raise SourceError(
            f"{path}: annotations of {len(unknown):,} categories that `categories` doesn't list: "
            f"{shown}{', ...' if len(unknown) > _SHOWN else ''}; add them there, or remove the annotations"
        )


def _check_unique(ids: NDArray[np.int64], what: str, path: Path) -> None:
    values, counts = np.unique(ids, return_counts=True)
    if len(values) < len(ids):
        raise SourceError(f"{path}: {what} id {values[counts > 1][0]} stands there more than once; ids are unique")
