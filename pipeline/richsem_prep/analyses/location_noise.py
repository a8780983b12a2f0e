"""`richsem-prep analyze location-noise`: what becomes of soft labels as boxes are moved."""

from dataclasses import dataclass
from functools import partial
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from richsem_prep.analyses.accuracy import Accuracy, GroupSize, Hits
from richsem_prep.analyses.analysed_set import AnalysedSet, OnProgress, require_boxes
from richsem_prep.analyses.analysis_request import LabelForm
from richsem_prep.analyses.box_batches import BoxBatch, box_batches
from richsem_schemas.cache.codec import embeddings_of
from richsem_schemas.cache.shard import LabelShard
from richsem_schemas.cache.view import JITTERS_OF
from richsem_schemas.errors import CorruptCacheError, RichSemError

CLEAN = 0.0
"""The scale of the boxes as annotated."""


@dataclass(frozen=True)
class Middle:
    """Mean and median over boxes."""

    mean: float
    median: float


@dataclass(frozen=True)
class AtScale:
    """What the labels of boxes say that were moved so far.

    Attributes:
        noise_scale: each corner moved by up to so many half sides of its box; 0 is the box as annotated.
        groups: what the accuracies are over; a noised copy counts as a box.
        accuracies: one for each number of most probable classes.
        kl: nats, of the label from that of the clean box, over all boxes with or without a class.
        cosine: of the embeddings of both; None where none are stored.
    """

    noise_scale: float
    groups: dict[str, GroupSize]
    accuracies: tuple[Accuracy, ...]
    kl: Middle
    cosine: Middle | None


@dataclass(frozen=True)
class LocationNoise:
    """The robustness of a label set to the location of boxes.

    Attributes:
        labels: their form; of `topk` a KL is a lower bound, over the classes that both labels keep and all others as
            one.
        copies: of each box at each scale.
        has_frequencies: whether any class is known to be rare, common or frequent.
        scales: ascending, the clean boxes first.
    """

    label_set: str
    teacher: str
    labels: LabelForm
    copies: int
    has_frequencies: bool
    scales: tuple[AtScale, ...]


class _Tally:
    """Of the boxes at one scale: counts, and of each its divergence and, where embeddings are stored, their cosine."""

    def __init__(self, hits: Hits) -> None:
        self.hits = hits
        self.kl: list[NDArray[np.float32]] = []
        self.cosines: list[NDArray[np.float32]] = []

    def add(self, hits: Hits, kl: list[NDArray[np.float32]], cosines: list[NDArray[np.float32]]) -> None:
        self.hits += hits
        self.kl += kl
        self.cosines += cosines

    @property
    def boxes(self) -> int:
        """All that were counted, those without a class, too."""
        return sum(map(len, self.kl))


_Tallies = dict[float, _Tally]
"""By scale, ascending, the clean boxes first."""


def location_noise(
    analysed: AnalysedSet, *, threads: int | None = None, on_progress: OnProgress | None = None
) -> LocationNoise:
    """Judge the labels of a set's clean and noised boxes, scale by scale.

    Raises:
        RichSemError: the set has no noised boxes, or none that can be judged.
        CorruptCacheError: a shard is damaged.

    Source:
        Meng et al. 2023 (arXiv 2310.12152), supplement, figure 1.
    """
    views = analysed.spec.views
    if not views.jitters:
        raise RichSemError(
            f"label set {analysed.manifest.name} has no noised boxes; make a label set with them: the same "
            "`richsem-prep shard` with --whole --windows 0 --jitters 1, each scale in --noise 0.1,0.2,0.3, and another "
            "--label-set"
        )
    total = _new_tallies(analysed)
    for tallies in analysed.each_shard(partial(_of_shard, analysed), threads, on_progress):
        for scale, tally in tallies.items():
            total[scale].add(tally.hits, tally.kl, tally.cosines)
    require_boxes(int(total[CLEAN].hits.boxes.sum()), analysed)
    return LocationNoise(
        analysed.manifest.name,
        analysed.spec.teacher.name,
        analysed.reader.form,
        views.jitters,
        analysed.classes.have_frequencies,
        tuple(_at_scale(scale, tally, analysed) for scale, tally in total.items()),
    )


def _new_tallies(analysed: AnalysedSet) -> _Tallies:
    none = Hits.none(analysed.top_k, len(analysed.classes.names))
    return {scale: _Tally(none) for scale in (CLEAN, *sorted(analysed.spec.views.noise_scales))}


def _at_scale(scale: float, tally: _Tally, analysed: AnalysedSet) -> AtScale:
    sizes, accuracies = tally.hits.sizes(analysed.classes), tally.hits.accuracies(analysed.classes)
    return AtScale(scale, sizes, accuracies, _middle(tally.kl), _middle(tally.cosines) if tally.cosines else None)


def _middle(parts: list[NDArray[np.float32]]) -> Middle:
    values = np.concatenate(parts)
    return Middle(float(values.mean(dtype=np.float64)), float(np.median(values)))


def _of_shard(analysed: AnalysedSet, shard: LabelShard) -> _Tallies:
    tallies = _new_tallies(analysed)
    clean: BoxBatch | None = None
    views = shard.views_of_kinds(analysed.spec, ("whole", JITTERS_OF["whole"]))
    for kind, group in groupby(views, key=lambda each: each[0]):
        batches = box_batches((rows, alike) for _, rows, alike in group)
        if kind == "whole":
            clean = _in_order(list(batches))
            for part in clean.parts() if clean else ():
                _count_clean(tallies[CLEAN], analysed, part, shard)
        else:
            for batch in batches:
                _count_noised(tallies, analysed, _paired(batch, clean, shard), shard)
    _require_copies(tallies, analysed, shard)
    return tallies


def _require_copies(tallies: _Tallies, analysed: AnalysedSet, shard: LabelShard) -> None:
    expected = analysed.spec.views.jitters * tallies[CLEAN].boxes
    for scale, tally in tallies.items():
        if scale != CLEAN and tally.boxes != expected:
            raise CorruptCacheError(
                f"{shard.tar}: has {tally.boxes:,} boxes noised by {scale:g}, and its wholes ask for {expected:,}; "
                f"{shard.remedy}"
            )


def _in_order(batches: list[BoxBatch]) -> BoxBatch | None:
    """All of a shard's clean boxes, by ascending number; None where its pictures have none."""
    if not batches:
        return None
    joined = BoxBatch.joined(batches)
    return joined[np.argsort(joined.boxes, kind="stable")]


def _count_clean(tally: _Tally, analysed: AnalysedSet, batch: BoxBatch, shard: LabelShard) -> None:
    """Count clean boxes, whose labels diverge by nothing from themselves."""
    ids_RK, _ = analysed.read(batch, shard).most_probable(max(analysed.top_k))
    zeros = np.zeros(len(batch), np.float32)
    tally.add(_hits(analysed, ids_RK, batch.categories), [zeros], [zeros + 1] if _has_embeddings(batch) else [])


def _has_embeddings(batch: BoxBatch) -> bool:
    return "embedding" in (batch.regions.dtype.names or ())


def _hits(analysed: AnalysedSet, ids_RK: NDArray[np.int64], categories_R: NDArray[np.int64]) -> Hits:
    return Hits.of(ids_RK, categories_R, analysed.classes, analysed.top_k)


@dataclass(frozen=True, eq=False)
class _Pairs:
    """R noised boxes, the clean ones that they are copies of, and int64 [R] which of these each is."""

    noised: BoxBatch
    clean: BoxBatch
    of: NDArray[np.int64]


def _paired(noised: BoxBatch, clean: BoxBatch | None, shard: LabelShard) -> _Pairs:
    numbers = noised.boxes
    known = np.zeros(0, np.int64) if clean is None else clean.boxes
    places = np.searchsorted(known, numbers)
    if clean is None or not np.array_equal(known[np.minimum(places, len(known) - 1)], numbers):
        raise CorruptCacheError(f"{shard.tar}: a noised box is none of its picture's whole; {shard.remedy}")
    shown, of = np.unique(places, return_inverse=True)
    return _Pairs(noised, clean[shown], of)


def _count_noised(tallies: _Tallies, analysed: AnalysedSet, pairs: _Pairs, shard: LabelShard) -> None:
    noised = analysed.read(pairs.noised, shard)
    ids_RK, _ = noised.most_probable(max(analysed.top_k))
    kl_R = noised.divergence_from(analysed.read(pairs.clean, shard)[pairs.of]).astype(np.float32)
    cosines_R = _cosines(pairs)
    scales_R, categories_R = pairs.noised.regions["noise_scale"], pairs.noised.categories
    if not np.isin(scales_R, np.array([*tallies][1:], np.float32)).all():
        raise CorruptCacheError(f"{shard.tar}: a region's noise_scale is none of the spec's; {shard.remedy}")
    for scale, tally in tallies.items():
        if len(here := np.flatnonzero(scales_R == np.float32(scale))):
            cosines = [] if cosines_R is None else [cosines_R[here]]
            tally.add(_hits(analysed, ids_RK[here], categories_R[here]), [kl_R[here]], cosines)


def _cosines(pairs: _Pairs) -> NDArray[np.float32] | None:
    """[R] of the embeddings of noised and clean boxes; None where none are stored."""
    noised_RD, clean_BD = (embeddings_of(batch.regions) for batch in (pairs.noised, pairs.clean))
    if noised_RD is None or clean_BD is None:
        return None
    dots_R = np.einsum("rd,rd->r", noised_RD, clean_BD[pairs.of])
    lengths_R, lengths_B = (np.linalg.norm(each, axis=1) for each in (noised_RD, clean_BD))
    return np.asarray(dots_R / (lengths_R * lengths_B[pairs.of]), np.float32)
