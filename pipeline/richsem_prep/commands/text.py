"""`richsem-prep text`."""

from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from richsem_schemas.errors import RichSemError


def text(
    teacher: Annotated[str, typer.Option(help="As `shard` takes it: MODEL:PRETRAINED, MODEL:FILE, …, or demo.")],
    names: Annotated[
        str,
        typer.Option(
            metavar="NAMES|FILE",
            help="lvis, coco, objects365, openimages; or a file: one name a line, an annotation file with "
            "`categories`, OpenImages' class descriptions, or a cache's plan/plan.json.",
        ),
    ],
    out: Annotated[str, typer.Option(metavar="DIR|URL", help="Folder of the text.")],
    templates: Annotated[
        str,
        typer.Option(metavar="openai|name-only|FILE", help="Prompts; a file has one a line, with {} for the name."),
    ] = "openai",
    name_policy: Annotated[
        str, typer.Option(help="Class names in prompts: raw (as they are written) or clean (without _ and brackets).")
    ] = "raw",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, … \\[default: CUDA if there is one]")] = None,
) -> None:
    """Encode class names with a teacher, into a folder: another vocabulary, or other prompts, for a cache's embeddings.

    The trainer takes the folder as `text.folder`; `rescore` makes labels with it. No
    picture is touched. Row 0 is always the bare word "none".

    [bold]Examples[/bold]

      richsem-prep text --teacher RN50:openai --names coco --out text/coco
      richsem-prep text --teacher demo --names val.json --out text/val
      richsem-prep text --teacher demo --names my.txt --name-policy clean --out t
    """
    from richsem_prep.console import ConsoleReporter
    from richsem_prep.executors.progress import Progress
    from richsem_prep.teacher.make_text import make_text
    from richsem_prep.teacher.names import alike_warning
    from richsem_schemas.io.places import open_place

    if name_policy not in {"raw", "clean"}:
        raise RichSemError(f"--name-policy {name_policy!r} is unknown; there are raw and clean")
    with ConsoleReporter(Console(stderr=True)) as reporter:
        move = None

        def on_progress(done: int, total: int) -> None:
            nonlocal move
            move = move or reporter.stage("text", total, "classes")
            move(Progress(text_classes=done))

        made = make_text(
            teacher,
            names=names,
            templates=templates,
            policy="clean" if name_policy == "clean" else "raw",
            out=open_place(out).absolute(),
            device=device,
            on_progress=on_progress,
        )
    bank = made.bank
    typer.echo(
        f"{out}: {len(bank.class_names):,} classes ({made.vocabulary}, row 0 is none), "
        f"{len(bank.templates):,} templates, {bank.features.shape[1]:,} numbers a class, by {made.teacher.name}"
    )
    if warning := alike_warning(bank):
        Console(stderr=True).print(Text(f"warning: {warning}"), soft_wrap=True)
