"""What a run leaves when it ends: a file of results, curves, and the figures themselves."""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import RenderableType

from richsem_schemas.io.files import write_atomically
from richsem_schemas.scoring.metrics import is_defined, json_metrics
from richsem_train.console import Reporter
from richsem_train.results.tables import AP_UNDEFINED, results_table
from richsem_train.run.folder import RunFolder
from richsem_train.run.log import LOG_NAME, RunLog, read_log


@dataclass(frozen=True)
class Scored:
    """An evaluation of a run.

    Attributes:
        step: steps taken before it.
        metrics: by name, such as `AP` and `APr`, 0 to 1; -1 where a metric is undefined.
    """

    step: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class TrainedRun:
    """A run, through or stopped.

    Attributes:
        out: its folder; `checkpoints/best.pt` is the detector of the highest AP, `results.json` has the figures.
        stopped_by: the signal that asked it to stop, such as `SIGINT`; None where it is through.
        last: its last evaluation; this and what follows is None where it was stopped, and on all ranks but the first.
        best: the evaluation of the highest AP; None where AP is undefined, too.
        table: both, to print.
    """

    out: Path
    stopped_by: str | None = None
    last: Scored | None = None
    best: Scored | None = None
    table: RenderableType | None = None


def write_results(folder: RunFolder, name: str, reporter: Reporter, *, frequencies: str) -> TrainedRun:
    """Write results and curves of a run from its log, and say where they are.

    `frequencies` is the rule by which classes are rare, common and frequent, in words.
    """
    from richsem_train.results.plots import plot_run  # noqa: PLC0415 - matplotlib takes a second

    log = read_log(folder.out / LOG_NAME)
    last, best = _last_and_best(log)
    content = _content(log, last, best, name) | {"frequencies": frequencies}
    write_atomically(folder.results, (json.dumps(content, indent=2) + "\n").encode())
    plot_run(log.steps, log.evaluations, folder.curves, title=name)
    for note in _closing_notes(log, folder, has_best=best is not None):
        reporter.say(note)
    rows, title = {"last": last.metrics}, f"{name}, step {last.step}"
    if best is not None and best.step != last.step:
        rows["best"] = best.metrics
        title += f"; best at step {best.step}"
    return TrainedRun(folder.out, last=last, best=best, table=results_table(rows, title=title))


def _last_and_best(log: RunLog) -> tuple[Scored, Scored | None]:
    scored = [Scored(line["step"], line["metrics"]) for line in log.evaluations]
    defined = [each for each in scored if is_defined(each.metrics["AP"])]
    return scored[-1], max(defined, key=lambda each: each.metrics["AP"], default=None)


def _content(log: RunLog, last: Scored, best: Scored | None, name: str) -> dict[str, Any]:
    seconds = [line["seconds"] for line in log.steps]
    waits = [line["data_wait"] for line in log.steps]
    return {
        "config": name,
        "seconds_a_step": median(seconds) if seconds else None,
        "data_wait": median(waits) if waits else None,
        "damaged": log.damaged,
        "step": last.step,
        "metrics": json_metrics(last.metrics),
        "best_step": None if best is None else best.step,
        "best": None if best is None else json_metrics(best.metrics),
    }


def _closing_notes(log: RunLog, folder: RunFolder, *, has_best: bool) -> list[str]:
    notes = []
    if log.damaged:
        notes.append(f"{log.damaged} damaged pictures or views were replaced by others")
    if log.steps and (share := log.steps[-1].get("without_soft_label", 0.0)):
        notes.append(
            f"{share:.1%} of the boxes of detection pictures had no soft label since this start: no stored view "
            "showed the same part of them"
        )
    kept = f"best: {folder.best}" if has_best else f"last: {folder.last} ({AP_UNDEFINED})"
    return [*notes, f"results: {folder.results}  curves: {folder.curves}  {kept}"]
