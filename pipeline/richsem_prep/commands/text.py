"""`richsem-prep text`."""

from typing import Annotated

import typer
from pydantic import BaseModel

from richsem_prep.commands.options import Device
from richsem_schemas.cache.field_types import NamePolicy
from richsem_schemas.command_line import AsJson, print_json
from richsem_schemas.io.places import PlaceField
from richsem_schemas.options import with_options_of_models


class TextOptions(BaseModel, frozen=True, extra="forbid"):
    """Whose text, of which names, and where to."""

    teacher: Annotated[str, typer.Option(help="As `shard` takes it: MODEL:PRETRAINED, MODEL:FILE, …, or demo.")]
    names: Annotated[
        str,
        typer.Option(
            metavar="NAMES|FILE",
            help="lvis, coco, objects365, openimages; or a file: one name a line, an annotation file with "
            "`categories`, OpenImages' class descriptions, or a cache's plan/plan.json.",
        ),
    ]
    out: Annotated[PlaceField, typer.Option(metavar="DIR|URL", help="Folder of the text.")]
    templates: Annotated[
        str,
        typer.Option(metavar="openai|name-only|FILE", help="Prompts; a file has one a line, with {} for the name."),
    ] = "openai"
    name_policy: Annotated[
        NamePolicy,
        typer.Option(help="Class names in prompts: raw (as they are written) or clean (without _ and brackets)."),
    ] = "raw"


@with_options_of_models
def text(options: TextOptions, device: Device = None, as_json: AsJson = False) -> None:
    """Encode class names with a teacher, into a folder: another vocabulary, or other prompts, for a cache's embeddings.

    The trainer takes the folder as `text.folder`; `rescore` makes labels with it. No
    picture is touched. Row 0 is always the bare word "none".

    [bold]Examples[/bold]

      richsem-prep text --teacher RN50:openai --names coco --out text/coco
      richsem-prep text --teacher demo --names val.json --out text/val
      richsem-prep text --teacher demo --names my.txt --name-policy clean --out t
    """
    from richsem_prep.console import counting_bar, warn
    from richsem_prep.teacher.make_text import make_text
    from richsem_prep.teacher.names import alike_warning

    with counting_bar("text", "classes") as on_progress:
        made = make_text(
            options.teacher,
            names=options.names,
            templates=options.templates,
            policy=options.name_policy,
            out=options.out.absolute(),
            device=device,
            on_progress=on_progress,
        )
    bank = made.bank
    classes, templates, dim = len(bank.class_names), len(bank.templates), bank.features.shape[1]
    if as_json:
        sizes = {"classes": classes, "templates": templates, "dim": dim}
        print_json({"out": options.out, "vocabulary": made.vocabulary, **sizes, "teacher": made.teacher})
    else:
        typer.echo(
            f"{options.out}: {classes:,} classes ({made.vocabulary}, row 0 is none), {templates:,} templates, "
            f"{dim:,} numbers a class, by {made.teacher.name}"
        )
    if warning := alike_warning(bank):
        warn(warning)
