"""Arguments and options that several commands take."""

from typing import Annotated

import typer

Out = Annotated[str, typer.Argument(metavar="OUT", help="Folder of the cache, or its URL.")]
Repo = Annotated[str, typer.Argument(metavar="REPO", help="Dataset repository: ORGANISATION/NAME.")]
LabelSet = Annotated[str | None, typer.Option(help="Name of the label set; needed where there are several.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Shards at a time. \\[default: one a core]")]
Originals = Annotated[
    str | None,
    typer.Option(
        "--root",
        help="Where originals lie, for a cache that refers to them. \\[default: where they lay when it was made]",
    ),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, … \\[default: CUDA if there is one]")]
