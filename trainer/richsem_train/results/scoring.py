"""A detector's score on a split: each rank detects its share, the first scores all of it once."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from torch.utils.data import DataLoader, Subset

from richsem_schemas.annotations import DetectionData
from richsem_train.config import EvaluationConfig
from richsem_train.console import Reporter
from richsem_train.data.category_rows import NO_CATEGORY, ScoredSplit
from richsem_train.data.collate import Sample, collate
from richsem_train.data.detection import EvaluationDataset
from richsem_train.results.detections import DetectionWriter, PictureDetections, merge_detections, rank_file
from richsem_train.results.evaluation import GroundTruth, score
from richsem_train.results.inference import Detector, detect_all
from richsem_train.results.official_lvis import official_score
from richsem_train.run.distributed import Ranks
from richsem_train.targets import Batch

Scorer = Literal["hotcoco", "lvis"]


def detect_split(
    detector: Detector,
    split: ScoredSplit,
    config: EvaluationConfig,
    folder: Path,
    *,
    workers: int,
    ranks: Ranks,
    reporter: Reporter,
) -> None:
    """Write this rank's detections of a split into `folder`, and wait for the other ranks."""
    loader = evaluation_loader(split.data, config, workers=workers, ranks=ranks)
    reporter.begin("evaluating", len(range(ranks.rank, len(split.data), ranks.world_size)))
    found_in_all = detect_all(detector, loader, are_relative=split.data.are_relative)
    with DetectionWriter(rank_file(folder, ranks.rank)) as writer:
        for done, (image_id, found) in enumerate(found_in_all, start=1):
            writer.add(image_id, _in_ids(found, split))
            reporter.move(done)
    reporter.end()
    ranks.wait()


def _in_ids(found: PictureDetections, split: ScoredSplit) -> PictureDetections:
    """Rows of the vocabulary as ids of the annotations; what is no category of theirs can't count."""
    category_ids = split.category_ids[found.category_ids]
    kept = category_ids != NO_CATEGORY
    return PictureDetections(category_ids[kept], found.boxes_xyxy_px[kept], found.scores[kept])


def score_split(
    truth: GroundTruth,
    data: DetectionData,
    folder: Path,
    *,
    ranks: Ranks,
    detections: int,
    scorer: Scorer = "hotcoco",
) -> dict[str, float]:
    """Merge what all ranks wrote and score it once.

    Args:
        truth: the annotations.
        data: the same, for the ids of all pictures.
        folder: where `detect_split` wrote.
        ranks: how many did.
        detections: that count, a picture.
        scorer: what computes it; `lvis` is the official evaluator, for annotations that `require_official` lets pass.
    """
    merged = merge_detections(
        [rank_file(folder, rank) for rank in range(ranks.world_size)], set(data.image_ids.tolist())
    )
    compute = official_score if scorer == "lvis" else score
    return compute(truth, merged, max_detections=detections)


def evaluation_loader(data: DetectionData, config: EvaluationConfig, *, workers: int, ranks: Ranks) -> Iterable[Batch]:
    """This rank's pictures of a split, in order."""
    dataset = EvaluationDataset(data, short_side=config.short_side, longest_side=config.longest_side)
    return DataLoader(
        Subset[Sample](dataset, range(ranks.rank, len(data), ranks.world_size)),
        batch_size=config.batch_size,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=ranks.device.type == "cuda",
    )
