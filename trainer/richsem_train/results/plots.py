"""Curves of a run and the picture of a comparison, as PNG files."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from richsem_schemas.figures.figure import INK, LINE_COLOURS, QUIET, drawing_style, titled_figure, write_figure
from richsem_schemas.figures.lettering import one_line
from richsem_schemas.figures.lines import add_legend
from richsem_schemas.scoring.metrics import Metrics, is_defined
from richsem_train.results.tables import STEPS, Arms, spread

Record = Mapping[str, Any]
"""A record of a run's log."""

_METRIC_COLOURS = {"AP": INK, "APr": "#cc3300", "APc": "#2b8cc4", "APf": "#a88f00"}
"""Frequencies as in the pictures, dark enough for white paper."""

_SMOOTHED_OVER = 50
"""Points of the log that the thick line of a loss averages over; fewer for short logs."""

_PART_OF_A_LAYER = re.compile(r"_(\d+|enc|dn(_\d+)?)$")
"""Ends of the names of losses that repeat those of the final layer."""

_COMPARED = ("AP", "APr")


def plot_run(steps: Sequence[Record], evaluations: Sequence[Record], out: Path, *, title: str) -> None:
    """Draw a run's loss, its parts, average precisions and learning rates into one PNG, written whole or not at all.

    Steps have `step`, `loss`, and if there are any `losses` by name and `lr`; evaluations `step` and `metrics` by name.
    """
    with drawing_style([title]):
        figure = titled_figure(title, 11, 7)
        panels = figure.subplots(2, 2, sharex=True)
        _draw_loss(panels[0, 0], steps)
        _draw_metrics(panels[0, 1], evaluations)
        _draw_parts(panels[1, 0], steps)
        _draw_rates(panels[1, 1], steps)
        last = max((record["step"] for record in (*steps, *evaluations)), default=1)
        for panel in panels.flat:
            panel.set_xlim(0, last * 1.02)
            panel.xaxis.set_major_locator(MaxNLocator(7, integer=True))
        for panel in panels[1]:
            panel.set_xlabel("step")
        write_figure(figure, out)


def plot_comparison(arms: Arms, out: Path, *, title: str) -> None:
    """Draw a point a seed, and mean and standard deviation an arm, a panel a metric, into one PNG.

    It is written whole or not at all.
    """
    with drawing_style([title, *arms]):
        figure = titled_figure(title, 2.4 + 3.9 * len(_COMPARED), 1.5 + 0.62 * len(arms))
        panels = figure.subplots(1, len(_COMPARED), sharey=True, squeeze=False)[0]
        for panel, metric in zip(panels, _COMPARED, strict=True):
            _draw_arms(panel, arms, metric)
            panel.grid(visible=False, axis="y")
        labels = [_arm_label(arm, runs) for arm, runs in arms.items()]
        panels[0].set_yticks(range(len(arms)), labels, fontsize=10, color=INK)
        panels[0].set_ylim(len(arms) - 0.4, -0.6)
        seeds = max((len(runs) for runs in arms.values()), default=0)
        figure.supxlabel(
            f"small points: single seeds (up to {seeds}); diamond and bar: mean ± standard deviation",
            fontsize=8.5,
            color=QUIET,
        )
        write_figure(figure, out)


def _arm_label(arm: str, runs: Sequence[Metrics]) -> str:
    steps = spread([run.get(STEPS) for run in runs])
    name = one_line(arm)
    return name if steps is None else f"{name}\n{steps.mean:,.0f} steps"


def _draw_loss(panel: Axes, steps: Sequence[Record]) -> None:
    panel.set_title("loss")
    places, losses = _curve((record["step"], record["loss"]) for record in steps)
    panel.plot(places, losses, color=LINE_COLOURS[0], linewidth=0.6, alpha=0.35)
    panel.plot(places, _smoothed(losses), color=LINE_COLOURS[0], linewidth=1.8)
    _fit_losses(panel, [losses])


def _draw_parts(panel: Axes, steps: Sequence[Record]) -> None:
    panel.set_title("losses of the final layer")
    names = list(dict.fromkeys(name for record in steps for name in record.get("losses", {})))
    drawn = []
    for name in [name for name in names if not _PART_OF_A_LAYER.search(name)] or names[: len(LINE_COLOURS)]:
        places, losses = _curve((record["step"], record.get("losses", {}).get(name)) for record in steps)
        drawn.append(_smoothed(losses))
        panel.plot(places, drawn[-1], label=name.removeprefix("loss_"))
    _fit_losses(panel, drawn)
    add_legend(panel)


def _draw_metrics(panel: Axes, evaluations: Sequence[Record]) -> None:
    panel.set_title("average precision")
    highest = 0.0
    for name, colour in _METRIC_COLOURS.items():
        places, values = _curve((record["step"], _defined(record["metrics"].get(name))) for record in evaluations)
        if not values:
            continue
        highest = max(highest, *values)
        wide = 2.4 if name == "AP" else 1.5
        label = f"{name}  {values[-1]:.3f}"
        panel.plot(places, values, color=colour, linewidth=wide, marker="o", markersize=3.5, label=label)
    panel.set_ylim(0, max(highest * 1.1, 0.05))
    add_legend(panel)


def _draw_rates(panel: Axes, steps: Sequence[Record]) -> None:
    panel.set_title("learning rate")
    places, rates = _curve((record["step"], record.get("lr")) for record in steps)
    panel.plot(places, rates)
    panel.set_ylim(0, max(rates, default=0.0) * 1.08 or 1)
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _curve(points: Iterable[tuple[int, float | None]]) -> tuple[list[int], list[float]]:
    """Steps and values of the points that have one."""
    known = [(step, float(value)) for step, value in points if value is not None]
    return [step for step, _ in known], [value for _, value in known]


def _defined(value: float | None) -> float | None:
    return value if value is not None and is_defined(float(value)) else None


def _draw_arms(panel: Axes, arms: Arms, metric: str) -> None:
    panel.set_title(metric)
    colour = _METRIC_COLOURS.get(metric, LINE_COLOURS[0])
    for row, runs in enumerate(arms.values()):
        values = spread([run.get(metric) for run in runs])
        if values is None:
            panel.text(0.5, row, "no value", transform=panel.get_yaxis_transform(), ha="center", color=QUIET)
            continue
        deviation = values.deviation or 0.0
        panel.hlines(row, values.mean - deviation, values.mean + deviation, color=colour, linewidth=2.2, zorder=2)
        panel.plot(values.mean, row, "D", color=colour, markersize=7, markeredgecolor="white", zorder=4)
        # Beside the bar, where they are seen even if they lie close.
        seed_rows = np.full(len(values.values), row + 0.2)
        panel.plot(values.values, seed_rows, "o", color=colour, alpha=0.55, markersize=4, markeredgewidth=0, zorder=3)
        text = f"{values.mean:.3f}" + ("" if values.deviation is None else f" ± {values.deviation:.3f}")
        panel.text(values.mean, row - 0.2, text, ha="center", va="bottom", fontsize=8.5, color=INK)
    panel.margins(x=0.18)
    panel.xaxis.set_major_locator(MaxNLocator(5))


def _smoothed(values: Sequence[float]) -> list[float]:
    """A centred mean over at most `_SMOOTHED_OVER` points, fewer at the ends and for short logs; NaN left out."""
    window = max(1, min(_SMOOTHED_OVER, len(values) // 10))
    array = np.asarray(values, np.float64)
    finite = np.where(np.isfinite(array), array, 0.0)
    sums = np.concatenate([[0.0], np.cumsum(finite)])
    counts = np.concatenate([[0], np.cumsum(np.isfinite(array))])
    places = np.arange(len(array))
    # No further ahead than back, so that the start is not flattened; at the end only back, so that it is calm.
    reach = np.minimum(places, window // 2)
    starts, ends = places - reach, np.minimum(places + reach + 1, len(array))
    with np.errstate(invalid="ignore", divide="ignore"):
        return list((sums[ends] - sums[starts]) / (counts[ends] - counts[starts]))


def _fit_losses(panel: Axes, curves: Sequence[Sequence[float]]) -> None:
    """From 0 to what most of the run needs: its first steps may be many times higher."""
    values = np.concatenate([np.asarray(curve, np.float64) for curve in curves] or [np.zeros(0)])
    values = values[np.isfinite(values)]
    if len(values):
        panel.set_ylim(0, max(float(np.quantile(values, 0.99)) * 1.1, 1e-6))
