"""`richsem-train new`."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from richsem_schemas.command_line import AsJson, print_json
from richsem_schemas.errors import RichSemError
from richsem_schemas.io.places import local_path
from richsem_schemas.io.words import printable_text
from richsem_schemas.vocabularies.lvis import FREQUENCY_NAMES
from richsem_train.commands.options import Changes

if TYPE_CHECKING:
    from richsem_train.own_data.commands_file import Step
    from richsem_train.own_data.make import Made
    from richsem_train.own_data.training_plan import DeviceKind

_NO_TEACHER = "none"
_SHOWN_CLASSES = 30


def new(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="A folder of labelled pictures, an annotation file, or a .zip: COCO, LVIS, YOLO, Pascal VOC, CVAT, "
            "Label Studio.",
            parser=local_path,
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="PATH", help="The folder to make; it must not be there yet.", parser=local_path)
    ],
    images: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Folder of the pictures, where they don't lie in DATA.", parser=local_path),
    ] = None,
    teacher: Annotated[
        str, typer.Option(help="Of the soft labels, as `richsem-prep shard` takes it; none trains with hard labels.")
    ] = "RN50:openai",
    config: Annotated[
        str | None,
        typer.Option(
            help="One that comes with the package, to build on. \\[default: a small one, of a size that fits]"
        ),
    ] = None,
    changes: Changes = None,
    hours: Annotated[float, typer.Option(min=0.01, help="That training may take; decides the size of pictures.")] = 8.0,
    near_duplicates: Annotated[
        bool, typer.Option("--near-duplicates", help="Find pictures that look the same; decodes all of them.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the split, where DATA has none.")] = 0,
    run: Annotated[bool, typer.Option("--run", help="Run the commands, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Look at one's own labelled pictures, say what is there, and write all that training needs.

    OUT gets cleaned annotations of train and val, names.txt, configs and commands.sh. DATA is only read.

    [bold]Examples[/bold]

      richsem-train new pictures --out mine
      richsem-train new export.zip --out mine --teacher none --run
      richsem-train new instances.json --images photos --out mine --near-duplicates
    """
    from richsem_train.config import builtin_configs, load_config
    from richsem_train.console import ConsoleReporter
    from richsem_train.own_data.make import NewRequest, found_content, make_new

    if config is not None and config not in builtin_configs():
        raise RichSemError(f"--config {config!r} is none of {', '.join(builtin_configs())}")
    if config is not None and load_config(config).model.detector != "dino":
        raise RichSemError(f"--config {config}: its detector needs a text bank in any case; name one of DINO's")
    with ConsoleReporter(Console(stderr=True)) as reporter:
        made = make_new(
            NewRequest(
                data=data,
                out=out,
                images=images,
                teacher=None if teacher == _NO_TEACHER else teacher,
                base=config,
                changes=changes or [],
                near_copies=near_duplicates,
                seed=seed,
                hours=hours,
                device=_device(),
            ),
            reporter,
        )
    if as_json:
        print_json(found_content(made))
    else:
        _print_found(made)
        _print_next(made)
    needs_prep = made.steps is not made.hard_steps
    if needs_prep and (problem := _prep_problem()):
        typer.echo(f"\n{problem}\n{_offer(made)}", err=as_json)
        if run:
            raise RichSemError("soft labels need richsem-prep, and the commands were not run")
    if run:
        _run(made, out=sys.stderr.fileno() if as_json else None)


def _device() -> "DeviceKind":
    """The kind of device that training would take."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _print_found(made: "Made") -> None:
    found, split, data = made.found, made.found.split, made.found.data
    export = data.export
    say = typer.echo
    named = ", ".join(str(path) for path in export.annotations)
    say(printable_text(f"{export.format_name}: {named}"))
    say(
        f"{len(split.train) + len(split.val):,} pictures, {data.boxes:,} boxes, {len(data.class_names):,} classes; "
        f"at most {found.most_boxes:,} boxes in a picture"
    )
    test = f"; {split.test:,} of a test split, left alone" if split.test else ""
    say(f"split: {len(split.train):,} train, {len(split.val):,} val{test} ({split.rule})")
    say(f"frequencies: {found.frequency_rule}")
    same = f"{data.copies:,} sets of identical pictures"
    near = "" if data.near_copies is None else f", {data.near_copies:,} of pictures that look the same"
    say(same + near)
    Console().print(_class_table(made))
    for note in export.notes:
        say(printable_text(note))
    for what, count, where in export.problems:
        say(printable_text(f"{count:,} {what}; the first: {where}"))
    for warning in found.warnings():
        say(printable_text(f"warning: {warning}"))


def _class_table(made: "Made") -> Table:
    classes = sorted(made.found.classes, key=lambda each: (each.train_pictures, each.id))
    table = Table(title="classes, the rarest first", title_justify="left")
    for column in ("class", "frequency"):
        table.add_column(column)
    for column in ("train pictures", "boxes", "val pictures", "boxes"):
        table.add_column(column, justify="right")
    for each in classes[:_SHOWN_CLASSES]:
        table.add_row(
            printable_text(each.name),
            FREQUENCY_NAMES[each.frequency],
            *(f"{count:,}" for count in (each.train_pictures, each.train_boxes, each.val_pictures, each.val_boxes)),
        )
    if (more := len(classes) - _SHOWN_CLASSES) > 0:
        table.caption = f"and {more:,} more, in found.json"
    return table


def _print_next(made: "Made") -> None:
    from richsem_train.own_data.commands_file import told_hours

    plan = made.plan
    if plan is None:
        typer.echo(f"\n{made.out}: trained as --config says; how long that takes isn't known beforehand")
    else:
        typer.echo(
            f"\n{made.out}: {plan.steps:,} steps at {plan.side_px} px, {plan.epochs} epochs: "
            f"{told_hours(plan.train_hours)} on {plan.device}, roughly ({plan.rule})"
        )
    if plan is not None and not plan.fits:
        typer.echo("warning: that is longer than --hours; train on a GPU, or fewer epochs (--set schedule.epochs=N)")
    typer.echo(f"next (sh {made.out / 'commands.sh'} does it all):")
    for step in made.steps:
        typer.echo(f"  # {step.about}\n  {step.line()}")


def _offer(made: "Made") -> str:
    lines = "\n".join(f"  {step.line()}" for step in made.hard_steps)
    return f"Hard labels train, too, without a teacher:\n{lines}"


def _prep_problem() -> str | None:
    """Why richsem-prep can't be started, in its own words; None where it can."""
    started = subprocess.run(_call("richsem-prep", ["--version"]), capture_output=True, text=True, check=False)
    return None if not started.returncode else (started.stderr.strip() or "richsem-prep doesn't start")


def _call(program: str, arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", program.replace("-", "_"), *arguments]


def _run(made: "Made", *, out: int | None) -> None:
    for step in made.steps:
        typer.echo(f"\n$ {step.line()}", err=True)
        _require_done(step, subprocess.run(_call(step.program, step.arguments), stdout=out, check=False), made)


def _require_done(step: "Step", done: "subprocess.CompletedProcess[bytes]", made: "Made") -> None:
    if not done.returncode:
        return
    if step.program == "richsem-prep":
        typer.echo(f"\nThere are no soft labels (see above). {_offer(made)}", err=True)
    raise RichSemError(
        f"`{step.line()}` ended with code {done.returncode}; mend what it tells, then go on: sh "
        f"{made.out / 'commands.sh'}"
    )
