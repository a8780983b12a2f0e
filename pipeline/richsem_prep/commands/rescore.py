"""`richsem-prep rescore`."""

from typing import Annotated

import typer
from pydantic import BaseModel

from richsem_prep.commands.options import Out, Threads
from richsem_schemas.cache.field_types import SetName, Temperature
from richsem_schemas.command_line import AsJson, print_json
from richsem_schemas.io.places import PlaceField
from richsem_schemas.options import with_options_of_models


class RescoreOptions(BaseModel, frozen=True, extra="forbid"):
    """The new label set, and what it differs in."""

    label_set: Annotated[SetName, typer.Option(help="Name of the new label set.")]
    text: Annotated[
        PlaceField | None,
        typer.Option(
            metavar="DIR", help="Folder made by `richsem-prep text`. \\[default: the text of the set it starts from]"
        ),
    ] = None
    source: Annotated[
        str | None, typer.Option("--from", help="Label set with the embeddings; needed where several have some.")
    ] = None
    temperature: Annotated[
        Temperature, typer.Option(help="Divides the teacher's logits: above 1 labels are softer, below harder.")
    ] = 1.0
    top_k: Annotated[
        int | None, typer.Option(min=1, help="Classes kept in each soft label. \\[default: as in the set]")
    ] = None


@with_options_of_models
def rescore(out: Out, options: RescoreOptions, threads: Threads = None, as_json: AsJson = False) -> None:
    """Make a label set from the embeddings of another: another vocabulary, other prompts, another temperature.

    No teacher and no picture is touched; views and keys stay the same. The new set
    holds top-k labels and no embeddings, for caches meant to be small. The same
    command run again does what is missing.

    [bold]Examples[/bold]

      richsem-prep text --teacher RN50:openai --names coco --out text/coco
      richsem-prep rescore caches/inet-lvis --text text/coco --label-set coco

      richsem-prep rescore caches/inet-lvis --temperature 2 --label-set soft
      richsem-prep rescore caches/inet-lvis --top-k 16 --label-set small
    """
    from richsem_prep.console import counting_bar, warn
    from richsem_prep.rescore.rescore import rescore as run
    from richsem_schemas.io.places import open_place
    from richsem_schemas.io.words import readable_bytes

    with counting_bar("rescore", "regions") as on_progress:
        made = run(
            open_place(out).absolute(),
            label_set=options.label_set,
            text=options.text,
            source=options.source,
            temperature=options.temperature,
            top_k=options.top_k,
            threads=threads,
            on_progress=on_progress,
        )
    regions = sum(receipt.summary.regions for receipt in made.receipts)
    size = sum(receipt.summary.tar.bytes for receipt in made.receipts)
    shards, spec = len(made.receipts), made.spec
    if as_json:
        sizes = {"regions": regions, "shards": shards, "bytes": size, "already": made.already, "seconds": made.seconds}
        print_json({"label_set": options.label_set, "source": made.source, **sizes, "spec": spec})
    else:
        typer.echo(
            f"label set {options.label_set} from the embeddings of {made.source}: {spec.text.vocabulary}, "
            f"{spec.text.classes:,} classes, top {spec.top_k}, temperature {spec.temperature:g}"
        )
        typer.echo(
            f"{regions:,} regions in {shards} shards, {readable_bytes(size)}, {size / max(regions, 1):,.0f} bytes a "
            f"region; {shards - made.already} made in {made.seconds:.1f} s, {made.already} there before"
        )
    if made.warning:
        warn(made.warning)
