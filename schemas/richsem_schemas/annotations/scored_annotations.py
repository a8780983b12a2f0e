"""Annotations as the metric of their format takes them."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.annotations.annotation_file import AnnotationFile
from richsem_schemas.annotations.boxes import AnnotatedBoxes, clean_boxes, joined_boxes


@dataclass(frozen=True, slots=True)
class Category:
    """One category of an annotation file.

    Attributes:
        frequency: r, c or f; None where the file doesn't say.
        image_count: pictures with this category; of the file where it says so for all, counted otherwise.
    """

    id: int
    name: str
    frequency: Literal["r", "c", "f"] | None
    image_count: int


@dataclass(frozen=True, eq=False)
class ScoredAnnotations:
    """S boxes of K categories, with which the detections of N pictures are compared.

    Where an official metric takes such files, the boxes are as written, since it takes them so: crowd regions and boxes
    beyond their picture are among them. Elsewhere they are cleaned as for training, but crowd regions stay.

    Attributes:
        source: the file, for messages.
        image_ids: int64 [N].
        hws_px: int32 [N, 2].
        categories: by ascending id.
        boxes: finite ones.
        areas: float64 [S]; the file's, or where it gives none the box's.
        are_ignored: bool [S]; what `lvis` reads under `ignore`.
        negative_ids: categories that were looked for in a picture and aren't there, an int64 array a picture; None
            where the metric is not LVIS's.
        not_exhaustive_ids: categories of which a picture may show more than is annotated; as `negative_ids`.
    """

    source: str
    image_ids: NDArray[np.int64]
    hws_px: NDArray[np.int32]
    categories: tuple[Category, ...]
    boxes: AnnotatedBoxes
    areas: NDArray[np.float64]
    are_ignored: NDArray[np.bool_]
    negative_ids: list[NDArray[np.int64]] | None = None
    not_exhaustive_ids: list[NDArray[np.int64]] | None = None

    def of_pictures(self, pictures: NDArray[np.int64]) -> "ScoredAnnotations":
        """The same of some pictures, by their places, and of all categories; these keep their counts of pictures."""
        place = np.full(len(self.image_ids), -1)
        place[pictures] = np.arange(len(pictures))
        kept = place[self.boxes.image_index] >= 0
        boxes = self.boxes.only(kept)
        return replace(
            self,
            image_ids=self.image_ids[pictures],
            hws_px=self.hws_px[pictures],
            boxes=replace(boxes, image_index=place[boxes.image_index]),
            areas=self.areas[kept],
            are_ignored=self.are_ignored[kept],
            negative_ids=_chosen(self.negative_ids, pictures),
            not_exhaustive_ids=_chosen(self.not_exhaustive_ids, pictures),
        )


def _chosen(lists: list[NDArray[np.int64]] | None, pictures: NDArray[np.int64]) -> list[NDArray[np.int64]] | None:
    return None if lists is None else [lists[picture] for picture in pictures.tolist()]


def scored_as_written(
    found: AnnotationFile, categories: tuple[Category, ...], source: str
) -> tuple[ScoredAnnotations, dict[str, int]]:
    """For an official metric; and a count of the boxes that are left out, and of those that nothing can match."""
    fields = found.metric_fields
    assert fields is not None
    finite: NDArray[np.bool_] = np.isfinite(found.boxes.boxes_xywh).all(axis=1)
    boxes = found.boxes.only(finite)
    sides = boxes.boxes_xywh[:, 2:]
    areas = fields.areas[finite]
    with np.errstate(over="ignore"):  # Boxes of astronomic size: the area is infinite.
        areas = np.where(np.isnan(areas), sides.prod(axis=1), areas)
    scored = ScoredAnnotations(
        source,
        found.image_ids,
        found.hws_px,
        categories,
        boxes,
        areas,
        fields.are_ignored[finite],
        fields.negative_ids,
        fields.not_exhaustive_ids,
    )
    return scored, {
        "boxes with NaN or infinite numbers left out": int((~finite).sum()),
        "boxes of zero or negative size, which no detection matches": int((sides <= 0).any(axis=1).sum()),
    }


def scored_as_cleaned(
    found: AnnotationFile, boxes: AnnotatedBoxes, categories: tuple[Category, ...], source: str
) -> ScoredAnnotations:
    """Where no official metric takes such files: the cleaned boxes, and crowd regions, which COCO ignores."""
    boxes = joined_boxes([boxes, _clean_crowds(found)])
    areas = boxes.boxes_xywh[:, 2:].astype(np.float64).prod(axis=1)
    return ScoredAnnotations(
        source, found.image_ids, found.hws_px, categories, boxes, areas, np.zeros(len(boxes), np.bool_)
    )


def _clean_crowds(found: AnnotationFile) -> AnnotatedBoxes:
    crowds = found.boxes.only(found.boxes.is_crowd)
    # Cleaning leaves out what is marked so.
    unmarked = replace(crowds, is_crowd=np.zeros(len(crowds), np.bool_))
    clean, _ = clean_boxes(unmarked, found.hws_px, are_relative=found.are_relative)
    return replace(clean, is_crowd=np.ones(len(clean), np.bool_))
