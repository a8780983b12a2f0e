"""Where a run stands, as a checkpoint, and back."""

from pathlib import Path

from richsem_schemas.errors import RichSemError
from richsem_train.run.assemble import AssembledRun
from richsem_train.run.checkpoint import Checkpoint

_LABELS_OF = {
    "extra": "the extra data",
    "detection": "the cache of the detection pictures",
    "text": "text.folder",
}


def checkpoint_of(run: AssembledRun, *, step: int, best_ap: float, with_optimiser: bool) -> Checkpoint:
    """A run after `step` steps; without its optimiser it can't go on, and weighs a third."""
    averaged = run.trainer.averaged
    return Checkpoint(
        run.info,
        run.detector.state_dict(),
        None if averaged is None else averaged.state_dict(),
        run.trainer.optimiser.state_dict() if with_optimiser else {},
        step,
        best_ap,
        run.data.fingerprints,
    )


def restore(run: AssembledRun, saved: Checkpoint, path: Path) -> None:
    """Put a run where a checkpoint stands.

    Args:
        run: of the same config.
        saved: the checkpoint.
        path: where it was read from, for messages.

    Raises:
        RichSemError: it is of another architecture, or of a run that learnt from other labels.
    """
    try:
        run.detector.load_state_dict(saved.model)
        if run.trainer.averaged is not None and saved.averaged is not None:
            run.trainer.averaged.load_state_dict(saved.averaged)
        run.trainer.optimiser.load_state_dict(saved.optimiser)
    except (RuntimeError, ValueError, KeyError) as error:
        raise RichSemError(
            f"{path}: a checkpoint of another architecture ({' '.join(str(error).split())[:300]})"
        ) from None
    _require_same_labels(saved.fingerprints, run.data.fingerprints)


def _require_same_labels(before: dict[str, str], now: dict[str, str]) -> None:
    for section in sorted(before.keys() | now.keys()):
        if before.get(section) != now.get(section):
            raise RichSemError(
                f"{_LABELS_OF.get(section, section)} is another label set than the run began with: its fingerprint is "
                f"{now.get(section)}, it was {before.get(section)}; give the cache it began with, or name another --out"
            )
