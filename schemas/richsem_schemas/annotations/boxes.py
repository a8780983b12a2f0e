"""The boxes of an annotation file: read, cleaned and counted."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.annotations.columns import Records, integer_column, number_column, number_rows
from richsem_schemas.errors import SourceError

MIN_BOX_SIDE_PX = 1e-3
"""Boxes thinner than this have no area in float32 at the far side of a large picture."""


@dataclass(frozen=True, eq=False)
class AnnotatedBoxes:
    """M boxes as the file has them.

    Attributes:
        image_index: int64 [M], position of their picture in the file.
        category_ids: int64 [M].
        boxes_xywh_px: float64 [M, 4].
        is_crowd: bool [M].
    """

    image_index: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    boxes_xywh_px: NDArray[np.float64]
    is_crowd: NDArray[np.bool_]

    def only(self, kept: NDArray[np.bool_]) -> "AnnotatedBoxes":
        """Those that a mask of bool [M] says."""
        return AnnotatedBoxes(
            self.image_index[kept], self.category_ids[kept], self.boxes_xywh_px[kept], self.is_crowd[kept]
        )


def read_boxes(annotations: Records, image_ids: NDArray[np.int64], path: Path) -> AnnotatedBoxes:
    """Read all boxes.

    Raises:
        SourceError: a record is incomplete, of wrong types, or belongs to no picture.
    """
    category_ids = integer_column(annotations, "category_id", path)
    boxes = number_rows(annotations, "bbox", 4, path)
    crowd = number_column(annotations, "iscrowd", path, default=0) != 0
    owners = integer_column(annotations, "image_id", path)
    order = np.argsort(image_ids, kind="stable")
    rank = np.minimum(np.searchsorted(image_ids[order], owners), len(image_ids) - 1)
    image_index = order[rank]
    lost = np.flatnonzero(image_ids[image_index] != owners)
    if len(lost):
        raise SourceError(
            f"{path}: {len(lost):,} annotations belong to pictures that `images` doesn't list; "
            f"the first is annotations[{lost[0]}] with image_id {owners[lost[0]]}"
        )
    return AnnotatedBoxes(image_index, category_ids, boxes, crowd)


def count_images(boxes: AnnotatedBoxes, *, num_rows: int) -> NDArray[np.int64]:
    """Pictures a category id, crowd regions aside."""
    pairs = np.unique(boxes.image_index[~boxes.is_crowd] * num_rows + boxes.category_ids[~boxes.is_crowd])
    return np.bincount(pairs % num_rows, minlength=num_rows)


def clean_boxes(boxes: AnnotatedBoxes, hws_px: NDArray[np.int32]) -> tuple[AnnotatedBoxes, dict[str, int]]:
    """Leave out what can't be learned from, clip the rest to its picture, and count."""
    problems = {"crowd regions left out": int(boxes.is_crowd.sum())}
    boxes = boxes.only(~boxes.is_crowd)
    finite: NDArray[np.bool_] = np.all(np.isfinite(boxes.boxes_xywh_px), axis=1)
    problems["boxes with NaN or infinite numbers left out"] = int((~finite).sum())
    boxes = boxes.only(finite)
    with_area: NDArray[np.bool_] = np.all(boxes.boxes_xywh_px[:, 2:] > 0, axis=1)
    problems["boxes of zero or negative size left out"] = int((~with_area).sum())
    boxes = boxes.only(with_area)
    clipped_xywh_px = _clip(boxes.boxes_xywh_px, hws_px[boxes.image_index])
    inside: NDArray[np.bool_] = np.all(clipped_xywh_px[:, 2:] >= MIN_BOX_SIDE_PX, axis=1)
    problems["boxes outside of their picture left out"] = int((~inside).sum())
    # Annotators' roundings are no news.
    far: NDArray[np.bool_] = np.any(np.abs(clipped_xywh_px - boxes.boxes_xywh_px) > 1, axis=1)
    problems["boxes clipped by more than a pixel"] = int((far & inside).sum())
    clipped = AnnotatedBoxes(boxes.image_index, boxes.category_ids, clipped_xywh_px, boxes.is_crowd)
    return clipped.only(inside), problems


def _clip(boxes_xywh_px: NDArray[np.float64], hws_px: NDArray[np.int32]) -> NDArray[np.float64]:
    limits = hws_px[:, ::-1].astype(np.float64)
    first = np.clip(boxes_xywh_px[:, :2], 0, limits)
    last = np.clip(boxes_xywh_px[:, :2] + boxes_xywh_px[:, 2:], 0, limits)
    return np.concatenate([first, last - first], axis=1)
