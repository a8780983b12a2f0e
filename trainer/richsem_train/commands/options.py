"""Arguments and options that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

from richsem_schemas.io.places import local_path

Checkpoint = Annotated[
    Path,
    typer.Argument(
        metavar="CHECKPOINT",
        help="Of a run, or exported, or published, by DINO, RichSem or Detic.",
        parser=local_path,
    ),
]
PublishedConfig = Annotated[
    str | None, typer.Option("--config", help="For checkpoints of other programs: the config to build the model from.")
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the config; may be given several times."),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps, … \\[default: CUDA, else MPS, else the CPU]")]
