"""Scoring a detector on a split: all ranks detect, each its share, and the first scores all of it once."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Subset

from richsem_schemas.cache.geometry import resized_hw
from richsem_schemas.scoring.class_scores import class_aps
from richsem_schemas.scoring.detections import Detections, PictureDetections
from richsem_schemas.scoring.evaluation import GroundTruth, evaluated, metrics_of, numbered
from richsem_train.choices import Scorer
from richsem_train.config import EvaluationConfig
from richsem_train.console import Reporter
from richsem_train.data.category_rows import NO_CATEGORY, ScoredSplit
from richsem_train.data.collate import Sample
from richsem_train.data.detection import EvaluationDataset
from richsem_train.results.best_of_categories import best_of_categories
from richsem_train.results.inference import BatchDetector, detect_all
from richsem_train.results.like_sizes import batches_of_like_size, collate_alike, in_order
from richsem_train.results.official_lvis import official_score
from richsem_train.results.protocols import Limits
from richsem_train.results.rank_files import merge_detections, rank_file, write_detections
from richsem_train.run.distributed import Ranks

ALL_PAIRS = 2**31 - 1
"""Of a picture: more than any detector has of boxes and classes."""


@dataclass(frozen=True, eq=False)
class SplitScores:
    """How well the objects of a split are detected.

    Attributes:
        metrics: by name, of `evaluation.score`.
        class_aps: float64 [K], of its categories by ascending id, see `class_scores.class_aps`; None from the official
            evaluator.
    """

    metrics: dict[str, float]
    class_aps: NDArray[np.float64] | None = None


def evaluate_split(
    detector: BatchDetector,
    split: ScoredSplit,
    truth: GroundTruth,
    folder: Path,
    *,
    config: EvaluationConfig,
    workers: int,
    ranks: Ranks,
    reporter: Reporter,
    scorer: Scorer = "hotcoco",
    limits: Limits | None = None,
) -> SplitScores | None:
    """Detect each rank's share of a split into `folder`, and score all of it on the first.

    All ranks call this, with the same folder. `lvis`, the official evaluator, is for annotations that
    `require_official` lets pass. `limits` are those of the config where they are None.

    Returns:
        The figures; None on all ranks but the first.
    """
    limits = limits or Limits(config.detections)
    detector = replace(detector, keep=ALL_PAIRS if limits.of_picture is None else limits.of_picture)
    own = slice(ranks.rank, None, ranks.world_size)
    share = range(len(split.data))[own]
    dataset = EvaluationDataset(split.data, short_side=detector.short_side, longest_side=detector.longest_side)
    divisor = detector.model.size_divisor
    sizes_hw = [
        resized_hw((height, width), detector.short_side, detector.longest_side)
        for height, width in split.data.hws_px[own].tolist()
    ]
    loader = DataLoader(
        Subset[Sample](dataset, share),
        batch_sampler=batches_of_like_size(sizes_hw, batch_size=config.batch_size, size_divisor=divisor),
        num_workers=workers,
        collate_fn=partial(collate_alike, size_divisor=divisor),
        pin_memory=detector.normalise.mean.device.type == "cuda",
    )

    def detected() -> Iterator[tuple[int, PictureDetections]]:
        found_in_all = detect_all(detector, chain.from_iterable(loader), are_relative=split.data.are_relative)
        for done, (image_id, found) in enumerate(found_in_all, start=1):
            yield image_id, _in_ids(found, split)
            reporter.move(done)

    reporter.begin("evaluating", len(share))
    image_ids = split.data.image_ids[own].tolist()
    if limits.of_category is None:
        counting = in_order(detected(), image_ids)
    else:
        counting = best_of_categories(detected(), image_ids, limits.of_category)
    write_detections(rank_file(folder, ranks.rank), counting)
    reporter.end()
    ranks.wait()
    if not ranks.is_first:
        return None
    merged = merge_detections([rank_file(folder, rank) for rank in range(ranks.world_size)], truth.image_ids.tolist())
    if limits.of_category is not None and (note := _few_note(merged, truth, limits.of_category)):
        reporter.say(note)
    return _scores(truth, merged, limits, scorer)


def _scores(truth: GroundTruth, found: Detections, limits: Limits, scorer: Scorer) -> SplitScores:
    bounds = {"max_detections": limits.of_picture, "max_of_category": limits.of_category}
    if scorer == "lvis":
        return SplitScores(official_score(truth, found, **bounds))
    evaluator = evaluated(truth, numbered(truth, found, **bounds), max_detections=limits.of_picture)
    return SplitScores(metrics_of(truth, evaluator), class_aps(evaluator))


def _few_note(found: Detections, truth: GroundTruth, wanted: int) -> str | None:
    """Where classes have fewer detections than their limit: figures of detectors that give more are higher."""
    known, counts = np.unique(found.category_ids, return_counts=True)
    counted = dict(zip(known.tolist(), counts.tolist(), strict=True))
    numbers = [counted.get(category, 0) for category in truth.category_ids.tolist()]
    few = sum(number < wanted for number in numbers)
    if not few:
        return None
    return (
        f"{few:,} of {len(numbers):,} classes have fewer than {wanted:,} detections (at least {min(numbers):,}): all "
        "that the detector gave"
    )


def _in_ids(found: PictureDetections, split: ScoredSplit) -> PictureDetections:
    """Rows of the vocabulary as ids of the annotations; what is no category of theirs can't count."""
    in_ids = replace(found, category_ids=split.category_ids[found.category_ids])
    return in_ids[in_ids.category_ids != NO_CATEGORY]
