"""`richsem-prep suspects`: the boxes of a label set whose labels its teacher contradicts, rare classes first."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from richsem_prep.analyses.analysed_set import AnalysedSet, OnProgress, require_boxes
from richsem_prep.analyses.analysis_request import LabelForm
from richsem_prep.suspects.annotated_places import annotated_places
from richsem_prep.suspects.class_columns import ClassColumns
from richsem_prep.suspects.contradiction import Contradiction, class_thresholds, contradiction
from richsem_prep.suspects.judged_boxes import BoxKeys, judge_boxes, view_kind
from richsem_schemas.cache.view import ViewKind
from richsem_schemas.errors import RichSemError
from richsem_schemas.vocabularies.frequencies import derived_frequencies
from richsem_schemas.vocabularies.lvis import FREQUENCY_NAMES

_ORDER = {letter: place for place, letter in enumerate(FREQUENCY_NAMES)}
_GIVEN = "as the annotations, or LVIS's own list, say"


@dataclass(frozen=True)
class Suspect:
    """A box whose label the teacher contradicts.

    Attributes:
        picture: its name below the folder of the pictures.
        hw: its height and width as annotated, pixels; 0 where boxes are fractions.
        box_xywh: as annotated: left, top, width and height.
        annotation: which of its picture's boxes it is, counted from 0 as the cache lists them.
        label: as annotated.
        suggestion: what the teacher would say.
        group: rare, common or frequent; of the rarer of both classes.
        score: nats; what the list is ordered by within a group.
        label_probability: by the teacher, over all classes.
        suggestion_probability: likewise.
        sample: planned position of the picture, counted over all shards.
    """

    picture: str
    hw: tuple[int, int]
    box_xywh: tuple[float, float, float, float]
    annotation: int
    label: str
    suggestion: str
    group: str
    score: float
    label_probability: float
    suggestion_probability: float
    sample: int


@dataclass(frozen=True)
class LabelledClass:
    """A class as the labels have it.

    Attributes:
        group: rare, common or frequent.
        boxes: that are labelled so.
        threshold: the probability of the class on them, at the mean.
        suspects: of them.
        suggested: suspects of other classes that the teacher would label so.
    """

    name: str
    group: str
    boxes: int
    threshold: float
    suspects: int
    suggested: int


@dataclass(frozen=True)
class Suspects:
    """What a teacher has against the labels of a set.

    Attributes:
        labels: the form of the soft labels.
        views: that boxes were seen in.
        boxes: that were judged.
        unjudged_boxes: without a class, or of one that the text hasn't.
        contradicted: boxes that confident learning counts as of another class: its estimate of the wrong labels.
        frequency_rule: what rare, common and frequent mean.
        classes: those with boxes, rare ones first, then by suspects.
        suspects: rare classes first, then by score.
    """

    label_set: str
    teacher: str
    labels: LabelForm
    views: ViewKind
    boxes: int
    unjudged_boxes: int
    contradicted: int
    frequency_rule: str
    classes: tuple[LabelledClass, ...]
    suspects: tuple[Suspect, ...]


def find_suspects(
    analysed: AnalysedSet, *, most: int | None = None, threads: int | None = None, on_progress: OnProgress | None = None
) -> Suspects:
    """Find the boxes whose labels a teacher contradicts most.

    So many are told as confident learning counts boxes of another class, those of the highest scores, wherever it
    counted them; `contradiction` has the score. Shards are read twice: for the thresholds, then for the scores.

    Args:
        analysed: a set of wholes, or of windows.
        most: tell so many instead.
        threads: shards at a time.
        on_progress: takes the shards read, and those that will be.

    Raises:
        RichSemError: no box can be judged, or all have one class.
        CorruptCacheError: a shard is damaged, or listing and views don't speak of the same boxes.

    Source:
        Northcutt et al. 2021 (arXiv 1911.00068). Differs: no cross-validation, since the teacher never saw the labels.
    """
    columns = ClassColumns.of(analysed.classes)
    keys, thresholds_C, left_out = _thresholds(analysed, columns, threads, _half(on_progress, 0))

    def judge(log_probs_RC: NDArray[np.float64], labels_R: NDArray[np.int64]) -> tuple[NDArray, ...]:
        own_R = log_probs_RC[np.arange(len(labels_R)), labels_R]
        found = contradiction(log_probs_RC, labels_R, thresholds_C)
        return own_R, found.suggested, found.scores, found.log_probs, found.is_confident

    _, (own_R, *judged), _ = judge_boxes(analysed, columns, judge, threads=threads, on_progress=_half(on_progress, 1))
    found = Contradiction(*judged)
    letters, rule = _letters(analysed, columns, keys)
    contradicted = int(found.is_confident.sum())
    chosen = _chosen(found, contradicted if most is None else most)
    suspects = _suspects(analysed, columns, keys, found, own_R, letters, chosen)
    return Suspects(
        analysed.manifest.name,
        analysed.spec.teacher.name,
        analysed.reader.form,
        view_kind(analysed),
        len(keys.labels),
        left_out,
        contradicted,
        rule,
        _classes(analysed, columns, keys, found, letters, thresholds_C, chosen),
        suspects,
    )


def _half(on_progress: OnProgress | None, half: int) -> OnProgress | None:
    return None if on_progress is None else lambda done, total: on_progress(half * total + done, 2 * total)


def _thresholds(
    analysed: AnalysedSet, columns: ClassColumns, threads: int | None, on_progress: OnProgress | None
) -> tuple[BoxKeys, NDArray[np.float64], int]:
    def judge(log_probs_RC: NDArray[np.float64], labels_R: NDArray[np.int64]) -> tuple[NDArray, ...]:
        return (np.exp(log_probs_RC[np.arange(len(labels_R)), labels_R]),)

    keys, (own_probs_R,), left_out = judge_boxes(analysed, columns, judge, threads=threads, on_progress=on_progress)
    require_boxes(len(keys.labels), analysed)
    if len(np.unique(keys.labels)) < 2:
        name = analysed.classes.names[columns.rows[keys.labels[0]]]
        raise RichSemError(
            f"label set {analysed.manifest.name}: all of its {len(keys.labels):,} boxes are labelled {name!r}, and a "
            "label can only be contradicted by another class that has boxes; name a cache of two classes or more"
        )
    return keys, class_thresholds(own_probs_R, keys.labels, len(columns.rows)), left_out


def _letters(analysed: AnalysedSet, columns: ClassColumns, keys: BoxKeys) -> tuple[NDArray[np.str_], str]:
    """r, c or f of each column, and by which rule; told by the cache's boxes where nobody else says it of them all."""
    given = analysed.classes.letters[columns.rows]
    with_boxes = np.unique(keys.labels)
    if (given[with_boxes] != "").all():
        return np.where(given == "", "f", given), _GIVEN
    pairs = np.unique(keys.picture * len(columns.rows) + keys.labels)
    counts = np.bincount(pairs % len(columns.rows), minlength=len(columns.rows))
    derived, rule = derived_frequencies(counts[with_boxes])
    letters = np.full(len(columns.rows), "f", "<U1")
    letters[with_boxes] = derived
    return letters, rule


def _chosen(found: Contradiction, count: int) -> NDArray[np.int64]:
    """The `count` boxes of the highest scores above 0, highest first, ties to the earlier box."""
    order = np.argsort(-found.scores, kind="stable")[:count]
    return order[found.scores[order] > 0]


def _suspects(
    analysed: AnalysedSet,
    columns: ClassColumns,
    keys: BoxKeys,
    found: Contradiction,
    own_R: NDArray[np.float64],
    letters: NDArray[np.str_],
    chosen: NDArray[np.int64],
) -> tuple[Suspect, ...]:
    names = analysed.classes.names
    rows = columns.rows[keys.labels[chosen]]
    places = annotated_places(analysed, keys.picture[chosen], keys.annotation[chosen], rows)
    rarest = _rarest(letters, keys.labels[chosen], found.suggested[chosen])
    suspects = [
        Suspect(
            place.picture,
            place.hw,
            place.box_xywh,
            int(keys.annotation[number]),
            names[columns.rows[keys.labels[number]]],
            names[columns.rows[found.suggested[number]]],
            FREQUENCY_NAMES[letter],
            float(found.scores[number]),
            float(np.exp(own_R[number])),
            float(np.exp(found.log_probs[number])),
            int(keys.picture[number]),
        )
        for number, letter, place in zip(chosen.tolist(), rarest, places, strict=True)
    ]
    order = np.argsort([_ORDER[letter] for letter in rarest], kind="stable")
    return tuple(suspects[number] for number in order.tolist())


def _rarest(letters: NDArray[np.str_], *classes: NDArray[np.int64]) -> list[str]:
    return [
        min(each, key=_ORDER.__getitem__) for each in zip(*(letters[some].tolist() for some in classes), strict=True)
    ]


def _classes(
    analysed: AnalysedSet,
    columns: ClassColumns,
    keys: BoxKeys,
    found: Contradiction,
    letters: NDArray[np.str_],
    thresholds_C: NDArray[np.float64],
    chosen: NDArray[np.int64],
) -> tuple[LabelledClass, ...]:
    counts: Mapping[str, NDArray[np.int64]] = {
        name: np.bincount(values, minlength=len(columns.rows))
        for name, values in (
            ("boxes", keys.labels),
            ("suspects", keys.labels[chosen]),
            ("suggested", found.suggested[chosen]),
        )
    }
    classes = [
        LabelledClass(
            analysed.classes.names[columns.rows[column]],
            FREQUENCY_NAMES[letters[column]],
            threshold=float(thresholds_C[column]),
            **{name: int(values[column]) for name, values in counts.items()},
        )
        for column in np.flatnonzero(counts["boxes"]).tolist()
    ]
    groups = list(FREQUENCY_NAMES.values())
    return tuple(sorted(classes, key=lambda each: (groups.index(each.group), -each.suspects)))
