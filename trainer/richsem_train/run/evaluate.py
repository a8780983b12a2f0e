"""The detector of a run is scored on its val split."""

from richsem_train.console import Reporter
from richsem_train.results.scoring import detect_split, score_split
from richsem_train.run.assemble import AssembledRun
from richsem_train.run.build import ready_detector
from richsem_train.run.folder import RunFolder


def evaluate_run(run: AssembledRun, folder: RunFolder, reporter: Reporter) -> dict[str, float] | None:
    """Detect on all ranks and score on the first.

    Returns:
        Metrics by name; None on all ranks but the first.
    """
    evaluation = run.config.evaluation
    detect_split(
        ready_detector(run.scored_detector, run.info, run.ranks.device),
        run.data.val,
        evaluation,
        folder.detections,
        workers=run.config.workers,
        ranks=run.ranks,
        reporter=reporter,
    )
    if not run.ranks.is_first:
        return None
    return score_split(
        run.truth, run.data.val.data, folder.detections, ranks=run.ranks, detections=evaluation.detections
    )
