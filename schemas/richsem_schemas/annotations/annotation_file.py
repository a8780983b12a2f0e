"""The contents of annotation files of any format, before boxes are cleaned and pictures looked for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.annotations.boxes import AnnotatedBoxes

AnnotationFormat = Literal["lvis", "coco", "objects365", "openimages", "visual-genome"]
"""Whose files these are; lvis, coco and objects365 are the same JSON."""

Metric = Literal["lvis", "coco", "boxes"]
"""A protocol: `boxes` is COCO's where sizes of objects mean nothing, so AP and AP50 are all it has."""

METRIC_OF: Mapping[AnnotationFormat, Metric] = {
    "lvis": "lvis",
    "coco": "coco",
    "objects365": "coco",
    "openimages": "boxes",
    "visual-genome": "boxes",
}
"""The protocol that files of a format are scored by; for all but `boxes` they hold what an official metric takes."""

MAX_CATEGORY_ID = 1_000_000
"""Largest category id that is accepted: tables by id are as long."""

NameRule = Callable[[int], str | None]
"""Where the picture of some position may lie, relative to the folder of the pictures; None where this can't be told."""


@dataclass(frozen=True, slots=True)
class CategoryRecord:
    """One category: its name, and what the file says of its frequency."""

    name: str
    frequency: Literal["r", "c", "f"] | None = None
    image_count: int | None = None


@dataclass(frozen=True, eq=False)
class MetricFields:
    """Fields of N pictures and M boxes that only a metric needs.

    Attributes:
        areas: float64 [M]; NaN where the file gives none.
        are_ignored: bool [M]; what `lvis` reads under `ignore`.
        negative_ids: categories that were looked for in a picture and aren't there, an int64 array a picture; None
            where the metric is not LVIS's.
        not_exhaustive_ids: categories of which a picture may show more than is annotated; as `negative_ids`.
    """

    areas: NDArray[np.float64]
    are_ignored: NDArray[np.bool_]
    negative_ids: list[NDArray[np.int64]] | None
    not_exhaustive_ids: list[NDArray[np.int64]] | None


@dataclass(frozen=True, eq=False)
class AnnotationFile:
    """The contents of annotation files: N pictures, M boxes.

    Attributes:
        image_ids: int64 [N].
        hws_px: int32 [N, 2], heights and widths; all 1 where boxes are fractions.
        name_rules: where pictures may lie, by a description of the rule, in the order of preference.
        boxes: as they stand there.
        categories: by id.
        are_relative: boxes are fractions of the picture's sides.
        problems: what has been left out so far, and how often.
        metric_fields: for its metric; None where they weren't asked for, or no official metric takes such files.
        repeats: places in the list `annotations` of the records that say once more what an earlier one said, int64,
            ascending; `boxes` are the other records, in their order. None where files have no such list.
    """

    image_ids: NDArray[np.int64]
    hws_px: NDArray[np.int32]
    name_rules: Mapping[str, NameRule]
    boxes: AnnotatedBoxes
    categories: Mapping[int, CategoryRecord]
    are_relative: bool = False
    problems: dict[str, int] = field(default_factory=dict)
    metric_fields: MetricFields | None = None
    repeats: NDArray[np.int64] | None = None
