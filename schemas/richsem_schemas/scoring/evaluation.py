"""Average precision under the LVIS and the COCO protocol, scored once over all pictures."""

import io
import warnings
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import hotcoco
import numpy as np
from numpy.typing import NDArray

from richsem_schemas.annotations import (
    METRIC_OF,
    AnnotationFormat,
    DetectionData,
    Metric,
    ScoredAnnotations,
)
from richsem_schemas.errors import RichSemError
from richsem_schemas.scoring.class_frequencies import ClassFrequencies, scored_frequencies
from richsem_schemas.scoring.detections import Detections, require_finite
from richsem_schemas.scoring.metrics import METRICS, NOT_DEFINED
from richsem_schemas.vocabularies.frequencies import Frequency

_GROUPS: dict[str, Frequency] = {"APr": "r", "APc": "c", "APf": "f"}

_METRICS_OF: dict[Metric, tuple[str, ...]] = {"lvis": METRICS, "coco": METRICS, "boxes": (*METRICS[:2], *_GROUPS)}

_BEYOND_ALL_AREAS = 2e10
"""An annotation of such an area counts in no range of areas, which is what `lvis` does with those to be ignored."""


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Annotations of A boxes, made ready once for many evaluations.

    Pictures, categories, and boxes have numbers of our own here, from 1: a file's ids may repeat, be missing, be
    negative, or be more than a float64 tells apart, and an annotation of id 0 is lost in `lvis` and `pycocotools`.
    Pictures are numbered by ascending id, since detections of equal scores are ranked in that order.

    Attributes:
        annotations: as they were read.
        metric: the protocol to compare by.
        trained: frequencies of the classes in the training split, by category id; None where it isn't known.
    """

    annotations: ScoredAnnotations
    metric: Metric
    trained: ClassFrequencies | None = None

    @cached_property
    def frequencies(self) -> ClassFrequencies:
        """Which classes APr, APc and APf are of."""
        annotations = self.annotations
        return scored_frequencies(annotations.categories, Path(annotations.source).name, self.trained)

    @cached_property
    def image_ids(self) -> NDArray[np.int64]:
        """Int64 [N], ascending; picture n has `image_ids[n - 1]`."""
        return np.sort(self.annotations.image_ids)

    @cached_property
    def category_ids(self) -> NDArray[np.int64]:
        """Int64 [K], ascending; category n has `category_ids[n - 1]`."""
        return np.array([category.id for category in self.annotations.categories], np.int64)

    @cached_property
    def box_images(self) -> NDArray[np.int64]:
        """Int64 [A]: the number of each box's picture."""
        numbers = np.searchsorted(self.image_ids, self.annotations.image_ids) + 1
        return numbers[self.annotations.boxes.image_index]

    @cached_property
    def box_categories(self) -> NDArray[np.int64]:
        """Int64 [A]: the number of each box's category."""
        return np.searchsorted(self.category_ids, self.annotations.boxes.category_ids) + 1

    @cached_property
    def are_counting(self) -> NDArray[np.bool_]:
        """Bool [A]: the boxes that are in `coco`, where box n of them has the id n, from 1."""
        areas = self.annotations.areas
        # `lvis` leaves out boxes without an area.
        return (areas > 0) & (areas < np.inf) if self.metric == "lvis" else np.ones(len(areas), np.bool_)

    @cached_property
    def coco(self) -> hotcoco.COCO:
        """The boxes that count."""
        boxes, areas, is_crowd = self.annotations.boxes, self.annotations.areas, self.annotations.boxes.is_crowd
        counting = self.are_counting
        if self.metric == "lvis":
            # `lvis` doesn't look for crowds.
            areas = np.where(self.annotations.are_ignored, _BEYOND_ALL_AREAS, areas)
            is_crowd = np.zeros_like(is_crowd)
        return hotcoco.COCO.from_arrays(
            self.image_records(),
            self.category_records(),
            self.box_images[counting],
            self.box_categories[counting],
            boxes.boxes_xywh[counting].astype(np.float64),
            ids=np.arange(1, int(counting.sum()) + 1),
            area=areas[counting],
            iscrowd=is_crowd[counting],
        )

    def image_records(self) -> list[dict[str, Any]]:
        """Pictures as LVIS and COCO write them, by our numbers."""
        annotations = self.annotations
        order = np.argsort(annotations.image_ids, kind="stable")
        records = [
            {"id": number, "height": height, "width": width}
            for number, (height, width) in enumerate(annotations.hws_px[order].tolist(), 1)
        ]
        number_of = {category_id: number for number, category_id in enumerate(self.category_ids.tolist(), 1)}
        for key, lists in (
            ("neg_category_ids", annotations.negative_ids),
            ("not_exhaustive_category_ids", annotations.not_exhaustive_ids),
        ):
            if lists is not None:
                for record, index in zip(records, order.tolist(), strict=True):
                    record[key] = [number_of[each] for each in lists[index].tolist() if each in number_of]
        return records

    def category_records(self) -> list[dict[str, Any]]:
        """Categories as LVIS writes them, by our numbers."""
        return [
            {"id": number, "name": category.name, "frequency": category.frequency or ""}
            for number, category in enumerate(self.annotations.categories, 1)
        ]


def truth_of(
    data: DetectionData, file_format: AnnotationFormat, *, trained: ClassFrequencies | None = None
) -> GroundTruth:
    """The annotations of a split that was read with `is_scored`, by the protocol of their format.

    `trained` are the frequencies of the training split, where it is known.
    """
    assert data.scored is not None, "read to be scored"
    return GroundTruth(data.scored, METRIC_OF[file_format], trained)


def score(
    truth: GroundTruth,
    detections: Detections,
    *,
    max_detections: int | None = 300,
    max_of_category: int | None = None,
) -> dict[str, float]:
    """Average precision over IoU 0.50:0.05:0.95 of all pictures of the annotations.

    Args:
        truth: what is compared with.
        detections: of any of its pictures, in any order; of equal scores in a picture the earlier counts as better.
            Categories that the annotations don't have use up places of a picture and count no further.
        max_detections: the best of a picture that count. The COCO protocol has no such limit but its own of 100 a
            picture and category, which applies as well. None is no limit at all, of neither protocol.
        max_of_category: the best of a category, over all pictures, that count; of equal scores those of pictures of
            lower id. 10,000, without a limit a picture, is Fixed AP. None is no limit.

    Returns:
        AP, AP50, but for "boxes" AP75, APs, APm, APl, and APr, APc, APf (`GroundTruth.frequencies`), from 0 to 1; -1
        where there is nothing to average.

    Raises:
        RichSemError: detections of unknown pictures, or numbers that are not finite.

    Source:
        Equal to `lvis` 0.5.3 and `pycocotools` 2.0 (computed by `hotcoco`). Differs: annotations given twice under one
        id count once, and boxes that aren't finite not at all, as the reader of annotations says. Without any detection
        `lvis` fails; here all are 0. Groups of frequencies are LVIS's (arXiv 1908.03195), in every protocol; Fixed AP
        is by Dave et al. 2021 (arXiv 2102.01066).
    """
    kept = numbered(truth, detections, max_detections=max_detections, max_of_category=max_of_category)
    return metrics_of(truth, evaluated(truth, kept, max_detections=max_detections))


def evaluated(truth: GroundTruth, kept: Detections, *, max_detections: int | None = 300) -> hotcoco.COCOeval:
    """The evaluator of `score` after its work, for what it knows besides.

    Args:
        truth: what is compared with.
        kept: of `numbered`; detection n of them has the id n, from 1.
        max_detections: as `score` takes it.
    """
    # The columns of `loadRes`: image, x, y, width, height, score, category.
    rows = np.column_stack([kept.image_ids, kept.boxes_xywh_px, kept.scores, kept.category_ids]).astype(np.float64)
    compared = hotcoco.LVISeval if truth.metric == "lvis" else hotcoco.COCOeval
    evaluator = compared(truth.coco, hotcoco.LVISResults(truth.coco, rows, -1), "bbox")
    if max_detections is None or truth.metric == "lvis":
        # Its own limit is one of a picture and category, which `lvis` doesn't have.
        evaluator.params.max_dets = [*evaluator.params.max_dets[:-1], max_detections or max(len(rows), 1)]
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():  # It prints its summary.
        # Names of recalls, which nobody reads here, have the usual limits in them.
        warnings.filterwarnings("ignore", "hotcoco: max_dets differ")
        evaluator.run()
    return evaluator


def metrics_of(truth: GroundTruth, evaluator: hotcoco.COCOeval) -> dict[str, float]:
    """The figures of `score`, of an evaluator that did its work."""
    results = evaluator.get_results()
    if truth.metric != "lvis":
        results |= _of_frequencies(evaluator, truth)
    return {name: results[name] for name in _METRICS_OF[truth.metric]}


def _of_frequencies(evaluator: Any, truth: GroundTruth) -> dict[str, float]:
    """Means over the categories of each frequency: what `lvis` does, which takes the letters from its annotations."""
    # Of IoU thresholds, recalls, categories, areas (all of them first) and limits (the largest last).
    precision_TRK = evaluator.eval["precision"][:, :, :, 0, -1]
    letters = np.array([truth.frequencies.letters[number] for number in truth.category_ids.tolist()])
    means = {}
    for name, letter in _GROUPS.items():
        known = precision_TRK[:, :, letters == letter]
        known = known[known > NOT_DEFINED]
        means[name] = float(known.mean()) if known.size else NOT_DEFINED
    return means


def numbered(
    truth: GroundTruth, detections: Detections, *, max_detections: int | None, max_of_category: int | None = None
) -> Detections:
    """The detections that count, with our numbers of pictures and categories in the place of ids.

    Raises:
        RichSemError: as `score` says.
    """
    _check_detections(detections, truth)
    best = detections if max_detections is None else best_of_each_picture(detections, max_detections)
    if max_of_category is not None:
        best = best[best_of_each_category(best.image_ids, best.category_ids, best.scores, max_of_category)]
    kept = best[_counting(best, truth)]
    return replace(
        kept,
        image_ids=np.searchsorted(truth.image_ids, kept.image_ids) + 1,
        category_ids=np.searchsorted(truth.category_ids, kept.category_ids) + 1,
    )


def best_of_each_picture(detections: Detections, limit: int) -> Detections:
    """Keep at most `limit` detections a picture, best first; of equal scores the earlier ones.

    Returns:
        Pictures in ascending order of their ids; the detections as they are where no picture has too many.
    """
    _, counts = np.unique(detections.image_ids, return_counts=True)
    if counts.max(initial=0) <= limit:
        return detections
    # Stable, so ties keep their order, as in the oracles' own sorts.
    order = np.lexsort((-detections.scores.astype(np.float64), detections.image_ids))
    image_ids = detections.image_ids[order]
    starts = np.searchsorted(image_ids, image_ids, side="left")
    return detections[order[np.arange(len(order)) - starts < limit]]


def best_of_each_category(
    image_ids: NDArray[np.int64],
    category_ids: NDArray[np.int64],
    scores: NDArray[np.floating[Any]],
    limit: int,
) -> NDArray[np.bool_]:
    """Which D detections are among the best `limit` of their category, over all pictures; bool [D].

    Of equal scores those of pictures of lower id are better, and within a picture the earlier ones.
    """
    order = np.lexsort((image_ids, -scores.astype(np.float64), category_ids))
    ordered = category_ids[order]
    kept = np.zeros(len(order), np.bool_)
    kept[order[np.arange(len(order)) - np.searchsorted(ordered, ordered, side="left") < limit]] = True
    return kept


def _check_detections(detections: Detections, truth: GroundTruth) -> None:
    require_finite(
        detections.scores,
        detections.boxes_xywh_px,
        lambda index: f"the picture of image id {detections.image_ids[index]}",
    )
    unknown = np.unique(detections.image_ids[~np.isin(detections.image_ids, truth.image_ids)])
    if len(unknown):
        raise RichSemError(
            f"{truth.annotations.source} has no image id {unknown[0]} ({len(unknown):,} such pictures were scored); "
            "score the pictures of this file"
        )


def _counting(detections: Detections, truth: GroundTruth) -> NDArray[np.bool_]:
    """Which detections the protocol ever looks at."""
    counting = np.isin(detections.category_ids, truth.category_ids)
    if truth.metric == "lvis":
        sides = detections.boxes_xywh_px[:, 2:].astype(np.float64)
        counting &= sides.prod(axis=1) > 0
    return counting
