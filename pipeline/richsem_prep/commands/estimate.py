"""`richsem-prep estimate`."""

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from richsem_prep.shard.config import ShardConfig
from richsem_schemas.command_line import AsJson, figures, print_json
from richsem_schemas.io.words import readable_bytes
from richsem_schemas.options import with_options_of_models

if TYPE_CHECKING:
    from richsem_prep.shard.estimate import Estimate

_PANEL = "Estimate"


# Labels alone for a cache take as long as those of the raw data that it was made of.
@partial(with_options_of_models, without={"from_cache"})
def estimate(
    config: ShardConfig,
    samples: Annotated[int, typer.Option(min=1, help="Pictures to measure.", rich_help_panel=_PANEL)] = 256,
    seconds: Annotated[
        float, typer.Option(min=1, help="Measure no more pictures after so much time.", rich_help_panel=_PANEL)
    ] = 120.0,
    as_json: AsJson = False,
) -> None:
    """Say what `shard` with the same options would take: bytes, device hours, wall time.

    Makes a cache of some pictures, drawn from all, in a temporary folder;
    nothing is written into OUT. Says also after how many training runs the
    cache has paid for itself against a teacher inside of the training step.

    [bold]Example[/bold]

      richsem-prep estimate --dataset lvis --teacher ViT-L-14:openai --workers 8
    """
    from richsem_prep.console import ConsoleReporter
    from richsem_prep.executors.make_executor import make_executor
    from richsem_prep.shard.estimate import estimate as measure

    with ConsoleReporter(Console(stderr=True)) as reporter:
        found = measure(config, reporter, make_executor, samples=samples, seconds=seconds)
    if as_json:
        hours = {workers: found.hours_with(workers) for workers in _workers_told(found)}
        print_json(figures(found) | {"hours_with_workers": hours})
    else:
        Console().print(estimate_table(found))


def _workers_told(e: "Estimate") -> tuple[int, ...]:
    return (e.workers,) if e.workers else (1, 4, 16)


def estimate_table(e: "Estimate") -> Table:
    """The figures in words, a row each."""
    table = Table(show_header=False, box=None)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    bad = f", {e.quarantined:,} of them unreadable" if e.quarantined else ""
    table.add_row("measured", f"{e.measured:,} pictures{bad}, in {e.measured_seconds:,.1f} s on {e.device}")
    shards = f"{e.shards:,} shard{'s' * (e.shards > 1)}"
    table.add_row("run", f"{e.pictures:,} pictures in {shards}: {e.views:,.0f} views, {e.regions:,.0f} regions")
    parts = ((e.picture_bytes, "pictures"), (e.label_bytes, "labels"), (e.listing_bytes, "plan"))
    table.add_row(
        "OUT", f"{readable_bytes(e.bytes)}: {', '.join(f'{readable_bytes(n)} of {what}' for n, what in parts)}"
    )
    table.add_row("device time", f"{_hours(e.device_hours)}, {_hours(e.teacher_hours)} of it the teacher's")
    for workers in _workers_told(e):
        each = f"{workers} worker{'s' * (workers > 1)}"
        idle = f"; a worker makes whole shards, so {shards} keep no more busy" if workers > e.shards else ""
        table.add_row(f"with {each}", f"{_hours(e.hours_with(workers))}, if each has a device like this one{idle}")
    table.add_row("start-up", f"{e.start_seconds:,.1f} s here: listing, teacher, text")
    one_run = f"{_hours(e.teacher_hours)} / {e.passes} passes x {e.shows} times that a run shows a picture"
    table.add_row("online teacher", f"{_hours(e.online_hours)} in each training run that has it inside: {one_run}")
    costs = f"{_hours(e.device_hours)} once, {_hours(e.online_hours)} a run"
    table.add_row("pays for itself", f"after {e.runs_to_pay:,.2f} training runs: {costs}")
    return table


def _hours(hours: float) -> str:
    if hours >= 1:
        return f"{hours:,.1f} h"
    return f"{hours * 60:.1f} min" if hours * 60 >= 1 else f"{hours * 3600:.1f} s"
