"""Curves of a run and the picture of a comparison, as PNG files."""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from matplotlib import font_manager, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from richsem_schemas.io.files import write_atomically
from richsem_train.results.lettering import font_files, one_line
from richsem_train.results.tables import STEPS, Arms, Metrics, is_defined, spread
from richsem_train.run.log import RunLog

_INK = "#222222"
_QUIET = "#8a8a8a"
_METRIC_COLOURS = {"AP": _INK, "APr": "#cc3300", "APc": "#2b8cc4", "APf": "#a88f00"}
"""Frequencies as in the pictures, dark enough for white paper."""

_LINE_COLOURS = ("#2b8cc4", "#cc3300", "#009e73", "#a88f00", "#9a5b8c", "#555555", "#e69f00")
_SMOOTHED_OVER = 50
"""Points of the log that the thick line of a loss averages over; fewer for short logs."""

_PART_OF_A_LAYER = re.compile(r"_(\d+|enc|dn(_\d+)?)$")
"""Ends of the names of losses that repeat those of the final layer."""

_DOTS_A_INCH = 130


def plot_run(log: RunLog, out: Path, *, title: str) -> None:
    """Draw a run's loss, its parts, average precisions and learning rates into one PNG.

    Args:
        log: of `run_log.read_log`; may be empty.
        out: the file, written whole or not at all.
        title: above the panels.
    """
    with _fonts_for([title]):
        _plot_run(log, out, _as_it_is(title))


def _plot_run(log: RunLog, out: Path, title: str) -> None:
    figure = Figure(figsize=(11, 7), dpi=_DOTS_A_INCH, layout="constrained")
    figure.suptitle(title, fontsize=13, color=_INK, x=0.01, ha="left")
    panels = figure.subplots(2, 2, sharex=True)
    last = max((line["step"] for line in (*log.steps, *log.evaluations)), default=1)
    _draw_loss(panels[0, 0], log)
    _draw_metrics(panels[0, 1], log)
    _draw_parts(panels[1, 0], log)
    _draw_rates(panels[1, 1], log)
    for panel in panels.flat:
        _tidy(panel)
        panel.set_xlim(0, last * 1.02)
        panel.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    for panel in panels[1]:
        panel.set_xlabel("step", color=_INK)
    _write(figure, out)


def plot_comparison(arms: Arms, out: Path, *, title: str, metrics: Sequence[str] = ("AP", "APr")) -> None:
    """Draw a point a seed, and mean and standard deviation an arm, a panel a metric.

    Args:
        arms: runs by arm, the first at the top.
        out: the file, written whole or not at all.
        title: above the panels.
        metrics: a panel each.
    """
    with _fonts_for([title, *arms]):
        _plot_comparison(arms, out, _as_it_is(title), metrics)


def _plot_comparison(arms: Arms, out: Path, title: str, metrics: Sequence[str]) -> None:
    figure = Figure(figsize=(2.4 + 3.9 * len(metrics), 1.5 + 0.62 * len(arms)), dpi=_DOTS_A_INCH, layout="constrained")
    figure.suptitle(title, fontsize=13, color=_INK, x=0.01, ha="left")
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for panel, metric in zip(panels, metrics, strict=True):
        _draw_arms(panel, arms, metric)
        _tidy(panel)
        panel.grid(visible=False, axis="y")
    labels = [_arm_label(arm, runs) for arm, runs in arms.items()]
    panels[0].set_yticks(range(len(arms)), labels, fontsize=10, color=_INK)
    panels[0].set_ylim(len(arms) - 0.4, -0.6)
    seeds = max((len(runs) for runs in arms.values()), default=0)
    figure.supxlabel(
        f"small points: single seeds (up to {seeds}); diamond and bar: mean ± standard deviation",
        fontsize=8.5,
        color=_QUIET,
    )
    _write(figure, out)


def _arm_label(arm: str, runs: Sequence[Metrics]) -> str:
    steps = spread([run.get(STEPS) for run in runs])
    name = _as_it_is(arm)
    return name if steps is None else f"{name}\n{steps.mean:,.0f} steps"


def _as_it_is(text: str) -> str:
    """A text of anybody's that matplotlib takes for no formula."""
    return one_line(text).replace("$", r"\$")


@contextmanager
def _fonts_for(texts: Sequence[str]) -> Iterator[None]:
    """Draw with fonts that have the letters of all scripts, where they are needed."""
    if all(text.isascii() for text in texts):
        yield
        return
    with rc_context({"font.family": ["DejaVu Sans", *_families()]}):
        yield


@lru_cache
def _families() -> tuple[str, ...]:
    """The families of `font_files`, made known to matplotlib."""
    fonts = font_manager.fontManager
    before = len(fonts.ttflist)
    for path in font_files():
        fonts.addfont(path)
    # The CJK file begins at its thinnest, of which matplotlib would warn at each look-up.
    fonts.ttflist[before:] = [replace(entry, weight=400) for entry in fonts.ttflist[before:]]
    return tuple(dict.fromkeys(entry.name for entry in fonts.ttflist[before:]))


def _draw_loss(panel: Axes, log: RunLog) -> None:
    panel.set_title("loss", loc="left", fontsize=10.5, color=_INK)
    steps = [line["step"] for line in log.steps]
    losses = [float(line["loss"]) for line in log.steps]
    panel.plot(steps, losses, color=_LINE_COLOURS[0], linewidth=0.6, alpha=0.35)
    panel.plot(steps, _smoothed(losses), color=_LINE_COLOURS[0], linewidth=1.8)
    _fit_losses(panel, [losses])


def _draw_parts(panel: Axes, log: RunLog) -> None:
    panel.set_title("losses of the final layer", loc="left", fontsize=10.5, color=_INK)
    parts = _parts(log)
    for index, (name, (steps, losses)) in enumerate(parts.items()):
        colour = _LINE_COLOURS[index % len(_LINE_COLOURS)]
        panel.plot(steps, _smoothed(losses), color=colour, linewidth=1.6, label=name)
    _fit_losses(panel, [_smoothed(losses) for _, losses in parts.values()])
    _legend(panel)


def _draw_metrics(panel: Axes, log: RunLog) -> None:
    panel.set_title("average precision", loc="left", fontsize=10.5, color=_INK)
    highest = 0.0
    for name, colour in _METRIC_COLOURS.items():
        points = [
            (line["step"], float(line["metrics"][name]))
            for line in log.evaluations
            if line["metrics"].get(name) is not None and is_defined(float(line["metrics"][name]))
        ]
        if not points:
            continue
        steps, values = zip(*points, strict=True)
        highest = max(highest, *values)
        wide = 2.4 if name == "AP" else 1.5
        panel.plot(
            steps, values, color=colour, linewidth=wide, marker="o", markersize=3.5, label=f"{name}  {values[-1]:.3f}"
        )
    panel.set_ylim(0, max(highest * 1.1, 0.05))
    _legend(panel)


def _draw_rates(panel: Axes, log: RunLog) -> None:
    panel.set_title("learning rate", loc="left", fontsize=10.5, color=_INK)
    lines = [(line["step"], _named_rates(line["lr"])) for line in log.steps if "lr" in line]
    names = list(dict.fromkeys(name for _, rates in lines for name in rates))
    highest = 0.0
    for index, name in enumerate(names):
        points = [(step, rates[name]) for step, rates in lines if name in rates]
        steps, values = zip(*points, strict=True)
        highest = max(highest, *values)
        panel.plot(steps, values, color=_LINE_COLOURS[index % len(_LINE_COLOURS)], linewidth=1.6, label=name)
    panel.set_ylim(0, highest * 1.08 or 1)
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if len(names) > 1:
        _legend(panel)


def _draw_arms(panel: Axes, arms: Arms, metric: str) -> None:
    panel.set_title(metric, loc="left", fontsize=10.5, color=_INK)
    colour = _METRIC_COLOURS.get(metric, _LINE_COLOURS[0])
    for row, runs in enumerate(arms.values()):
        values = spread([run.get(metric) for run in runs])
        if values is None:
            panel.text(0.5, row, "no value", transform=panel.get_yaxis_transform(), ha="center", color=_QUIET)
            continue
        deviation = values.deviation or 0.0
        panel.hlines(row, values.mean - deviation, values.mean + deviation, color=colour, linewidth=2.2, zorder=2)
        panel.plot(values.mean, row, "D", color=colour, markersize=7, markeredgecolor="white", zorder=4)
        # Beside the bar, where they are seen even if they lie close.
        seed_rows = np.full(len(values.values), row + 0.2)
        panel.plot(values.values, seed_rows, "o", color=colour, alpha=0.55, markersize=4, markeredgewidth=0, zorder=3)
        text = f"{values.mean:.3f}" + ("" if values.deviation is None else f" ± {values.deviation:.3f}")
        panel.text(values.mean, row - 0.2, text, ha="center", va="bottom", fontsize=8.5, color=_INK)
    panel.margins(x=0.18)
    panel.xaxis.set_major_locator(MaxNLocator(5))


def _parts(log: RunLog) -> dict[str, tuple[list[int], list[float]]]:
    """The final layer's losses by short name; all of them where none is the final layer's."""
    names = list(dict.fromkeys(name for line in log.steps for name in line.get("losses", {})))
    chosen = [name for name in names if not _PART_OF_A_LAYER.search(name)] or names[: len(_LINE_COLOURS)]
    parts = {}
    for name in chosen:
        points = [(line["step"], float(line["losses"][name])) for line in log.steps if name in line.get("losses", {})]
        steps, losses = zip(*points, strict=True)
        parts[name.removeprefix("loss_")] = (list(steps), list(losses))
    return parts


def _named_rates(rates: float | Sequence[float] | Mapping[str, float]) -> dict[str, float]:
    if isinstance(rates, Mapping):
        return {name: float(rate) for name, rate in rates.items()}
    if isinstance(rates, Sequence):
        return {f"group {index}": float(rate) for index, rate in enumerate(rates)}
    return {"lr": float(rates)}


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


def _legend(panel: Axes) -> None:
    if panel.get_legend_handles_labels()[0]:
        panel.legend(frameon=False, fontsize=9, labelcolor=_INK)


def _tidy(panel: Axes) -> None:
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        panel.spines[side].set_color("#bbbbbb")
    panel.grid(visible=True, color="#e6e6e6", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.tick_params(colors=_QUIET, labelsize=8.5, length=3)


def _write(figure: Figure, out: Path) -> None:
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    # No software version and date in the file: the same curves are the same bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_atomically(out, buffer.getvalue())
