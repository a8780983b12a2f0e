"""`richsem-prep analyze zero-shot`: annotated boxes classified by the teacher's soft labels, as the paper's table 2."""

from dataclasses import dataclass

from richsem_prep.analyses.accuracy import Accuracy, GroupSize, Hits
from richsem_prep.analyses.analysed_set import AnalysedSet, require_boxes
from richsem_prep.analyses.analysis_request import LabelForm
from richsem_prep.analyses.annotations import Annotations
from richsem_prep.analyses.average_precision import AveragePrecision, average_precisions
from richsem_prep.analyses.classified_boxes import ClassifiedBoxes


@dataclass(frozen=True)
class ZeroShot:
    """How well a teacher classifies annotated boxes.

    Attributes:
        labels: the form of the soft labels.
        pictures: with a whole in the cache.
        unjudged_boxes: those without a class, or of a class that the text hasn't; left out of all figures.
        has_frequencies: whether any class is known to be rare, common or frequent.
        groups: what the figures are over.
        accuracies: one for each number of most probable classes.
        precisions: likewise; None without annotations that say which categories were looked for in a picture.
    """

    label_set: str
    teacher: str
    labels: LabelForm
    pictures: int
    unjudged_boxes: int
    has_frequencies: bool
    groups: dict[str, GroupSize]
    accuracies: tuple[Accuracy, ...]
    precisions: tuple[AveragePrecision, ...] | None


def zero_shot(analysed: AnalysedSet, boxes: ClassifiedBoxes, annotations: Annotations | None = None) -> ZeroShot:
    """Judge classified boxes of a set; average precision needs annotations with negatives.

    Raises:
        RichSemError: none can be judged, or the annotations are of other pictures.
        CorruptCacheError: listing and views don't speak of the same boxes.

    Source:
        Meng et al. 2023 (arXiv 2310.12152), supplement, table 2.
    """
    hits = Hits.of(boxes.class_ids, boxes.categories, analysed.classes, analysed.top_k)
    judged = int(hits.boxes.sum())
    require_boxes(judged, analysed)
    is_scored = annotations is not None and annotations.has_negatives
    return ZeroShot(
        analysed.manifest.name,
        analysed.spec.teacher.name,
        analysed.reader.form,
        len(boxes.pictures),
        len(boxes.categories) - judged,
        analysed.classes.have_frequencies,
        hits.sizes(analysed.classes),
        hits.accuracies(analysed.classes),
        average_precisions(analysed, boxes, annotations) if annotations is not None and is_scored else None,
    )
