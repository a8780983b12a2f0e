"""`richsem-prep suspects`."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from richsem_prep.commands.options import LabelSet, Originals, Out, Threads
from richsem_prep.suspects.suspects_request import SuspectsRequest
from richsem_schemas.command_line import AsJson, figures, print_json
from richsem_schemas.errors import RichSemError
from richsem_schemas.io.places import local_path
from richsem_schemas.io.words import printable_text
from richsem_schemas.options import with_options_of_models

if TYPE_CHECKING:
    from richsem_prep.suspects.find_suspects import Suspects
    from richsem_schemas.cache.reader import Cache
    from richsem_schemas.io.places import Place

_LISTED = 20
_MANY = 0.2
"""Of the boxes; of so many a teacher is more often wrong than whoever labelled them."""


@with_options_of_models
def suspects(
    out: Out,
    request: SuspectsRequest,
    label_set: LabelSet = None,
    annotations: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The cache's annotations, in COCO's or LVIS's format: for frequencies, and for --without.",
            parser=local_path,
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="PATH", help="The page to write.", parser=local_path)] = None,
    without: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Write the annotations without these boxes.", parser=local_path),
    ] = None,
    root: Originals = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """List boxes whose label a sure teacher contradicts, rare classes first: perhaps they are labelled wrong.

    Needs a detection cache of wholes or of windows, as `shard` makes it, and neither
    teacher nor training. By confident learning, with a threshold a class: what the
    teacher gives that class on its own boxes. Nothing is changed; --without writes
    another annotation file that lacks the boxes which are listed.

    [bold]Examples[/bold]

      richsem-prep suspects caches/lvis --html suspects.html
      richsem-prep suspects caches/lvis --annotations train.json --without clean.json
    """
    from richsem_prep.analyses.analysed_set import open_set
    from richsem_prep.analyses.annotations import read_annotations
    from richsem_prep.console import counting_bar
    from richsem_prep.explore.page import require_page
    from richsem_prep.suspects.find_suspects import find_suspects
    from richsem_prep.suspects.without import write_without_suspects
    from richsem_schemas.cache.reader import open_cache

    cache = open_cache(out, only=label_set)
    _require_outputs(annotations, html, without)
    if html is not None:
        require_page(html, cache)
    frequencies = read_annotations(annotations, with_negatives=False).frequencies if annotations else None
    analysed = open_set(cache, label_set, form=request.labels, top_k=(1,), frequencies=frequencies, may_be_windows=True)
    with counting_bar("suspects", "shards") as on_progress:
        found = find_suspects(analysed, most=request.most, threads=threads, on_progress=on_progress)
    if html is not None:
        _write_page(html, found, cache, root)
    dropped = None
    if without is not None:
        assert annotations is not None
        with counting_bar("without", "records") as on_progress:
            dropped = write_without_suspects(
                annotations, without, found.suspects, cache.manifest.plan.annotations, on_progress
            )
    if as_json:
        print_json(figures(found) | {"html": html, "without": dropped})
        return
    Console().print(_table(found))
    for note in _notes(found):
        typer.echo(note)
    if html is not None:
        typer.echo(str(html))
    if dropped is not None:
        typer.echo(f"{without}: {dropped.boxes - dropped.dropped:,} of {dropped.boxes:,} boxes stay")


def _require_outputs(annotations: Path | None, html: Path | None, without: Path | None) -> None:
    """Check, before any work, that what is asked for can be written, and over nothing that is read."""
    from richsem_schemas.io.output_files import require_no_inputs, require_replaceable

    if without is not None and annotations is None:
        raise RichSemError(
            f"--without {without} is --annotations without the suspects; name the file that the cache was made of with "
            "--annotations"
        )
    if html is not None and without is not None and html.resolve() == without.resolve():
        raise RichSemError(f"--html and --without are both {html}; name two files")
    for option, path in (("--html", html), ("--without", without)):
        if path is not None:
            require_replaceable(path)
            require_no_inputs([path], [annotations] if annotations else [], remedy=f"name another {option}")


def _write_page(html: Path, found: "Suspects", cache: "Cache", root: str | None) -> None:
    from richsem_prep.console import counting_bar
    from richsem_prep.suspects.crops import shown_suspects
    from richsem_prep.suspects.page import first_of_each_group, write_suspects_page
    from richsem_schemas.io.places import open_place

    originals: Place | None = open_place(root) if root else None
    chosen = [found.suspects[number] for number in first_of_each_group(found)]
    with counting_bar("page", "boxes") as on_progress:
        shown = shown_suspects(cache, chosen, originals, on_progress)
    write_suspects_page(html, found, shown)


def _table(found: "Suspects") -> Table:
    title = f"suspect labels: label set {found.label_set}, {found.teacher}"
    table = Table(title=Text(printable_text(title)), title_justify="left")
    for column in ("group", "label", "teacher", "%", "score", "box of picture"):
        table.add_column(column, justify="right" if column in {"%", "score"} else "left", overflow="fold")
    for each in found.suspects[:_LISTED]:
        names = (Text(printable_text(name)) for name in (each.label, each.suggestion))
        percent, place = f"{100 * each.suggestion_probability:.0f}", f"{each.annotation} of {each.picture}"
        table.add_row(each.group, *names, percent, f"{each.score:.1f}", Text(printable_text(place)))
    return table


def _notes(found: "Suspects") -> Iterator[str]:
    listed, share = len(found.suspects), found.contradicted / found.boxes
    groups = {group: sum(each.group == group for each in found.suspects) for group in ("rare", "common", "frequent")}
    if listed > _LISTED:
        yield f"and {listed - _LISTED:,} more; --json has all, --html shows them"
    told = ", ".join(f"{count:,} of {group} classes" for group, count in groups.items() if count) or "none"
    yield f"{found.boxes:,} boxes judged, {found.contradicted:,} counted as of another class; listed: {told}"
    yield f"groups: {found.frequency_rule}"
    if share > _MANY:
        yield (
            f"the teacher contradicts {share:.0%} of the labels, and hardly so many are wrong: it knows these classes "
            "poorly. Look at the first, and drop none unseen"
        )
    if found.unjudged_boxes:
        yield f"{found.unjudged_boxes:,} boxes left out: without a class, or of one that the text hasn't"
