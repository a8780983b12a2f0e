"""`richsem-prep analyze frequency`."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from richsem_prep.commands.analyze.options import FigureFile, require_figure
from richsem_schemas.command_line import AsJson, print_json
from richsem_schemas.errors import RichSemError
from richsem_schemas.io.words import printable_text

if TYPE_CHECKING:
    from richsem_prep.analyses.frequency import Frequency


_ROWS: dict[str, Callable[["Frequency"], str]] = {
    "categories": lambda each: f"{each.categories:,}",
    "  without instances": lambda each: f"{each.without_instances:,}",
    "  fewer than ten": lambda each: f"{each.below_ten:,}",
    "instances": lambda each: f"{each.instances:,}",
    "pictures": lambda each: f"{each.pictures:,}",
    "head over tail": lambda each: f"{each.head_over_tail:,.1f}",
    "  of tenths": lambda each: f"{each.head_tenth_over_tail_tenth:,.1f}",
}


def frequency(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE",
            help="JSON of COCO, LVIS, Objects365 or Visual Genome, or OpenImages' CSV; a path or URL each.",
        ),
    ],
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Name of a file, once a file. \\[default: the files' own names]"),
    ] = None,
    figure: FigureFile = None,
    as_json: AsJson = False,
) -> None:
    """Count the instances of each category, from head to tail: the supplement's figure 3.

    Head over tail is the most frequent category over the least frequent one that has
    instances; of tenths, the mean of the most frequent tenth of those categories over
    the mean of the least frequent tenth. Crowd regions are no instances.

    [bold]Examples[/bold]

      richsem-prep analyze frequency lvis_v1_train.json --figure frequency.png
      richsem-prep analyze frequency lvis.json openimages.csv --label LVIS --label OpenImages
    """
    from richsem_prep.analyses.frequency import count_frequency, frequency_content
    from richsem_prep.sources.remote_annotations import local_annotations
    from richsem_schemas.io.places import open_place

    labels = _labels(files, label)
    places = [open_place(file) for file in files]
    require_figure(figure, [place for place in places if isinstance(place, Path)])
    found = []
    for place, name in zip(places, labels, strict=True):
        with local_annotations(place) as path:
            found.append(replace(count_frequency(path, name), file=str(place)))
    if as_json:
        print_json([frequency_content(each) for each in found])
    else:
        Console().print(_table(found))
    if figure is not None:
        from richsem_prep.analyses.frequency_figure import draw_frequencies

        draw_frequencies(found, figure)
        typer.echo(str(figure), err=as_json)


def _labels(files: Sequence[str], given: Sequence[str] | None) -> Sequence[str | None]:
    if given and len(given) != len(files):
        raise RichSemError(f"{len(given)} --label for {len(files)} files; give one a file, in their order, or none")
    return given or [None] * len(files)


def _table(found: Sequence["Frequency"]) -> Table:
    from richsem_schemas.vocabularies.lvis import FREQUENCY_NAMES

    table = Table(title="instances a category", title_justify="left", caption_justify="left")
    table.add_column("")
    for each in found:
        table.add_column(_plain(each.label), justify="right", overflow="fold")
    for name, value in _ROWS.items():
        table.add_row(name, *(value(each) for each in found))
    for letter, name in FREQUENCY_NAMES.items():
        if any(each.frequencies for each in found):
            table.add_row(f"{name}: categories\n  instances", *(_share(each, letter) for each in found))
    notes = [f"{each.label}: {note}" for each in found for note in each.notes]
    table.caption = _plain("\n".join(notes)) if notes else None
    return table


def _share(found: "Frequency", letter: str) -> str:
    if found.frequencies is None:
        return "-"
    share = found.frequencies[letter]
    return f"{share.categories:,} ({share.of_categories:.1%})\n{share.instances:,} ({share.of_instances:.1%})"


def _plain(text: str) -> Text:
    return Text(printable_text(text))
