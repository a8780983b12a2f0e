"""`richsem-prep diff`."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from richsem_prep.commands.options import Out, Threads
from richsem_schemas.command_line import AsJson, figures, print_json
from richsem_schemas.io.words import printable_text

if TYPE_CHECKING:
    from richsem_prep.explore.diff import Difference

_SWAPS_SHOWN = 5
_DIGITS = 12


def diff(
    out: Out,
    label_set: Annotated[tuple[str, str], typer.Option(metavar="A B", help="The two label sets; A is the reference.")],
    classes: Annotated[int, typer.Option(min=0, help="Classes shown, those that differ most first.")] = 15,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Compare two label sets of one cache: divergence, changed top classes, class by class.

    KL(A ‖ B) in nats: over all classes where both sets have embeddings, or were
    rescored from a set that does; else over the classes that both labels keep, with
    the rest as one more class, which is a lower bound.

    [bold]Examples[/bold]

      richsem-prep diff caches/inet-lvis --label-set RN50-openai soft
      richsem-prep diff caches/lvis --label-set RN50-openai ViT-L-14-openai --json
    """
    from richsem_prep.console import counting_bar
    from richsem_prep.explore.diff import diff_label_sets
    from richsem_schemas.io.places import open_place

    with counting_bar("diff", "shards") as on_progress:
        found = diff_label_sets(
            open_place(out).absolute(),
            *label_set,
            threads=threads,
            on_progress=on_progress,
        )
    if as_json:
        print_json(figures(found))
        return
    console = Console()
    console.print(_overview(found))
    if classes:
        console.print(_class_table(found, classes))


def _overview(found: "Difference") -> Table:
    a, b = found.label_sets
    table = Table(title=f"{a} → {b}", show_header=False, title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for field, here, there in found.fields:
        shown = (value[:_DIGITS] + "…" if field.endswith("sha256") else value for value in (here, there))
        table.add_row(Text(field), _plain(" → ".join(shown)))
    unmatched = f"; {found.unmatched_views:,} views are in one set alone" if found.unmatched_views else ""
    table.add_row("regions", f"{found.regions:,}{unmatched}")
    how = "over all classes, from embeddings" if found.is_exact else "over the classes both keep; a lower bound"
    table.add_row(
        "KL(A ‖ B), nats",
        f"mean {found.mean_kl:.4f}, median {found.median_kl:.4f}, 95% below {found.p95_kl:.4f}, "
        f"most {found.max_kl:.4f}; {how}",
    )
    table.add_row("top-1 flips", f"{found.flips:,}, {found.flips / found.regions:.1%}")
    for here, there, count in found.swaps[:_SWAPS_SHOWN]:
        table.add_row("", _plain(f"{count:,} {here} → {there}"))
    return table


def _class_table(found: "Difference", shown: int) -> Table:
    table = Table(title=f"classes by {found.grouped_by}, largest mean KL first", title_justify="left")
    table.add_column("class")
    for name in ("regions", "mean KL", "flips"):
        table.add_column(name, justify="right")
    for item in found.classes[:shown]:
        table.add_row(_plain(item.name), f"{item.regions:,}", f"{item.mean_kl:.4f}", f"{item.flips / item.regions:.1%}")
    if len(found.classes) > shown:
        table.caption = f"and {len(found.classes) - shown:,} more; --classes shows them"
    return table


def _plain(text: str) -> Text:
    return Text(printable_text(text))
