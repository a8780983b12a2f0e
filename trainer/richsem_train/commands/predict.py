"""`richsem-train predict`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from richsem_schemas.command_line import AsJson, figures, print_json
from richsem_schemas.errors import RichSemError
from richsem_schemas.io.places import local_path
from richsem_schemas.io.words import printable_text
from richsem_train.commands.options import Changes, Checkpoint, Device, PublishedConfig

if TYPE_CHECKING:
    from richsem_train.results.compare_detectors import Compared
    from richsem_train.results.gallery import Predicted


def predict(
    checkpoint: Checkpoint,
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGES",
            help="Pictures: files, folders of any depth, patterns such as 'photos/**/*.jpg'.",
            parser=local_path,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="PATH",
            help="Folder for the pictures with boxes, predictions.json and coco_results.json.",
            parser=local_path,
        ),
    ],
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Lowest score that is drawn.")] = 0.3,
    annotations: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Annotations of these pictures, whose ids coco_results.json has; else pictures are numbered in order.",
            parser=local_path,
        ),
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(
            metavar="CHECKPOINT",
            help="Draw what this one finds beside it, with arrows at what only one of the two found.",
            parser=local_path,
        ),
    ] = None,
    config: PublishedConfig = None,
    compare_config: Annotated[str | None, typer.Option(help="The same for the checkpoint of --compare.")] = None,
    changes: Changes = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Detect objects: pictures with boxes, names and scores, rare classes of LVIS in a colour of their own; JSON too.

    coco_results.json is for COCO's and LVIS's tools; coco_images.json says which pictures and classes its ids are.

    With --compare, rare classes are red and all others dark; --set and --threshold are for both checkpoints.

    [bold]Examples[/bold]

      richsem-train predict runs/demo/checkpoints/best.pt photo.jpg --out seen
      richsem-train predict runs/demo/checkpoints/best.pt photos/ --out seen
      richsem-train predict runs/a/checkpoints/best.pt *.jpg --compare runs/b/checkpoints/best.pt --out compared
    """
    if compare_config is not None and compare is None:
        raise RichSemError("--compare-config is of the checkpoint that --compare names; name one")
    if annotations is not None and compare is not None:
        raise RichSemError("--annotations is for the results of one checkpoint; leave it or --compare out")
    _require_checkpoints((checkpoint, config), (compare, compare_config))
    from richsem_train.console import ConsoleReporter
    from richsem_train.detector_tasks import compare_on_pictures, show_pictures
    from richsem_train.results.compare_detectors import Compared

    outcome: Predicted
    with ConsoleReporter(Console(stderr=True)) as reporter:
        if compare is None:
            outcome = show_pictures(
                checkpoint,
                images,
                out,
                threshold=threshold,
                annotations=annotations,
                config=config,
                changes=changes or [],
                device=device,
                reporter=reporter,
            )
        else:
            outcome = compare_on_pictures(
                (checkpoint, compare),
                images,
                out,
                threshold=threshold,
                configs=(config, compare_config),
                changes=changes or [],
                device=device,
                reporter=reporter,
            )
    if as_json:
        print_json({"out": out, **figures(outcome)})
    else:
        if isinstance(outcome, Compared):
            _print_found(outcome)
        typer.echo(_written(out, outcome))
    if outcome.failed:
        raise RichSemError(f"{len(outcome.failed)} pictures couldn't be read (see above); the rest is in {out}")


def _require_checkpoints(*configured: tuple[Path | None, str | None]) -> None:
    """Look for checkpoints before torch is loaded; those with a config are weights of other programs."""
    from richsem_train.run.named_files import require_checkpoint

    for checkpoint, config in configured:
        if checkpoint is not None and config is None:
            require_checkpoint(checkpoint)


def _written(out: Path, outcome: "Predicted") -> str:
    written = f"{out}: {len(outcome.pictures)} pictures and predictions.json"
    if (number := outcome.number_for_name) is not None:
        written += f"; {number} and the like stand for names that no font has, predictions.json has them"
    return written


def _print_found(outcome: "Compared") -> None:
    from richsem_train.results.found_tables import found_line, found_table

    for path, found in zip(outcome.pictures, outcome.found_in, strict=True):
        typer.echo(printable_text(f"{path.name}: {found_line(found, outcome.a, outcome.b)}"))
    Console().print(found_table(outcome.found, outcome.a, outcome.b))
