"""LVIS's average precision of annotated boxes that each carry their most probable classes as scored detections.

The boxes are exact, so that it measures how well classes are ranked: over the boxes of a category, by their
probabilities, with all that is wrong among them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from richsem_prep.analyses.analysed_set import AnalysedSet
from richsem_prep.analyses.annotations import Annotations
from richsem_prep.analyses.classified_boxes import ClassifiedBoxes
from richsem_prep.analyses.judged_classes import JudgedClasses
from richsem_schemas.annotations import Category, ScoredAnnotations
from richsem_schemas.annotations.boxes import AnnotatedBoxes
from richsem_schemas.cache.listed_boxes import ListedBoxes, read_listed_boxes
from richsem_schemas.cache.permutation import permuted
from richsem_schemas.errors import CorruptCacheError
from richsem_schemas.pictures.boxes import xyxy_to_xywh
from richsem_schemas.scoring.detections import Detections
from richsem_schemas.scoring.evaluation import GroundTruth, score
from richsem_schemas.scoring.metrics import json_metrics

METRIC_OF_GROUP: dict[str, str] = {"all": "AP", "rare": "APr", "common": "APc", "frequent": "APf"}


@dataclass(frozen=True)
class AveragePrecision:
    """AP over IoU 0.50:0.05:0.95 with the `top_k` most probable classes of each box, by group, from 0 to 1.

    None where no category of a group has a box, or nobody says which are of it.
    """

    top_k: int
    precision: dict[str, float | None]


def average_precisions(
    analysed: AnalysedSet, boxes: ClassifiedBoxes, annotations: Annotations
) -> tuple[AveragePrecision, ...]:
    """Score classified boxes of a set, once for each number of most probable classes; no number of them is too many.

    Boxes, categories and pictures are those of the cache that are judged. Of the annotations come the categories that
    were looked for in a picture, outside of which LVIS's protocol counts no detection as wrong.

    Raises:
        RichSemError: the annotations don't have the cache's pictures.
        CorruptCacheError: listing and views don't speak of the same boxes.
    """
    plan, layout = analysed.cache.manifest.plan, analysed.cache.labels_layout
    listed = read_listed_boxes(layout, plan)
    places = permuted(boxes.pictures, size=plan.listed, seed=plan.seed)
    truth = _truth(listed, places, analysed, annotations, boxes.pictures)
    judged = _judged(listed, boxes, analysed)
    found = []
    for top_k in analysed.top_k:
        metrics = json_metrics(score(truth, judged.detections(top_k, analysed.classes), max_detections=None))
        found.append(AveragePrecision(top_k, {group: metrics[name] for group, name in METRIC_OF_GROUP.items()}))
    return tuple(found)


def _truth(
    listed: ListedBoxes,
    places: NDArray[np.int64],
    analysed: AnalysedSet,
    annotations: Annotations,
    picture_ids: NDArray[np.int64],
) -> GroundTruth:
    """The judged boxes of N pictures, `places` in the listing, called `picture_ids`."""
    classes = analysed.classes
    counts = np.diff(listed.offsets)[places]
    firsts = np.repeat(listed.offsets[places] - (counts.cumsum() - counts), counts)
    chosen = firsts + np.arange(len(firsts))
    image_index = np.repeat(np.arange(len(places)), counts)
    is_judged = classes.are_judged[listed.rows[chosen]]
    chosen, image_index = chosen[is_judged], image_index[is_judged]
    boxes_xywh = xyxy_to_xywh(listed.boxes_xyxy[chosen])
    files = listed.files.take(places).to_pylist()
    planned = analysed.cache.manifest.plan.annotations
    numbers = annotations.pictures([name.decode(errors="surrogateescape") for name in files], planned)
    fields = annotations.content.metric_fields
    assert fields is not None, "read with negatives"
    lists = [fields.negative_ids, fields.not_exhaustive_ids]
    negatives, not_exhaustive = (_rows_of(ids, numbers, annotations, classes) for ids in lists)
    scored = ScoredAnnotations(
        source=annotations.source,
        image_ids=picture_ids,
        hws_px=np.maximum(listed.hws_px[places], 1),
        categories=_categories(classes),
        boxes=AnnotatedBoxes(
            image_index, listed.rows[chosen].astype(np.int64), boxes_xywh, np.zeros(len(chosen), np.bool_)
        ),
        areas=boxes_xywh[:, 2:].astype(np.float64).prod(axis=1),
        are_ignored=np.zeros(len(chosen), np.bool_),
        negative_ids=negatives,
        not_exhaustive_ids=not_exhaustive,
    )
    return GroundTruth(scored, "lvis")


def _categories(classes: JudgedClasses) -> tuple[Category, ...]:
    """The judged classes by their rows, as LVIS's metric takes them; it doesn't count their pictures."""
    return tuple(
        Category(row, classes.names[row], classes.letters[row].item() or None, image_count=0)
        for row in np.flatnonzero(classes.are_judged).tolist()
    )


def _rows_of(
    ids: list[NDArray[np.int64]] | None, numbers: NDArray[np.int64], annotations: Annotations, classes: JudgedClasses
) -> list[NDArray[np.int64]]:
    """Lists of category ids of some pictures of the annotations, as rows of the vocabulary, by name."""
    assert ids is not None, "read with negatives"
    row_of_name = {name: row for row, name in enumerate(classes.names)}
    row_of = {number: row_of_name.get(each.name, -1) for number, each in annotations.content.categories.items()}
    return [np.array([row_of.get(each, -1) for each in ids[number].tolist()], np.int64) for number in numbers.tolist()]


@dataclass(frozen=True, eq=False)
class _JudgedBoxes:
    """R boxes, each with its most probable classes: rows of the text bank and log-probabilities, [R, K]."""

    pictures: NDArray[np.int64]
    boxes_xywh: NDArray[np.float32]
    class_ids: NDArray[np.int32]
    log_probs: NDArray[np.float32]

    def detections(self, top_k: int, classes: JudgedClasses) -> Detections:
        """Each box as often as it has classes among its most probable ones that are judged; best first."""
        rows_RK = classes.rows_of_text[self.class_ids[:, :top_k]]
        boxes, ranks = np.nonzero(rows_RK >= 0)
        scores = np.exp(self.log_probs[boxes, ranks].astype(np.float64))
        return Detections(self.pictures[boxes], rows_RK[boxes, ranks], self.boxes_xywh[boxes], scores)


def _judged(listed: ListedBoxes, boxes: ClassifiedBoxes, analysed: AnalysedSet) -> _JudgedBoxes:
    """The boxes of a set that are judged, at the places where they were annotated."""
    plan = analysed.cache.manifest.plan
    places = permuted(boxes.picture, size=plan.listed, seed=plan.seed)
    numbers = listed.offsets[places] + boxes.annotation
    is_known = (boxes.annotation >= 0) & (numbers < listed.offsets[places + 1])
    is_known[is_known] = listed.rows[numbers[is_known]] == boxes.categories[is_known]
    if not is_known.all():
        raise CorruptCacheError(
            f"{analysed.cache.labels_layout.listing}: {int((~is_known).sum()):,} boxes of label set "
            f"{analysed.manifest.name} are not in it; `richsem-prep verify` says what is damaged"
        )
    judged = np.flatnonzero(analysed.classes.are_judged[boxes.categories])
    return _JudgedBoxes(
        boxes.picture[judged],
        xyxy_to_xywh(listed.boxes_xyxy[numbers[judged]]),
        boxes.class_ids[judged],
        boxes.log_probs[judged],
    )
