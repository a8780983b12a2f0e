"""Average precision under the LVIS and the COCO protocol, scored once over all pictures."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import hotcoco
import numpy as np
from numpy.typing import NDArray

from richsem_schemas.annotations import AnnotationFormat, DetectionData
from richsem_schemas.errors import RichSemError
from richsem_train.detections import Detections

Metric = Literal["lvis", "coco", "boxes"]
"""The protocol: `boxes` is COCO's where sizes of objects mean nothing, so AP and AP50 are all it has."""

_METRICS: dict[AnnotationFormat, Metric] = {
    "lvis": "lvis",
    "coco": "coco",
    "objects365": "coco",
    "openimages": "boxes",
    "visual-genome": "boxes",
}

NOT_DEFINED = -1.0
"""Value of a metric over no category at all (APr where no category is rare), as `lvis` and `pycocotools` have it."""

_AREAS = ("all", "small", "medium", "large")
_FREQUENCIES = ("r", "c", "f")
_IOU_50, _IOU_75 = 0, 5
"""Positions in 0.50:0.05:0.95."""

_SMALLEST_AREA = sys.float_info.min
"""`lvis` drops boxes without an area. Not the smallest denormal number: while a run trains, those count as zero."""


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Annotations, loaded once for many evaluations.

    Attributes:
        coco: what is compared with.
        metric: the protocol they were prepared for.
        image_ids: int64 [I], ascending.
        category_ids: int64 [K], ascending.
        frequencies: of the categories, "r", "c", "f", or "" where the file says none.
        source: the file, for messages.
    """

    coco: hotcoco.COCO
    metric: Metric
    image_ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    frequencies: tuple[str, ...]
    source: str


def load_ground_truth(annotations: Path | str | Mapping[str, Any], *, metric: Metric = "lvis") -> GroundTruth:
    """Read annotations for scoring.

    Args:
        annotations: a JSON file in the LVIS or COCO format, or its content.
        metric: the protocol to score by.

    Raises:
        RichSemError: the file is missing or is no such file; for "lvis", a category has no frequency.
    """
    source = str(annotations) if isinstance(annotations, Path | str) else "the annotations"
    try:
        coco = hotcoco.COCO(source if isinstance(annotations, Path | str) else dict(annotations))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RichSemError(f"{source}: can't be read as {metric} annotations ({error})") from None
    if not coco.get_img_ids() or not coco.get_cat_ids():
        raise RichSemError(f"{source}: has no images or no categories; name a file of {metric} annotations")
    if metric == "lvis":
        coco = _without_empty_boxes(coco)
    categories = dict(sorted(coco.cats.items()))
    frequencies = tuple(category.get("frequency") or "" for category in categories.values())
    if metric == "lvis":
        _check_frequencies(categories, frequencies, source)
    return GroundTruth(
        coco=coco,
        metric=metric,
        image_ids=np.array(sorted(coco.get_img_ids()), np.int64),
        category_ids=np.array(list(categories), np.int64),
        frequencies=frequencies,
        source=source,
    )


def load_truth(path: Path, data: DetectionData, file_format: AnnotationFormat) -> GroundTruth:
    """The annotations of a split for scoring, by the protocol of their format.

    Args:
        path: the file.
        data: what was read of it; used where the file is none that the protocol's own programs read. Crowd regions
            and boxes without area are left out there.
        file_format: whose file it is.
    """
    if file_format in ("lvis", "coco"):
        return load_ground_truth(path, metric=_METRICS[file_format])
    return replace(load_ground_truth(_as_coco(data), metric=_METRICS[file_format]), source=str(path))


def _as_coco(data: DetectionData) -> dict[str, Any]:
    owners = np.repeat(data.image_ids, np.diff(data.offsets)).tolist()
    boxes_xywh = data.boxes_xywh_px.astype(np.float64)
    areas = boxes_xywh[:, 2:].prod(axis=1).tolist()
    columns = zip(owners, data.category_ids.tolist(), boxes_xywh.tolist(), areas, strict=True)
    return {
        "images": [
            {"id": image_id, "height": height, "width": width}
            for image_id, (height, width) in zip(data.image_ids.tolist(), data.hws_px.tolist(), strict=True)
        ],
        "annotations": [
            {"id": number, "image_id": image_id, "category_id": row, "bbox": box, "area": area, "iscrowd": 0}
            for number, (image_id, row, box, area) in enumerate(columns, 1)
        ],
        "categories": [{"id": each.id, "name": each.name} for each in data.categories],
    }


def score(
    annotations: GroundTruth | Path | str | Mapping[str, Any],
    detections: Detections,
    *,
    metric: Metric = "lvis",
    max_detections: int = 300,
) -> dict[str, float]:
    """Average precision over IoU 0.50:0.05:0.95 of all pictures of the annotations.

    Args:
        annotations: what is compared with; a `GroundTruth` spares reading it again.
        detections: of any of its pictures, in any order; of equal scores in a picture the earlier counts as better.
            Categories that the annotations don't have use up places of a picture and count no further.
        metric: the protocol; of a `GroundTruth`, the one it was loaded for.
        max_detections: the best of a picture that count. The COCO protocol has no such limit but its own of 100 a
            picture and category, which applies as well.

    Returns:
        AP, AP50, and but for "boxes" AP75, APs, APm, APl, and for "lvis" APr, APc, APf, from 0 to 1; -1 where there is
        nothing to average.

    Raises:
        RichSemError: see `load_ground_truth`; detections of unknown pictures, or numbers that are not finite.

    Source:
        Equal to `lvis` 0.5.3 and `pycocotools` 2.0 (computed by `hotcoco`). Differs: an annotation of id 0 can be
        found; both lose it, since they mark a box nobody found by 0. Without any detection `lvis` fails; here all are
        0.
    """
    truth = annotations if isinstance(annotations, GroundTruth) else load_ground_truth(annotations, metric=metric)
    if truth.metric != metric:
        raise RichSemError(f"{truth.source} was loaded for {truth.metric!r} and can't be scored as {metric!r}")
    _check_detections(detections, truth)
    kept = _counting(best_of_each_picture(detections, max_detections), truth)
    return _summary(_precision(truth, kept), truth)


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


def _without_empty_boxes(coco: hotcoco.COCO) -> hotcoco.COCO:
    """Annotations as `lvis` sees them."""
    kept = coco.get_ann_ids(area_rng=[_SMALLEST_AREA, float("inf")])
    if len(kept) == len(coco.get_ann_ids()):
        return coco
    data = coco.dataset
    has_area = [annotation for annotation in data["annotations"] if annotation["area"] > 0]
    return hotcoco.COCO({**data, "annotations": has_area})


def _check_frequencies(categories: Mapping[int, Any], frequencies: tuple[str, ...], source: str) -> None:
    for category_id, frequency in zip(categories, frequencies, strict=True):
        if frequency not in _FREQUENCIES:
            raise RichSemError(
                f"{source}: category {category_id} has the frequency {frequency!r}; the LVIS metric needs 'r', 'c' or "
                "'f' of each: name an LVIS file, or score by metric 'coco'"
            )


def _check_detections(detections: Detections, truth: GroundTruth) -> None:
    finite = np.isfinite(detections.scores) & np.isfinite(detections.boxes_xywh_px).all(axis=1)
    if not finite.all():
        raise RichSemError(
            f"{int((~finite).sum()):,} detections have a score or a box that is not finite, the first in the picture "
            f"of image id {detections.image_ids[~finite][0]}; the model's weights are damaged or have diverged"
        )
    unknown = np.unique(detections.image_ids[~np.isin(detections.image_ids, truth.image_ids)])
    if len(unknown):
        raise RichSemError(
            f"{truth.source} has no image id {unknown[0]} ({len(unknown):,} such pictures were scored); "
            "score the pictures of this file"
        )


def _counting(detections: Detections, truth: GroundTruth) -> Detections:
    """Leave out what the protocol never looks at."""
    counting = np.isin(detections.category_ids, truth.category_ids)
    if truth.metric == "lvis":
        sides = detections.boxes_xywh_px[:, 2:].astype(np.float64)
        counting &= sides.prod(axis=1) > 0
    return detections[counting]


def _precision(truth: GroundTruth, detections: Detections) -> NDArray[np.float64]:
    """Precision [10 IoUs, 101 recalls, K, 4 areas]; -1 where a category has no boxes."""
    # The columns of `loadRes`: image, x, y, width, height, score, category.
    rows = np.column_stack(
        [detections.image_ids, detections.boxes_xywh_px, detections.scores, detections.category_ids]
    ).astype(np.float64)
    results = hotcoco.LVISResults(truth.coco, rows, -1)
    evaluator = (
        hotcoco.LVISeval(truth.coco, results, "bbox")
        if truth.metric == "lvis"
        else hotcoco.COCOeval(truth.coco, results, "bbox")
    )
    parameters = evaluator.params
    parameters.cat_ids = truth.category_ids.tolist()
    evaluator.params = parameters
    evaluator.evaluate()
    evaluator.accumulate()
    assert evaluator.eval is not None
    # The last axis is the limit a category: 300 for LVIS; 1, 10 and 100 for COCO.
    precision: NDArray[np.float64] = np.asarray(evaluator.eval["precision"])[..., -1]
    assert precision.shape[2:] == (len(truth.category_ids), len(_AREAS)), precision.shape
    return precision


def _summary(precision_TRKA: NDArray[np.float64], truth: GroundTruth) -> dict[str, float]:
    every_area = precision_TRKA[..., 0]
    summary = {"AP": _mean(every_area), "AP50": _mean(every_area[_IOU_50])}
    if truth.metric == "boxes":
        return summary
    summary |= {
        "AP75": _mean(every_area[_IOU_75]),
        **{f"AP{area[0]}": _mean(precision_TRKA[..., index]) for index, area in enumerate(_AREAS) if index},
    }
    if truth.metric == "lvis":
        frequencies = np.array(truth.frequencies)
        summary |= {f"AP{letter}": _mean(every_area[:, :, frequencies == letter]) for letter in _FREQUENCIES}
    return summary


def _mean(precision: NDArray[np.float64]) -> float:
    """Over categories that have boxes."""
    defined = precision[precision > NOT_DEFINED]
    return float(defined.mean()) if len(defined) else NOT_DEFINED
