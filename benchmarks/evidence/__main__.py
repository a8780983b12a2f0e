"""`python -m benchmarks.evidence`: make what is missing of the experiment, then write its page; see `make evidence`."""

import os
import signal
from threading import Event
from typing import Annotated

import typer

from benchmarks.evidence import page, run, world
from benchmarks.evidence.label_sets import DATA


def main(
    hours: Annotated[float, typer.Option(help="Processor hours that all runs may take together.")] = 16.0,
    jobs: Annotated[int | None, typer.Option(help="Runs at a time. [default: one a core]")] = None,
    arm: Annotated[list[str] | None, typer.Option(help="Runs of this arm alone; may be given several times.")] = None,
) -> None:
    """Go on with the experiment: label sets, runs by tiers, each run's figures as it ends, and the page at last.

    The page is written after each run. Ctrl-C or SIGTERM stops the runs at hand; the same command goes on with them.
    """
    stop = Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: stop.set())
    world.draw(DATA / "evidence")
    run.keep_world()
    page.main()
    jobs = jobs or len(os.sched_getaffinity(0))
    runner = run.Runner(budget_hours=hours, jobs=jobs, stop=stop, on_done=page.main)
    try:
        runner.run_all(each for each in run.planned() if not arm or each.arm.name in arm)
    except run.FailedError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    typer.run(main)
