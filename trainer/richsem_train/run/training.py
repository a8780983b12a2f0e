"""`richsem-train`: from a config to a trained detector in OUT."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console

from richsem_schemas.errors import RichSemError
from richsem_schemas.io.output_files import FullDiskError
from richsem_schemas.io.places import local_path
from richsem_train.config import TrainConfig, as_config
from richsem_train.console import ConsoleReporter, Reporter, SilentReporter
from richsem_train.run.assemble import AssembledRun, assemble, rank_shares
from richsem_train.run.checkpoint import Checkpoint, load_checkpoint
from richsem_train.run.distributed import Ranks, join_ranks
from richsem_train.run.folder import RunFolder
from richsem_train.run.log import RunLogWriter, forget_after
from richsem_train.run.loop import TrainingLoop
from richsem_train.run.notes import opening_notes
from richsem_train.run.open_data import RunData, open_data
from richsem_train.run.outcome import TrainedRun, write_results
from richsem_train.run.picture_check import Pictures, require_pictures
from richsem_train.run.signals import StopRequest, stop_requests
from richsem_train.run.step_log import StepLog

Assembler = Callable[[TrainConfig, RunData, Ranks], AssembledRun]
"""Makes the parts of a run, as `assemble` does."""


def train(
    config: TrainConfig | Mapping[str, Any] | str | Path,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    device: str | None = None,
    reporter: Reporter | None = None,
) -> TrainedRun:
    """Train a detector, or go on with a run; the same as `richsem-train`.

    In the main thread SIGTERM and Ctrl-C end the run after the step at hand, with a checkpoint; a second Ctrl-C
    interrupts at once. Started by torchrun, this process is one of several ranks.

    Args:
        config: validated; or the name of one that comes with the package, or the path of a YAML file; or values as YAML
            has them, over those of a config that `base` names, such as
            `{"base": "demo", "name": "trial", "schedule": {"epochs": 4}}`.
        out: folder of the run: checkpoints, log, results. None is runs/NAME.
        resume: go on with the run in `out` from its last checkpoint; only what doesn't touch its weights may differ.
        device: `cpu`, `cuda`, `cuda:1`, `mps`; None is CUDA where there is one, else MPS, else the CPU.
        reporter: told of progress; None shows a bar on standard error. `richsem_train.console.SilentReporter()`
            says nothing.

    Returns:
        The run's folder and figures.

    Raises:
        RichSemError: something that the user can mend; the message names value, rule and remedy.
    """
    return train_assembled_by(assemble, config, out, resume=resume, device=device, reporter=reporter)


def train_assembled_by(
    assembler: Assembler,
    config: TrainConfig | Mapping[str, Any] | str | Path,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    device: str | None = None,
    reporter: Reporter | None = None,
) -> TrainedRun:
    """`train` with parts of the run made by `assembler`; for comparisons that differ in what a step does."""
    settings = as_config(config)
    watching = ConsoleReporter(Console(stderr=True)) if reporter is None else nullcontext(reporter)
    with watching as watcher, join_ranks(device) as ranks, stop_requests() as stop:
        folder = RunFolder(Path("runs") / settings.name if out is None else local_path(out))
        heard = watcher if ranks.is_first else SilentReporter()
        return _train(assembler, settings, folder, ranks, stop, heard, resume=resume)


def _train(
    assembler: Assembler,
    config: TrainConfig,
    folder: RunFolder,
    ranks: Ranks,
    stop: StopRequest,
    reporter: Reporter,
    *,
    resume: bool,
) -> TrainedRun:
    # A batch that can't be shared out is refused before anything is read.
    rank_shares(config.schedule, ranks)
    with folder.held(config, ranks, resume=resume):
        saved = load_checkpoint(folder.last) if resume and folder.last.is_file() else None
        data = open_data(config)
        _require_pictures(config, data, ranks, reporter)
        run = assembler(config, data, ranks)
        # Where any rank is refused the first one writes nothing.
        ranks.wait()
        if ranks.is_first:
            folder.claim(config)
        with _full_disk_explained():
            return _train_assembled(run, folder, saved, stop, reporter)


def _require_pictures(config: TrainConfig, data: RunData, ranks: Ranks, reporter: Reporter) -> None:
    """Look for the pictures that will be read from a local folder: windows show those that their cache refers to."""
    train: Pictures | None = data.train if data.windows is None else data.windows.originals
    val = {"val": data.val.data}
    require_pictures(
        val if train is None else {"train": train, **val},
        skipping={"train"} if config.detection.on_damage == "skip" else (),
        ranks=ranks,
        reporter=reporter,
    )


@contextmanager
def _full_disk_explained() -> Iterator[None]:
    try:
        yield
    except FullDiskError as error:
        raise RichSemError(
            f"{error.filename}: {error.strerror}; free some, then go on from the last checkpoint with the same "
            "command and --resume"
        ) from None


def _train_assembled(
    run: AssembledRun, folder: RunFolder, saved: Checkpoint | None, stop: StopRequest, reporter: Reporter
) -> TrainedRun:
    first_step, best_ap = 0, -1.0
    if saved is not None:
        run.restore(saved, folder.last)
        first_step, best_ap = saved.step, saved.best_ap
    if run.ranks.is_first:
        forget_after(folder.out, first_step)
    for note in opening_notes(run, first_step):
        reporter.say(note)
    with _open_log(run, folder) as writer:
        log = StepLog(
            writer,
            reporter,
            world_size=run.ranks.world_size,
            every_steps=run.config.log.every_steps,
            total_steps=run.total_steps,
        )
        loop = TrainingLoop(run, folder, log, reporter, stop, best_ap=best_ap)
        taken = loop.take_steps(first_step)
    if stop.signal is not None and not loop.is_through(taken):
        reporter.say(f"stopped by {stop.signal} after step {taken}; the same command with --resume goes on from there")
        return TrainedRun(folder.out, stop.signal)
    if not run.ranks.is_first:
        return TrainedRun(folder.out)
    return write_results(folder, run.config.name, reporter, frequencies=run.truth.frequencies.rule)


def _open_log(run: AssembledRun, folder: RunFolder) -> AbstractContextManager[RunLogWriter | None]:
    if not run.ranks.is_first:
        return nullcontext()
    log = run.config.log
    return RunLogWriter(
        folder.out,
        tensorboard=log.tensorboard,
        wandb=log.wandb,
        name=run.config.name,
        config=run.config.model_dump(mode="json"),
    )
