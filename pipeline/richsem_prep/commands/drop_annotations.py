"""`richsem-prep drop-annotations`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from richsem_schemas.command_line import AsJson, figures, print_json
from richsem_schemas.io.places import local_path
from richsem_schemas.io.words import printable_text

if TYPE_CHECKING:
    from richsem_prep.analyses.drop_annotations import Dropped


def drop_annotations(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON of LVIS, COCO or Objects365.", parser=local_path)],
    ratio: Annotated[float, typer.Option(min=0, max=1, help="Share of the boxes to drop.")],
    out: Annotated[Path, typer.Option(metavar="PATH", help="The file to write.", parser=local_path)],
    seed: Annotated[int, typer.Option(min=0, help="Of the draw; higher ratios drop the same and more.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Write partial annotations, as the supplement's figure 2 trains on: a share of the boxes is missing.

    Every category keeps a box of those it has. Pictures, categories and crowd regions
    stay; counts of categories are those of the boxes that stay, and LVIS's pictures
    list what they lost as not exhaustively annotated. A cache of windows that was made
    from the whole file serves the partial one.

    [bold]Example[/bold]

      richsem-prep drop-annotations lvis_v1_train.json --ratio 0.5 --out lvis_half.json
    """
    from richsem_prep.analyses.drop_annotations import drop_annotations
    from richsem_prep.console import counting_bar

    with counting_bar("drop", "records") as on_progress:
        done = drop_annotations(file, out, ratio=ratio, seed=seed, on_progress=on_progress)
    if as_json:
        print_json(figures(done))
    else:
        Console().print(_table(done))


def _table(done: "Dropped") -> Table:
    table = Table(show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    share = done.dropped / done.boxes if done.boxes else 0.0
    table.add_row("partial annotations", Text(printable_text(str(done.out))))
    table.add_row("boxes", f"{done.kept:,} of {done.boxes:,} stay; {done.dropped:,} dropped, {share:.1%}")
    table.add_row("pictures", f"{done.pictures:,} stay; {done.emptied_pictures:,} have lost their last box")
    table.add_row("categories", f"{done.categories:,} stay")
    if done.crowd_regions:
        table.add_row("crowd regions", f"{done.crowd_regions:,} stay")
    if done.not_exhaustive:
        table.add_row("not exhaustive", f"{done.not_exhaustive:,} categories of pictures more than before")
    return table
