"""`richsem-train predict`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from richsem_schemas.command_line import AsJson, figures, print_json
from richsem_schemas.errors import RichSemError
from richsem_schemas.io.places import local_path
from richsem_train.commands.options import Changes, Checkpoint, Device, PublishedConfig


def predict(
    checkpoint: Checkpoint,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES", help="Picture files.", parser=local_path)],
    out: Annotated[
        Path,
        typer.Option(
            metavar="PATH", help="Folder for the pictures with boxes, and predictions.json.", parser=local_path
        ),
    ],
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Lowest score that is drawn.")] = 0.3,
    config: PublishedConfig = None,
    changes: Changes = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Detect objects: pictures with boxes, names and scores, rare classes of LVIS in a colour of their own; JSON too.

    [bold]Example[/bold]

      richsem-train predict runs/demo/checkpoints/best.pt photo.jpg --out seen
    """
    from richsem_train.console import ConsoleReporter
    from richsem_train.detector_tasks import show_pictures

    with ConsoleReporter(Console(stderr=True)) as reporter:
        outcome = show_pictures(
            checkpoint,
            images,
            out,
            threshold=threshold,
            config=config,
            changes=changes or [],
            device=device,
            reporter=reporter,
        )
    if as_json:
        print_json({"out": out, **figures(outcome)})
    else:
        written = f"{out}: {len(outcome.pictures)} pictures and predictions.json"
        if (number := outcome.number_for_name) is not None:
            written += f"; {number} and the like stand for names that no font has, predictions.json has them"
        typer.echo(written)
    if outcome.failed:
        raise RichSemError(f"{len(outcome.failed)} pictures couldn't be read (see above); the rest is in {out}")
