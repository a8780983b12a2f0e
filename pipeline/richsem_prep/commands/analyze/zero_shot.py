"""`richsem-prep analyze zero-shot`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from richsem_prep.analyses.analysis_request import AnalysisRequest
from richsem_prep.commands.analyze.options import AnnotationsFile, FigureFile, annotations_of, require_figure
from richsem_prep.commands.analyze.words import NO_FREQUENCIES, percent
from richsem_prep.commands.options import LabelSet, Out, Threads
from richsem_schemas.command_line import AsJson, figures, print_json
from richsem_schemas.io.words import printable_text
from richsem_schemas.options import with_options_of_models

if TYPE_CHECKING:
    from richsem_prep.analyses.zero_shot import ZeroShot


@with_options_of_models
def zero_shot(
    out: Out,
    request: AnalysisRequest,
    label_set: LabelSet = None,
    annotations: AnnotationsFile = None,
    figure: FigureFile = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Classify annotated boxes by the teacher's soft labels: the supplement's table 2.

    Needs the wholes of a detection cache, pictures un-augmented with all of their
    boxes, as `shard --whole` stores them; no teacher and no picture. A box is right if
    its class is among its K most probable ones. With --annotations, LVIS's AP as
    well: each box is a detection of each of these classes. None is one too many: the
    usual limit of 300 a picture isn't applied.

    [bold]Examples[/bold]

      richsem-prep shard --dataset lvis --whole --windows 0
      richsem-prep analyze zero-shot caches/lvis --annotations lvis_v1_train.json
    """
    from richsem_prep.analyses.analysed_set import open_set
    from richsem_prep.analyses.classified_boxes import classify_boxes
    from richsem_prep.analyses.zero_shot import zero_shot as judge
    from richsem_prep.console import counting_bar
    from richsem_schemas.cache.reader import open_cache

    require_figure(figure, [Path(annotations)] if annotations else [])
    cache = open_cache(out, only=label_set)
    with annotations_of(annotations, cache.manifest.plan, is_scored=True) as given:
        frequencies = given.frequencies if given else None
        analysed = open_set(cache, label_set, form=request.labels, top_k=request.top_k, frequencies=frequencies)
        with counting_bar("zero-shot", "shards") as on_progress:
            boxes = classify_boxes(analysed, threads=threads, on_progress=on_progress)
        found = judge(analysed, boxes, given)
    if as_json:
        print_json(figures(found))
    else:
        Console().print(_table(found))
        for note in _notes(found, annotations):
            typer.echo(note)
    if figure is not None:
        from richsem_prep.analyses.figures import draw_zero_shot

        draw_zero_shot(found, figure)
        typer.echo(str(figure), err=as_json)


def _table(found: "ZeroShot") -> Table:
    from richsem_prep.analyses.judged_classes import GROUPS

    table = Table(
        title=Text(printable_text(f"zero-shot: label set {found.label_set}, {found.teacher}")), title_justify="left"
    )
    table.add_column("%")
    for group in GROUPS:
        table.add_column(group, justify="right")
    sizes = [found.groups[group] for group in GROUPS]
    table.add_row("boxes", *(f"{size.boxes:,}" for size in sizes))
    table.add_row("categories with boxes", *(f"{size.categories:,}" for size in sizes), end_section=True)
    for name, rows in _sections(found):
        table.add_row(name)
        for top_k, values in rows:
            table.add_row(f"  top {top_k}", *(percent(values[group]) for group in GROUPS))
        table.add_section()
    return table


_Rows = list[tuple[int, Mapping[str, float | None]]]


def _sections(found: "ZeroShot") -> Iterator[tuple[str, _Rows]]:
    yield "accuracy, mean over categories", [(each.top_k, each.over_categories) for each in found.accuracies]
    yield "accuracy over boxes", [(each.top_k, each.over_boxes) for each in found.accuracies]
    if found.precisions is not None:
        yield "AP by LVIS's protocol", [(each.top_k, each.precision) for each in found.precisions]


def _notes(found: "ZeroShot", annotations: str | None) -> Iterator[str]:
    if found.precisions is not None:
        yield "AP: boxes exact, each a detection of each of its classes; without LVIS's limit of 300 a picture"
    elif annotations is None:
        yield "no AP: it needs --annotations, which say what categories were looked for in a picture"
    else:
        yield "no AP: the cache's annotations aren't in LVIS's format, which says what was looked for in a picture"
    if not found.has_frequencies:
        yield NO_FREQUENCIES
    if found.unjudged_boxes:
        yield f"{found.unjudged_boxes:,} boxes left out: without a class, or of one that the text hasn't"
