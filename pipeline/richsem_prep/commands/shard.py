"""`richsem-prep shard`."""

from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from richsem_prep.shard.config import ShardConfig
from richsem_schemas.command_line import AsJson, print_json
from richsem_schemas.errors import RichSemError
from richsem_schemas.options import with_options_of_models

if TYPE_CHECKING:
    from richsem_prep.shard.run import RunSummary


@with_options_of_models
def shard(config: ShardConfig, as_json: AsJson = False) -> None:
    """Make a cache, or go on with one: pictures, views, embeddings, soft labels.

    The same command run again does what is missing. Another teacher or other
    views, under another --label-set, add a label set and touch no picture.

    [bold]Examples[/bold]

      From $RICHSEM_DATA/inet-lvis to caches/inet-lvis; then a trial:
      richsem-prep shard --dataset inet-lvis
      richsem-prep shard --dataset inet-lvis --limit 2000 --out caches/trial

      Detection data, which stays where it is; four windows of each picture:
      richsem-prep shard --dataset lvis --root /data/lvis --windows 4
      richsem-prep shard --dataset coco --annotations instances_val2017.json

      Each picture once more as in evaluation, and boxes that miss a little:
      richsem-prep shard --dataset lvis --whole --jitters 4 --noise 0.1,0.3

      Windows of large-scale jitter, for detectors that are trained with it:
      richsem-prep shard --dataset lvis --scale-jitter 640,0.1,2

      Another teacher on the same pictures, by open_clip's name or a file:
      richsem-prep shard --dataset inet-lvis --teacher ViT-L-14:openai
      richsem-prep shard --dataset inet-lvis --teacher RN50-quickgelu:w.pt

      The same, but the labels in a folder of their own:
      richsem-prep shard --from-cache caches/inet-lvis --out caches/again

      Without Ray; on a cluster; as one of several jobs, then `finish`:
      richsem-prep shard --dataset demo --executor inline
      richsem-prep shard --dataset inet-lvis --ray-address auto
      richsem-prep shard --dataset inet-lvis --shard-range 0:100

      To a bucket (docs/places.md):
      richsem-prep shard --dataset inet-lvis --out s3://BUCKET/inet-lvis
    """
    from richsem_prep.console import ConsoleReporter
    from richsem_prep.executors.make_executor import make_executor
    from richsem_prep.shard import run

    errors = Console(stderr=True)
    try:
        with ConsoleReporter(errors) as reporter:
            summary = run.shard(config, reporter, make_executor)
    except KeyboardInterrupt:
        errors.print("interrupted; finished shards are kept, the same command goes on from there")
        raise typer.Exit(130) from None
    if as_json:
        print_json(summary_figures(summary))
    else:
        Console().print(summary_table(summary))
    if summary.failed:
        raise RichSemError(
            f"{len(summary.failed)} shards failed (see above); the rest is kept. Mend the cause and run the same "
            "command again"
        )
    if summary.complete and not summary.pictures:
        raise RichSemError(
            f"{config.out} holds not one picture: all were set aside, for the reasons in {config.out}/quarantine; see "
            "whether --root and --dataset are right, mend the pictures and run again with --retry-failed"
        )
    if config.shard_range and not as_json:
        first, last = config.shard_range
        typer.echo(f"Shards {first}:{last} are done; when all are: richsem-prep finish {config.out}")


def summary_figures(summary: "RunSummary") -> dict[str, Any]:
    """The figures of a run, in bytes and seconds: all but `left_out` and `already` of the shards that it made."""
    made, results = summary.summaries, summary.results.values()
    return {
        "out": str(summary.layout.out),
        "label_set": summary.label_set,
        "complete": summary.complete,
        "shards": len(results),
        "already": summary.already,
        "failed": summary.failed,
        "pictures": sum(item.samples for item in made),
        "quarantined": sum(result.quarantined for result in results),
        "left_out": summary.left_out,
        "views": sum(item.views for item in made),
        "regions": sum(item.regions for item in made),
        "label_bytes": sum(item.tar.bytes for item in made),
        "picture_bytes": sum(result.picture_bytes for result in results),
        "start_seconds": summary.start_seconds,
        "work_seconds": summary.work_seconds,
        "workers": summary.workers,
        "stage_seconds": summary.stage_seconds,
    }


def summary_table(summary: "RunSummary") -> Table:
    """The figures in words, with rates."""
    made = summary_figures(summary)
    pictures, regions, work = made["pictures"], made["regions"], summary.work_seconds
    whole = summary.start_seconds + work
    table = Table(title=f"label set {summary.label_set}", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_row("shards", f"{made['shards']} made, {summary.already} there before, {len(summary.failed)} failed")
    table.add_row("pictures", f"{pictures:,}")
    table.add_row("quarantined", f"{made['quarantined']:,}")
    if summary.left_out:
        table.add_row("left out of the listing", f"{summary.left_out:,}")
    table.add_row("views", f"{made['views']:,}")
    table.add_row("regions", f"{regions:,}")
    if regions:
        labels, each = made["label_bytes"] / regions, made["picture_bytes"] / pictures
        table.add_row("bytes", f"{labels:,.0f} a region, {each:,.0f} a picture")
        table.add_row("throughput", f"{regions / work:,.1f} regions/s, {pictures / work:,.1f} pictures/s")
        table.add_row("with start-up", f"{regions / whole:,.1f} regions/s, {pictures / whole:,.1f} pictures/s")
    table.add_row("start-up", f"{summary.start_seconds:,.1f} s")
    table.add_row("work", f"{work:,.1f} s, {summary.workers} worker{'s' * (summary.workers > 1)}")
    for stage, seconds in summary.stage_seconds.items():
        table.add_row(f"  {stage}", f"{seconds:,.1f} s")
    return table
