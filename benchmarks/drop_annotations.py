"""AP over the share of boxes that training misses, without and with semantics: the supplement's figure 2 (a).

    python benchmarks/drop_annotations.py runs/drop-annotations --out runs/drop-annotations

Reads finished runs, which `make drop-annotations` makes, from folders called ARM-RATIO-SEED. It prints a table and
writes `drop_annotations.json` and `drop_annotations.png`: a line an arm, and beside it one standard deviation over
seeds.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from common import save
from rich.console import Console
from rich.table import Table

from richsem_schemas.errors import RichSemError
from richsem_schemas.figures.figure import QUIET, drawing_style, titled_figure, write_figure
from richsem_schemas.figures.lines import Line, draw_lines
from richsem_train.results.tables import spread
from richsem_train.run.comparison import FinishedRun, read_run

METRICS = ("AP", "APr", "APc", "APf")
DRAWN = ("AP", "APr")
_RUN = re.compile(r".+-(?P<ratio>[\d.]+)-(?P<seed>\d+)")

Points = Mapping[str, Mapping[float, Sequence[FinishedRun]]]
"""The runs, one a seed, by arm and ratio, which ascends."""


def points_in(folder: Path) -> Points:
    """Finished runs by arm and ratio.

    Raises:
        RichSemError: one isn't finished, or there is none.
    """
    found: dict[str, dict[float, list[FinishedRun]]] = {}
    for out in sorted(folder.iterdir()):
        if out.is_dir() and (named := _RUN.fullmatch(out.name)):
            run = read_run(out)
            found.setdefault(run.arm, {}).setdefault(float(named["ratio"]), []).append(run)
    if not found:
        raise RichSemError(f"{folder}: holds no runs called ARM-RATIO-SEED; `make drop-annotations` makes them")
    return {arm: dict(sorted(ratios.items())) for arm, ratios in sorted(found.items(), reverse=True)}


def figures_of(points: Points) -> list[dict[str, Any]]:
    """A record an arm and ratio: each metric's values by seed, mean and deviation."""
    return [
        {
            "arm": arm,
            "ratio": ratio,
            "seeds": [run.seed for run in runs],
            "steps": [run.metrics["steps"] for run in runs],
            **{name: metric_of(runs, name) for name in METRICS},
        }
        for arm, ratios in points.items()
        for ratio, runs in ratios.items()
    ]


def metric_of(runs: Sequence[FinishedRun], name: str) -> dict[str, Any]:
    values = [run.metrics.get(name) for run in runs]
    found = spread(values)
    mean, deviation = (found.mean, found.deviation) if found else (None, None)
    return {"values": values, "mean": mean, "standard_deviation": deviation}


def line_of(arm: str, ratios: Mapping[float, Sequence[FinishedRun]], name: str) -> Line:
    """An arm's line, from the ratios at which the metric is defined."""
    known = {ratio: found for ratio, runs in ratios.items() if (found := spread([r.metrics.get(name) for r in runs]))}
    means = [found.mean for found in known.values()]
    deviations = [found.deviation or 0.0 for found in known.values()]
    band = (
        [mean - each for mean, each in zip(means, deviations, strict=True)],
        [mean + each for mean, each in zip(means, deviations, strict=True)],
    )
    return Line(arm, [100 * ratio for ratio in known], means, band=band, marker="o")


def draw(points: Points, out: Path) -> None:
    """A panel a metric."""
    seeds = max(len(runs) for ratios in points.values() for runs in ratios.values())
    with drawing_style(list(points)):
        figure = titled_figure("annotations dropped, without and with semantics", 9, 4.2)
        for panel, name in zip(figure.subplots(1, len(DRAWN), sharex=True), DRAWN, strict=True):
            panel.set_title(name)
            draw_lines(panel, [line_of(arm, ratios, name) for arm, ratios in points.items()])
            panel.set_ylim(bottom=0)
            panel.set_xticks(sorted({100 * ratio for ratios in points.values() for ratio in ratios}))
            panel.set_xlabel("boxes dropped, %")
        told = f"mean over up to {seeds} seeds; band: ± standard deviation" if seeds > 1 else "one seed"
        figure.supxlabel(told, fontsize=8.5, color=QUIET)
        write_figure(figure, out)


def table_of(records: Sequence[Mapping[str, Any]]) -> Table:
    table = Table("", "dropped", *METRICS, "seeds", "steps")
    for record in records:
        cells = [
            "-" if (found := record[name])["mean"] is None
            else f"{found['mean']:.3f}" + (f" ±{each:.3f}" if (each := found["standard_deviation"]) is not None else "")
            for name in METRICS
        ]  # fmt: skip
        steps = sorted({f"{each:,.0f}" for each in record["steps"]})
        table.add_row(record["arm"], f"{record['ratio']:.0%}", *cells, str(len(record["seeds"])), " or ".join(steps))
    return table


def main(
    runs: Annotated[Path, typer.Argument(help="Folder of the runs.")],
    out: Annotated[Path, typer.Option(help="Folder of the figures.")],
) -> None:
    points = points_in(runs)
    records = figures_of(points)
    Console().print(table_of(records))
    save("drop_annotations", {"runs": records}, out / "drop_annotations.json")
    draw(points, out / "drop_annotations.png")
    print(out / "drop_annotations.json", out / "drop_annotations.png", sep="  ")


if __name__ == "__main__":
    typer.run(main)
