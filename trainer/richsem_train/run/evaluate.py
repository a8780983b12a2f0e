"""Scoring a detector on a split, by all ranks together."""

from pathlib import Path

from richsem_train.config import EvaluationConfig
from richsem_train.console import Reporter
from richsem_train.data.category_rows import ScoredSplit
from richsem_train.results.detections import rank_file
from richsem_train.results.evaluation import GroundTruth
from richsem_train.results.inference import BatchDetector
from richsem_train.results.scoring import Scorer, detect_share, score_shares
from richsem_train.run.distributed import Ranks


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
) -> dict[str, float] | None:
    """Detect each rank's share of a split into `folder`, and score all of it on the first.

    Args:
        detector: on each rank.
        split: what it is shown.
        truth: its annotations.
        folder: the same for all ranks.
        config: pictures a batch, and how many detections count.
        workers: processes that read pictures.
        ranks: all of them call this.
        reporter: watches.
        scorer: what computes the figures.

    Returns:
        Figures by name; None on all ranks but the first.
    """
    share = range(ranks.rank, len(split.data), ranks.world_size)
    reporter.begin("evaluating", len(share))
    detect_share(
        detector,
        split,
        share,
        rank_file(folder, ranks.rank),
        batch_size=config.batch_size,
        workers=workers,
        on_picture=reporter.move,
    )
    reporter.end()
    ranks.wait()
    if not ranks.is_first:
        return None
    return score_shares(truth, folder, ranks.world_size, max_detections=config.detections, scorer=scorer)
