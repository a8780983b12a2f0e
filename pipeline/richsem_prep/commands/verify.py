"""`richsem-prep verify`."""

import time
from typing import Annotated

import typer

from richsem_prep.commands.options import Out, Threads
from richsem_schemas.command_line import AsJson, figures, print_json


def verify(
    out: Out,
    label_set: Annotated[str | None, typer.Option(help="Check this label set alone. \\[default: all]")] = None,
    threads: Threads = None,
    thorough: Annotated[
        bool,
        typer.Option(
            "--thorough", help="Compute all soft labels and pictures' own hashes again, not those of a sample."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check a whole cache: every byte against its hash, every member against the index, every value's range.

    Hashes find any byte that has changed since it was written. What a writer did
    wrong is looked for in a sample of each shard, or in all with --thorough:
    soft labels that are not what their embeddings and the text give, and
    pictures that are not those that were hashed. Exits with 1 where anything is
    wrong, and says what to do about it.

    [bold]Examples[/bold]

      richsem-prep verify caches/inet-lvis
      richsem-prep verify caches/inet-lvis --thorough
    """
    from richsem_prep.console import bytes_bar
    from richsem_prep.verify.cache import problem_lines, success_line, verify_cache
    from richsem_schemas.io.places import open_place

    start, place = time.monotonic(), open_place(out)
    with bytes_bar("verify") as on_progress:
        found = verify_cache(place, label_set=label_set, threads=threads, thorough=thorough, on_progress=on_progress)
    seconds = time.monotonic() - start
    if as_json:
        print_json(figures(found) | {"seconds": seconds})
    else:
        for line in (*(f"note: {note}" for note in found.notes), *problem_lines(place, found)):
            typer.echo(line)
    if found.problems:
        raise typer.Exit(1)
    if not as_json:
        typer.echo(success_line(place, found, seconds=seconds))
