"""A detector's score on a split: each rank detects its share, and all of it is scored once."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

from torch.utils.data import DataLoader, Subset

from richsem_train.data.category_rows import NO_CATEGORY, ScoredSplit
from richsem_train.data.collate import Sample, collate
from richsem_train.data.detection import EvaluationDataset
from richsem_train.results.detections import PictureDetections, merge_detections, rank_file, write_detections
from richsem_train.results.evaluation import GroundTruth, score
from richsem_train.results.inference import BatchDetector, detect_all
from richsem_train.results.official_lvis import official_score
from richsem_train.targets import Batch

Scorer = Literal["hotcoco", "lvis"]


def detect_share(
    detector: BatchDetector,
    split: ScoredSplit,
    pictures: range,
    path: Path,
    *,
    batch_size: int,
    workers: int,
    on_picture: Callable[[int], None],
) -> None:
    """Write the detections of some pictures of a split, with the category ids of its annotations.

    Args:
        detector: finds them.
        split: what it is scored on.
        pictures: their indexes in the split.
        path: of `rank_file`.
        batch_size: pictures a batch.
        workers: processes that read pictures; 0 reads in this one.
        on_picture: is told after each how many are done.
    """
    batches = _batches(detector, split, pictures, batch_size, workers)

    def found_in_all() -> Iterator[tuple[int, PictureDetections]]:
        found = detect_all(detector, batches, are_relative=split.data.are_relative)
        for done, (image_id, detections) in enumerate(found, start=1):
            yield image_id, _in_ids(detections, split)
            on_picture(done)

    write_detections(path, found_in_all())


def _batches(
    detector: BatchDetector, split: ScoredSplit, pictures: range, batch_size: int, workers: int
) -> Iterable[Batch]:
    dataset = EvaluationDataset(split.data, short_side=detector.short_side, longest_side=detector.longest_side)
    return DataLoader(
        Subset[Sample](dataset, pictures),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=detector.normalise.mean.device.type == "cuda",
    )


def _in_ids(found: PictureDetections, split: ScoredSplit) -> PictureDetections:
    """Rows of the vocabulary as ids of the annotations; what is no category of theirs can't count."""
    in_ids = replace(found, category_ids=split.category_ids[found.category_ids])
    return in_ids[in_ids.category_ids != NO_CATEGORY]


def score_shares(
    truth: GroundTruth, folder: Path, shares: int, *, max_detections: int, scorer: Scorer = "hotcoco"
) -> dict[str, float]:
    """Merge what all ranks wrote and score it.

    Args:
        truth: the annotations.
        folder: where `rank_file`s lie.
        shares: how many there are.
        max_detections: that count, a picture.
        scorer: what computes it; `lvis` is the official evaluator, for annotations that `require_official` lets pass.
    """
    merged = merge_detections([rank_file(folder, rank) for rank in range(shares)], truth.image_ids.tolist())
    compute = official_score if scorer == "lvis" else score
    return compute(truth, merged, max_detections=max_detections)
