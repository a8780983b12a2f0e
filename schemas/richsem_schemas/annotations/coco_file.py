"""Annotation files of COCO, LVIS and Objects365, which are one JSON format, streamed into columns."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from richsem_schemas.annotations.annotation_file import (
    MAX_CATEGORY_ID,
    AnnotationFile,
    CategoryRecord,
    Metric,
    MetricFields,
    NameRule,
)
from richsem_schemas.annotations.boxes import AnnotatedBoxes, owners_of
from richsem_schemas.annotations.columns import (
    RecordList,
    check_unique,
    integer_column,
    integer_lists,
    number_column,
    number_rows,
    picture_sizes,
)
from richsem_schemas.annotations.json_stream import stream_json
from richsem_schemas.annotations.picture_files import end_of_name, is_utf8
from richsem_schemas.errors import SourceError

_LISTS = ("images", "annotations", "categories")
_NO_ID = -(2**63)
_MAX_COUNT = 2**63 - 1


class _Image(Struct, gc=False):
    id: int
    height: int
    width: int
    file_name: str | None = None
    coco_url: str | None = None


class _LvisImage(_Image, gc=False, kw_only=True):
    neg_category_ids: list[int]
    not_exhaustive_category_ids: list[int]


class _Annotation(Struct, gc=False):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    id: int | None = None
    iscrowd: float | None = None


class _ScoredAnnotation(_Annotation, gc=False):
    area: float | None = None
    ignore: float | None = None


def read_coco_file(path: Path, *, metric: Metric | None = None, is_typed: bool = True) -> AnnotationFile:
    """Read a file with the lists `images`, `annotations` and `categories`; whatever else it holds is passed over.

    Segmentations and attributes are never held: memory is in proportion to boxes and pictures, not to the file.

    Args:
        path: the file.
        metric: read what this metric needs as well, and require it; None where the file isn't scored.
        is_typed: decode records by their type where that can be done; the other way reads the same, slowly.

    Raises:
        SourceError: it can't be read, is something else, or a record doesn't fit.
    """
    columns = _Columns(path, metric)
    seen: list[str] = []
    for name, batch in stream_json(path, _types(metric) if is_typed else None):
        columns.add(name, batch)
        if name not in seen:
            seen.append(name)
    for name in _LISTS:
        if name not in seen:
            raise SourceError(_missing_list(name, seen, path))
    return columns.finished()


def _types(metric: Metric | None) -> Mapping[str, type[Struct]]:
    return {
        "images": _LvisImage if metric == "lvis" else _Image,
        "annotations": _Annotation if metric is None else _ScoredAnnotation,
    }


def _missing_list(name: str, seen: list[str], path: Path) -> str:
    if name + "!" in seen:
        return f"{path}: `{name}` is no list; it must be one"
    names = ", ".join(f"`{key.removesuffix('!')[:40]}`" for key in seen[:8] if key not in {"", "!"})
    found = "is a list" if "" in seen else f"holds {names or 'nothing'}"
    return (
        f"{path}: has no `{name}`; an annotation file is an object that holds `images`, `annotations` and "
        f"`categories`, this one {found}"
    )


class _Columns:
    def __init__(self, path: Path, metric: Metric | None) -> None:
        self._path = path
        self._metric = metric
        self._counts = dict.fromkeys(_LISTS, 0)
        self._ids: list[NDArray[np.int64]] = []
        self._hws: list[NDArray[np.int32]] = []
        self._file_names: list[Any] = []
        self._urls: list[Any] = []
        self._negative_ids: list[NDArray[np.int64]] = []
        self._not_exhaustive_ids: list[NDArray[np.int64]] = []
        self._boxes: list[tuple[NDArray[Any], ...]] = []
        self._metric_columns: list[tuple[NDArray[Any], ...]] = []
        self._categories: dict[int, CategoryRecord] = {}

    def add(self, name: str, batch: list[Any]) -> None:
        if name not in self._counts:
            return
        records = RecordList(name, batch, self._path, start=self._counts[name])
        self._counts[name] += len(records)
        {"images": self._add_images, "annotations": self._add_boxes, "categories": self._add_categories}[name](records)

    def _add_images(self, records: RecordList) -> None:
        self._ids.append(integer_column(records, "id", self._path))
        self._hws.append(picture_sizes(records, self._path))
        self._file_names += records.values("file_name")
        self._urls += records.values("coco_url")
        if self._metric == "lvis":
            self._negative_ids += self._lvis_lists(records, "neg_category_ids")
            self._not_exhaustive_ids += self._lvis_lists(records, "not_exhaustive_category_ids")

    def _lvis_lists(self, records: RecordList, key: str) -> list[NDArray[np.int64]]:
        try:
            return integer_lists(records, key, self._path)
        except SourceError as error:
            raise SourceError(f"{error}. {_LVIS_NEEDS}") from None

    def _add_boxes(self, records: RecordList) -> None:
        path = self._path
        self._boxes.append(
            (
                integer_column(records, "image_id", path),
                integer_column(records, "category_id", path),
                number_rows(records, "bbox", 4, path),
                number_column(records, "iscrowd", path, default=0) != 0,
                integer_column(records, "id", path, default=_NO_ID),
            )
        )
        if self._metric is not None:
            self._metric_columns.append(
                (
                    number_column(records, "area", path, default=np.nan),
                    number_column(records, "ignore", path, default=0) != 0,
                )
            )

    def _add_categories(self, records: RecordList) -> None:
        ids = integer_column(records, "id", self._path).tolist()
        for position, (category_id, record) in enumerate(zip(ids, records, strict=True), records.start):
            if category_id in self._categories:
                raise SourceError(
                    f"{self._path}: category id {category_id} stands there more than once; ids are unique"
                )
            self._categories[category_id] = _category(category_id, record, position, self._path)

    def finished(self) -> AnnotationFile:
        path = self._path
        if not self._counts["images"]:
            raise SourceError(f"{path}: lists no pictures; an annotation file needs at least one entry in `images`")
        if not self._categories:
            raise SourceError(f"{path}: lists no categories; an annotation file needs at least one in `categories`")
        image_ids = np.concatenate(self._ids)
        check_unique(image_ids, "image", path)
        # One at a time, so that not all of them are there twice.
        image_of, category_ids, boxes_xywh, is_crowd, ids = _joined(self._boxes, 5)
        boxes = AnnotatedBoxes(owners_of(image_of, image_ids, path), category_ids, boxes_xywh, is_crowd)
        is_kept = ~_repeats(ids, boxes)
        return AnnotationFile(
            image_ids=image_ids,
            hws_px=np.concatenate(self._hws),
            name_rules=self._name_rules(),
            boxes=boxes if is_kept.all() else boxes.only(is_kept),
            categories=self._categories,
            problems={"annotations given twice under one id left out": int((~is_kept).sum())},
            metric_fields=self._metric_fields(is_kept),
            repeats=np.flatnonzero(~is_kept),
        )

    def _metric_fields(self, is_kept: NDArray[np.bool_]) -> MetricFields | None:
        if self._metric is None:
            return None
        areas, are_ignored = _joined(self._metric_columns, 2)
        is_lvis = self._metric == "lvis"
        if is_lvis:
            _check_frequencies(self._categories, self._path)
        return MetricFields(
            areas=areas[is_kept],
            are_ignored=are_ignored[is_kept],
            negative_ids=self._negative_ids if is_lvis else None,
            not_exhaustive_ids=self._not_exhaustive_ids if is_lvis else None,
        )

    def _name_rules(self) -> dict[str, NameRule]:
        names, urls, path = self._file_names, self._urls, self._path
        return {
            "its file_name": lambda index: end_of_name(names[index], "file_name", path),
            "the last two parts of its coco_url": lambda index: end_of_name(urls[index], "coco_url", path, parts=2),
            "the last two parts of its file_name": lambda index: end_of_name(names[index], "file_name", path, parts=2),
            "the last part of its name": lambda index: end_of_name(
                urls[index] if names[index] is None else names[index], "name", path, parts=1
            ),
        }


def _joined(batches: list[tuple[NDArray[Any], ...]], columns: int) -> list[NDArray[Any]]:
    """The columns of all batches, which are dropped one by one: memory holds one column twice, not all of them."""
    parts = [list(column) for column in zip(*batches, strict=True)]
    batches.clear()
    return [np.concatenate(parts.pop(0)) for _ in range(columns)]


_LVIS_NEEDS = (
    "LVIS's metric needs it: take the file as lvisdataset.org has it, or COCO's metric (detection.format: coco)"
)


def _check_frequencies(categories: Mapping[int, CategoryRecord], path: Path) -> None:
    for category_id, category in categories.items():
        if category.frequency is None:
            raise SourceError(f"{path}: category {category_id} has no `frequency` r, c or f. {_LVIS_NEEDS}")


def _repeats(ids: NDArray[np.int64], boxes: AnnotatedBoxes) -> NDArray[np.bool_]:
    """Which annotations say once more what an earlier one of the same id said; bool [M]."""
    is_repeat = np.zeros(len(ids), np.bool_)
    ordered = np.sort(ids[ids != _NO_ID])
    if (ordered[1:] != ordered[:-1]).all():
        return is_repeat
    _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    later = np.flatnonzero((first[inverse] != np.arange(len(ids))) & (ids != _NO_ID))
    earlier = first[inverse[later]]
    same = (boxes.image_index[later] == boxes.image_index[earlier]) & (
        boxes.category_ids[later] == boxes.category_ids[earlier]
    )
    is_repeat[later] = same & (boxes.boxes_xywh[later] == boxes.boxes_xywh[earlier]).all(axis=1)
    return is_repeat


def _category(category_id: int, record: dict[str, Any], position: int, path: Path) -> CategoryRecord:
    if not 0 <= category_id <= MAX_CATEGORY_ID:
        raise SourceError(
            f"{path}: category id {category_id}; ids are from 0 to {MAX_CATEGORY_ID:,}; renumber the categories"
        )
    name, frequency, count = record.get("name"), record.get("frequency"), record.get("image_count")
    if not isinstance(name, str):
        raise SourceError(f"{path}: categories[{position}] has the name {name!r}; a text is needed")
    if not name.strip() or not is_utf8(name):
        raise SourceError(
            f"{path}: categories[{position}] has the name {name[:80]!r}, which can't name a class; names have "
            "printable characters: rename it"
        )
    if frequency not in (None, "r", "c", "f"):
        raise SourceError(f"{path}: category {category_id} has the frequency {frequency!r}; it is r, c or f")
    if type(count) is int and count > _MAX_COUNT:
        raise SourceError(
            f"{path}: category {category_id} has the image_count {str(count)[:30]}…; it is a number of "
            "pictures, from 0 to 2^63 - 1: remove or mend it"
        )
    return CategoryRecord(name, frequency, count if type(count) is int and count >= 0 else None)
