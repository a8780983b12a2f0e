"""The boxes of annotation files: put together, cleaned and counted."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.errors import SourceError
from richsem_schemas.pictures.boxes import xywh_to_xyxy, xyxy_to_xywh

MIN_BOX_SIDE_PX = 1e-3
"""Boxes thinner than this have no area in float32 at the far side of a large picture."""

MIN_BOX_SIDE = 1e-6
"""The same for boxes that are fractions of their picture's sides."""

_NEARLY_ALL = 0.9
"""Of the boxes: annotators' slips are few, another unit is in all of them."""

_AT_ONCE = 2**20
"""Boxes that are cleaned at a time, so that it takes little memory beside the boxes themselves."""


@dataclass(frozen=True, eq=False)
class AnnotatedBoxes:
    """M boxes.

    Attributes:
        image_index: int64 [M], position of their picture in the file.
        category_ids: int64 [M].
        boxes_xywh: float64 [M, 4] as the file has them, float32 once they are clean; pixels or fractions.
        is_crowd: bool [M].
    """

    image_index: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    boxes_xywh: NDArray[np.floating]
    is_crowd: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.image_index)

    def only(self, kept: NDArray[np.bool_] | NDArray[np.int64] | slice) -> "AnnotatedBoxes":
        """Those that a mask, positions or a slice say."""
        return AnnotatedBoxes(
            self.image_index[kept], self.category_ids[kept], self.boxes_xywh[kept], self.is_crowd[kept]
        )


def joined_boxes(parts: list[AnnotatedBoxes]) -> AnnotatedBoxes:
    """The boxes of several parts, one after the other."""
    return AnnotatedBoxes(
        np.concatenate([np.zeros(0, np.int64), *(part.image_index for part in parts)]),
        np.concatenate([np.zeros(0, np.int64), *(part.category_ids for part in parts)]),
        np.concatenate([part.boxes_xywh for part in parts]) if parts else np.zeros((0, 4), np.float32),
        np.concatenate([np.zeros(0, np.bool_), *(part.is_crowd for part in parts)]),
    )


def owners_of(owners: NDArray[np.int64], image_ids: NDArray[np.int64], path: Path) -> NDArray[np.int64]:
    """Position of the picture that each of M annotations belongs to by its image id, int64 [M].

    Raises:
        SourceError: some belong to no picture.
    """
    order = np.argsort(image_ids, kind="stable")
    rank = np.minimum(np.searchsorted(image_ids[order], owners), len(image_ids) - 1)
    image_index = order[rank]
    lost = np.flatnonzero(image_ids[image_index] != owners)
    if len(lost):
        raise SourceError(
            f"{path}: {len(lost):,} annotations belong to pictures that `images` doesn't list; "
            f"the first is annotations[{lost[0]}] with image_id {owners[lost[0]]}"
        )
    return image_index


def count_images(boxes: AnnotatedBoxes, *, num_rows: int) -> NDArray[np.int64]:
    """Pictures a category id, crowd regions aside."""
    # Sorted here: `np.unique` takes a hundred times as long for the millions of a dataset.
    pairs = np.sort(boxes.image_index[~boxes.is_crowd] * num_rows + boxes.category_ids[~boxes.is_crowd])
    is_first = np.diff(pairs, prepend=-1) != 0
    return np.bincount(pairs[is_first] % num_rows, minlength=num_rows)


def clean_boxes(
    boxes: AnnotatedBoxes, hws_px: NDArray[np.int32], *, are_relative: bool = False
) -> tuple[AnnotatedBoxes, dict[str, int]]:
    """Leave out what can't be learned from, clip the rest to its picture, make it float32, and count."""
    problems: Counter[str] = Counter()
    parts = [_cleaned(part, hws_px, problems, are_relative) for part in _parts(boxes)]
    return joined_boxes(parts), dict(problems)


def look_like_fractions(boxes: AnnotatedBoxes, hws_px: NDArray[np.int32]) -> dict[str, int]:
    """Count the boxes that lie in the first pixel of their picture, if nearly all do; else nothing.

    Fractions of the picture's sides do where pixels are expected, and are too small to be seen or found.
    """
    count = 0
    for part in _parts(boxes):
        with np.errstate(invalid="ignore", over="ignore"):
            xyxy = xywh_to_xyxy(part.boxes_xywh)
        in_first = ((xyxy[:, :2] >= 0) & (xyxy[:, 2:] <= 1) & (part.boxes_xywh[:, 2:] > 0)).all(axis=1)
        count += int((in_first & (hws_px[part.image_index] > 1).all(axis=1)).sum())
    if not count or count < _NEARLY_ALL * len(boxes):
        return {}
    return {
        "boxes within the first pixel of their picture: they seem to be fractions of its sides, and pixels are "
        "expected; multiply x and width by the picture's width, y and height by its height": count
    }


def _parts(boxes: AnnotatedBoxes) -> Iterator[AnnotatedBoxes]:
    for start in range(0, max(len(boxes), 1), _AT_ONCE):
        yield boxes.only(slice(start, start + _AT_ONCE))


def _cleaned(
    boxes: AnnotatedBoxes, hws_px: NDArray[np.int32], problems: Counter[str], are_relative: bool
) -> AnnotatedBoxes:
    problems["crowd regions left out"] += int(boxes.is_crowd.sum())
    boxes = boxes.only(~boxes.is_crowd)
    finite: NDArray[np.bool_] = np.all(np.isfinite(boxes.boxes_xywh), axis=1)
    problems["boxes with NaN or infinite numbers left out"] += int((~finite).sum())
    boxes = boxes.only(finite)
    with_area: NDArray[np.bool_] = np.all(boxes.boxes_xywh[:, 2:] > 0, axis=1)
    problems["boxes of zero or negative size left out"] += int((~with_area).sum())
    boxes = boxes.only(with_area)
    clipped_xywh = _clip(boxes.boxes_xywh, hws_px[boxes.image_index])
    smallest = MIN_BOX_SIDE if are_relative else MIN_BOX_SIDE_PX
    inside: NDArray[np.bool_] = np.all(clipped_xywh[:, 2:] >= smallest, axis=1)
    problems["boxes outside of their picture left out"] += int((~inside).sum())
    # Annotators' roundings are no news.
    news, what = (1e-3, "a thousandth of a side") if are_relative else (1, "a pixel")
    far: NDArray[np.bool_] = np.any(np.abs(clipped_xywh - boxes.boxes_xywh) > news, axis=1)
    problems[f"boxes clipped by more than {what}"] += int((far & inside).sum())
    kept = clipped_xywh[inside].astype(np.float32)
    return AnnotatedBoxes(boxes.image_index[inside], boxes.category_ids[inside], kept, boxes.is_crowd[inside])


def _clip(boxes_xywh: NDArray[np.floating], hws_px: NDArray[np.int32]) -> NDArray[np.float64]:
    limits = np.tile(hws_px[:, ::-1].astype(np.float64), 2)
    with np.errstate(over="ignore"):  # Infinity is clipped as well.
        return xyxy_to_xywh(np.clip(xywh_to_xyxy(boxes_xywh.astype(np.float64)), 0, limits))
