"""`richsem-train report`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from richsem_schemas.command_line import AsJson, print_json
from richsem_schemas.io.places import local_path
from richsem_train.commands.options import Device


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="OUT of a run, finished or not.", parser=local_path)],
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Compare the classes with those of this run. \\[default: its own first evaluation]",
            parser=local_path,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Folder for report.html and report.json. \\[default: RUN]", parser=local_path
        ),
    ] = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Make one page of a run's last evaluation: AP a class, kinds of error, and boxes that were missed or wrong.

    The detections that the run keeps are read; only where they are missing its last checkpoint detects again.

    [bold]Examples[/bold]

      richsem-train report runs/demo
      richsem-train report runs/demo --against runs/demo_baseline
    """
    from richsem_train.console import ConsoleReporter
    from richsem_train.detector_tasks import report_run

    with ConsoleReporter(Console(stderr=True)) as reporter:
        written = report_run(run, against=against, out=out or run, device=device, reporter=reporter)
    if as_json:
        content = written.content
        print_json(
            {
                "page": written.page,
                "report": written.file,
                **{name: content[name] for name in ("step", "metrics", "groups", "errors", "notes")},
            }
        )
    else:
        typer.echo(f"{written.page}  {written.file}")
