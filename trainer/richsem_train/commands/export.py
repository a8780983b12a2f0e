"""`richsem-train export`."""

from pathlib import Path
from typing import Annotated

import typer

from richsem_schemas.command_line import AsJson, figures, print_json
from richsem_schemas.io.places import local_path
from richsem_train.commands.options import Checkpoint


def export(
    checkpoint: Checkpoint,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="The file to write. \\[default: beside it, NAME.safetensors]", parser=local_path
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write inference weights as safetensors: averaged ones where there are any, without the semantic branch.

    [bold]Example[/bold]

      richsem-train export runs/demo/checkpoints/best.pt
    """
    from richsem_train.run.named_files import require_checkpoint

    require_checkpoint(checkpoint)
    from richsem_train.detector_tasks import export_checkpoint

    path = out or checkpoint.with_suffix(".safetensors")
    written = export_checkpoint(checkpoint, path)
    size = path.stat().st_size
    if as_json:
        print_json({"out": path, **figures(written), "bytes": size})
    else:
        typer.echo(f"{path}: {written.tensors} tensors, {written.parameters:,} parameters, {size:,} bytes")
