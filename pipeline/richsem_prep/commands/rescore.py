"""`richsem-prep rescore`."""

from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.text import Text

from richsem_schemas.errors import RichSemError


def rescore(
    out: Annotated[str, typer.Argument(metavar="OUT", help="Folder or URL of the cache.")],
    labels: Annotated[str, typer.Option(help="Name of the new label set.")],
    text: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Folder made by `richsem-prep text`. \\[default: the text of the set it starts from]"
        ),
    ] = None,
    source: Annotated[
        str | None, typer.Option("--from", help="Label set with the embeddings; needed where several have some.")
    ] = None,
    temperature: Annotated[
        float, typer.Option(help="Divides the teacher's logits: above 1 labels are softer, below harder.")
    ] = 1.0,
    top_k: Annotated[
        int | None, typer.Option(min=1, help="Classes kept in each soft label. \\[default: as in the set]")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Shards at a time. \\[default: one a core]")] = None,
) -> None:
    """Make a label set from the embeddings of another: another vocabulary, other prompts, another temperature.

    No teacher and no picture is touched; views and keys stay the same. The new set
    holds top-k labels and no embeddings, for caches meant to be small. The same
    command run again does what is missing.

    [bold]Examples[/bold]

      richsem-prep text --teacher RN50:openai --names coco --out text/coco
      richsem-prep rescore caches/inet-lvis --text text/coco --labels coco

      richsem-prep rescore caches/inet-lvis --temperature 2 --labels soft
      richsem-prep rescore caches/inet-lvis --top-k 16 --labels small
    """
    from richsem_prep.progress_bar import counting_bar
    from richsem_prep.rescore.rescore import rescore as run
    from richsem_schemas.cache.manifest import SetName, Temperature
    from richsem_schemas.io.places import open_place
    from richsem_schemas.io.words import readable_bytes

    _check("--labels", labels, SetName)
    _check("--temperature", temperature, Temperature)
    with counting_bar(Console(stderr=True), "rescore", "regions") as on_progress:
        made = run(
            open_place(out).absolute(),
            labels=labels,
            text=None if text is None else open_place(text),
            source=source,
            temperature=temperature,
            top_k=top_k,
            threads=threads,
            on_progress=on_progress,
        )
    regions = sum(receipt.summary.regions for receipt in made.receipts)
    size = sum(receipt.summary.tar.bytes for receipt in made.receipts)
    new = len(made.receipts) - made.already
    typer.echo(
        f"label set {labels} from the embeddings of {made.source}: {made.spec.text.vocabulary}, "
        f"{made.spec.text.classes:,} classes, top {made.spec.top_k}, temperature {made.spec.temperature:g}"
    )
    typer.echo(
        f"{regions:,} regions in {len(made.receipts)} shards, {readable_bytes(size)}, "
        f"{size / max(regions, 1):,.0f} bytes a region; {new} made in {made.seconds:.1f} s, "
        f"{made.already} there before"
    )
    if made.warning:
        Console(stderr=True).print(Text(f"warning: {made.warning}"), soft_wrap=True)


def _check(option: str, value: object, kind: Any) -> None:
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise RichSemError(f"{option} {value!r}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
