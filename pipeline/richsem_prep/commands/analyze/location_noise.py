"""`richsem-prep analyze location-noise`."""

from collections.abc import Iterator
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
    from richsem_prep.analyses.location_noise import AtScale, LocationNoise


@with_options_of_models
def location_noise(
    out: Out,
    request: AnalysisRequest,
    label_set: LabelSet = None,
    annotations: AnnotationsFile = None,
    figure: FigureFile = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Judge soft labels as boxes are moved: the supplement's figure 1.

    Needs wholes and noised copies of their boxes, as `shard --whole` stores them with
    --jitters and --noise; no teacher and no picture. At each noise scale, 0 for boxes
    as annotated: how often a box's class is among its K most probable ones, and how
    far its soft label lies from that of the clean box.

    [bold]Example[/bold]

      richsem-prep shard --dataset lvis --whole --windows 0 --jitters 1 --noise 0.1,0.5,1
      richsem-prep analyze location-noise caches/lvis --figure location-noise.svg
    """
    from richsem_prep.analyses.analysed_set import open_set
    from richsem_prep.analyses.location_noise import location_noise as judge
    from richsem_prep.console import counting_bar
    from richsem_schemas.cache.reader import open_cache

    require_figure(figure, [Path(annotations)] if annotations else [])
    cache = open_cache(out, only=label_set)
    with annotations_of(annotations, cache.manifest.plan, is_scored=False) as given:
        frequencies = given.frequencies if given else None
    analysed = open_set(cache, label_set, form=request.labels, top_k=request.top_k, frequencies=frequencies)
    with counting_bar("location-noise", "shards") as on_progress:
        found = judge(analysed, threads=threads, on_progress=on_progress)
    if as_json:
        print_json(figures(found))
    else:
        console = Console()
        console.print(_overview(found))
        if found.has_frequencies:
            console.print(_by_frequency(found))
        for note in _notes(found):
            typer.echo(note)
    if figure is not None:
        from richsem_prep.analyses.figures import draw_location_noise

        draw_location_noise(found, figure)
        typer.echo(str(figure), err=as_json)


def _overview(found: "LocationNoise") -> Table:
    from richsem_prep.analyses.judged_classes import ALL

    title = f"location noise: label set {found.label_set}, {found.teacher}"
    table = Table(title=Text(printable_text(title)), title_justify="left")
    numbers = [each.top_k for each in found.scales[0].accuracies]
    table.add_column("noise", justify="right")
    table.add_column("boxes", justify="right")
    for number in numbers:
        table.add_column(f"top {number}\ncategories", justify="right")
    for number in numbers:
        table.add_column(f"top {number}\nboxes", justify="right")
    for name in ("KL\nmean", "KL\nmedian", "cosine\nmean"):
        table.add_column(name, justify="right")
    for at in found.scales:
        table.add_row(
            f"{at.noise_scale:g}",
            f"{at.groups[ALL].boxes:,}",
            *(percent(each.over_categories[ALL]) for each in at.accuracies),
            *(percent(each.over_boxes[ALL]) for each in at.accuracies),
            f"{at.kl.mean:.4f}",
            f"{at.kl.median:.4f}",
            "-" if at.cosine is None else f"{at.cosine.mean:.4f}",
        )
    return table


def _by_frequency(found: "LocationNoise") -> Table:
    from richsem_prep.analyses.judged_classes import GROUPS

    groups = GROUPS[1:]
    table = Table(title="accuracy, mean over categories, by frequency", title_justify="left")
    table.add_column("noise", justify="right")
    for each in found.scales[0].accuracies:
        for group in groups:
            table.add_column(f"top {each.top_k}\n{group}", justify="right")
    for at in found.scales:
        table.add_row(f"{at.noise_scale:g}", *_percents(at, groups))
    return table


def _percents(at: "AtScale", groups: tuple[str, ...]) -> list[str]:
    return [percent(each.over_categories[group]) for each in at.accuracies for group in groups]


def _notes(found: "LocationNoise") -> Iterator[str]:
    yield "accuracies in %, mean over categories and over boxes; KL(clean ‖ noised) in nats"
    if found.labels == "topk":
        yield "KL is a lower bound: over the classes that both labels keep, with the rest as one more class"
    if not found.has_frequencies:
        yield NO_FREQUENCIES
