"""`python -m benchmarks.evidence`: make what is missing of the experiment, then write its page; see `make evidence`."""

import os
import signal
from collections.abc import Sequence
from threading import Event
from typing import Annotated

import typer

from benchmarks.evidence import page, run, world
from benchmarks.evidence.arms import ARMS
from benchmarks.evidence.label_sets import DATA
from richsem_schemas.command_line import new_program, run_program
from richsem_train.commands.train import STOPPED


def main(
    hours: Annotated[float, typer.Option(help="Processor hours that all runs may take together.")] = 16.0,
    jobs: Annotated[int | None, typer.Option(help="Runs at a time. [default: one a core]")] = None,
    arm: Annotated[list[str] | None, typer.Option(help="Runs of this arm alone; may be given several times.")] = None,
) -> None:
    """Go on with the experiment: label sets, runs by tiers, each run's figures as it ends, and the page at last.

    The page is written after each run. Ctrl-C or SIGTERM stops the runs at hand; the same command goes on with them.
    """
    _require_arms(arm or [])
    stop = Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: stop.set())
    world.draw(DATA / "evidence")
    run.keep_world()
    page.main()
    jobs = jobs or len(os.sched_getaffinity(0))
    runner = run.Runner(budget_hours=hours, jobs=jobs, stop=stop, on_done=page.main)
    runner.run_all(each for each in run.planned() if not arm or each.arm.name in arm)
    if stop.is_set():
        typer.echo("stopped; the same command goes on", err=True)
        raise typer.Exit(STOPPED)


def _require_arms(names: Sequence[str]) -> None:
    known = [arm.name for arm in ARMS]
    if unknown := [name for name in names if name not in known]:
        raise typer.BadParameter(f"{', '.join(unknown)}: no such arm; they are {', '.join(known)}", param_hint="--arm")


app = new_program("evidence")
app.command()(main)

if __name__ == "__main__":
    run_program(app)
