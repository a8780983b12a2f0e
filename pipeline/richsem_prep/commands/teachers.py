"""`richsem-prep teachers`."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from richsem_prep.commands.options import Device
from richsem_prep.teacher_choice.teachers_request import TeachersRequest
from richsem_schemas.command_line import AsJson, figures, print_json
from richsem_schemas.io.places import local_path
from richsem_schemas.io.words import one_line, printable_text, readable_bytes
from richsem_schemas.options import with_options_of_models

if TYPE_CHECKING:
    from richsem_prep.teacher_choice.compare_teachers import TeachersCompared
    from richsem_prep.teacher_choice.judged_teacher import JudgedTeacher

_CLASSES_LISTED = 20
_GUESSES = 2
"""Times as often right as one that guesses; below that a teacher knows nothing."""


@with_options_of_models
def teachers(
    teacher: Annotated[
        list[str],
        typer.Argument(metavar="TEACHER", help="One or more, as `shard` takes them: MODEL:PRETRAINED, …, or demo."),
    ],
    annotations: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="Labelled boxes: JSON of COCO or LVIS, or OpenImages' CSV.", parser=local_path
        ),
    ],
    images: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the pictures.", parser=local_path)],
    request: TeachersRequest,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Compare teachers on some of your own labelled boxes, and recommend one.

    For each: how often it knows a box's class, class by class; a temperature fitted
    to these boxes, and how well its probabilities are calibrated before and after;
    regions a second, and bytes. Of the one recommended: how much its soft labels say
    beside a hard label, and what wider names or a temperature do. Teachers whose
    weights can't be had are told, and the others go on.

    [bold]Examples[/bold]

      richsem-prep teachers RN50:openai ViT-B-16:openai --annotations mine.json --images pictures
      richsem-prep teachers demo --annotations mine.json --images pictures --wider none
    """
    from richsem_prep.console import counting_bar
    from richsem_prep.teacher_choice.compare_teachers import check_teachers, compare_teachers
    from richsem_prep.teacher_choice.sample import draw_sample
    from richsem_schemas.annotations import read_annotations
    from richsem_schemas.annotations.read_annotation_file import format_by_content

    check_teachers(teacher, device)
    data = read_annotations(annotations, images, file_format=format_by_content(annotations), may_miss=True)
    sample = draw_sample(data, str(annotations), boxes=request.boxes, seed=request.seed)
    found = compare_teachers(teacher, sample, request, device=device, bar=counting_bar)
    if as_json:
        print_json(_content(found))
        return
    console = Console()
    console.print(_table(found))
    console.print(_classes_table(found))
    console.print(_labels_table(found))
    for note in _notes(found):
        typer.echo(note)


def _content(found: "TeachersCompared") -> dict[str, object]:
    return figures(found) | {
        "teachers": [figures(each) for each in found.teachers],
        "labels": [figures(each) for each in found.labels],
    }


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _table(found: "TeachersCompared") -> Table:
    table = Table(title=f"{found.boxes:,} of {found.of_boxes:,} boxes, {found.classes:,} classes", title_justify="left")
    table.add_column("")
    for each in found.teachers:
        table.add_column(Text(printable_text(each.name)), justify="right", overflow="fold")
    for name, cells in _rows(found.teachers):
        table.add_row(name, *cells)
    return table


def _rows(teachers: "tuple[JudgedTeacher, ...]") -> Iterator[tuple[str, list[str]]]:
    yield "top 1, mean over classes, %", [_percent(each.top_1.over_classes) for each in teachers]
    yield "  over boxes", [_percent(each.top_1.over_boxes) for each in teachers]
    yield "top 5, mean over classes, %", [_percent(each.top_5.over_classes) for each in teachers]
    yield "  over boxes", [_percent(each.top_5.over_boxes) for each in teachers]
    yield "temperature fitted", [f"{each.temperature:.2f}" for each in teachers]
    yield "NLL before, after, nats", [f"{each.before.nll:.3f}  {each.after.nll:.3f}" for each in teachers]
    yield "ECE before, after, %", [f"{_percent(each.before.ece)}  {_percent(each.after.ece)}" for each in teachers]
    yield "regions a second", [f"{each.regions_per_second:,.1f}" for each in teachers]
    yield "  by, on", [f"{each.region_encoder}, {each.device}" for each in teachers]
    yield "weights", [readable_bytes(each.weights_bytes) for each in teachers]
    yield "stored a region, bytes", [f"{each.stored.region:,}" for each in teachers]
    yield "  labels, embedding", [f"{each.stored.labels:,}  {each.stored.embedding:,}" for each in teachers]


def _classes_table(found: "TeachersCompared") -> Table:
    """Top 1 of each teacher by class, those worst known to the one recommended first."""
    best = next(each for each in found.teachers if each.name == found.recommended.teacher)
    rows = sorted(range(len(best.classes)), key=lambda row: best.classes[row].top_1)
    more = len(rows) - _CLASSES_LISTED
    table = Table(title="top 1 by class, the least known first, %", title_justify="left", caption_justify="left")
    table.add_column("class", overflow="fold")
    table.add_column("boxes", justify="right")
    table.add_column("seen", justify="right")
    for each in found.teachers:
        table.add_column(Text(printable_text(each.name)), justify="right", overflow="fold")
    for row in rows[:_CLASSES_LISTED]:
        known = best.classes[row]
        cells = [_percent(each.classes[row].top_1) for each in found.teachers]
        table.add_row(Text(printable_text(known.name)), f"{known.boxes:,}", f"{known.seen:,}", *cells)
    table.caption = f"and {more:,} more; --json has all" if more > 0 else None
    return table


def _labels_table(found: "TeachersCompared") -> Table:
    title = f"soft labels by {found.recommended.teacher}"
    table = Table(title=Text(printable_text(title)), title_justify="left")
    for column in ("names", "classes", "T", "mass of top 1, %", "entropy, nats", "on own classes, %", "NLL"):
        table.add_column(column, justify="left" if column == "names" else "right")
    for each in found.labels:
        shares = (_percent(each.top_share), f"{each.entropy:.2f}", _percent(each.own_share))
        table.add_row(each.names, f"{each.classes:,}", f"{each.temperature:.2f}", *shares, f"{each.nll:.3f}")
    return table


def _notes(found: "TeachersCompared") -> Iterator[str]:
    yield printable_text(f"recommended: {found.recommended.teacher}; {found.recommended.reason}")
    best = max(each.top_1.over_classes for each in found.teachers)
    if best * found.classes < _GUESSES:
        yield (
            f"no teacher knows these classes: {best:.1%} is little more than guessing one of {found.classes:,}, and "
            "such soft labels teach nothing. Name others, or see whether the names are words that a teacher has read"
        )
    yield from _told_of_labels(found)
    for each in found.absent:
        yield printable_text(f"left out: {each.name}: {one_line(each.reason, longest=1000)}")
    for note in found.notes:
        yield printable_text(f"annotations: {note}")
    if unreadable := found.teachers[0].unreadable:
        yield printable_text(f"left out: {len(unreadable):,} pictures that can't be read, such as {unreadable[0]}")


def _told_of_labels(found: "TeachersCompared") -> Iterator[str]:
    """What wider names and temperatures do to labels that say little; nothing of others."""
    plain = next(each for each in found.labels if each.temperature == 1)
    if not plain.is_nearly_one_hot:
        return
    yield (
        f"soft labels over these {plain.classes - 1:,} names are nearly one-hot: {plain.top_share:.1%} of the mass is "
        f"on one class, {plain.entropy:.2f} nats, so they say little that hard labels don't"
    )
    for each in found.labels:
        if each is plain or each.top_share >= plain.top_share:
            continue
        wider = "" if each.names == plain.names else f"{each.classes - plain.classes:,} names more"
        softer = "" if each.temperature == 1 else f"temperature {each.temperature:.2f}"
        yield (
            f"  {' and '.join(filter(None, (wider, softer)))}: {each.top_share:.1%} on one class, {each.entropy:.2f} "
            f"nats, {each.own_share:.1%} on one's own"
        )
    yield "  how: `richsem-prep text` with more names, then `rescore --text`; or `rescore --temperature`"
