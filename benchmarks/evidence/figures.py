"""The figures of the page: accuracy arm by arm, and what runs cost in all."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from benchmarks.evidence.arms import Arm
from benchmarks.evidence.comparisons import Comparison
from benchmarks.evidence.costs import NEVER, Saving
from benchmarks.evidence.questions import kind_of
from benchmarks.evidence.results import Results
from benchmarks.evidence.statistics import FEWEST_PAIRS, MARGINS, spread_of
from richsem_schemas.figures.figure import INK, LINE_COLOURS, QUIET, drawing_style, titled_figure, write_figure

_COLOURS = {"AP": INK, "APr": LINE_COLOURS[1]}
_MARGIN_COLOUR = LINE_COLOURS[2]
_BORROWING = ("fresh", "free-mosaics")
"""Kinds of views whose lines are dashed, beside stored ones of the same label set."""

_SHORTEST, _LONGEST = 5, 40
"""Bounds of the runs that costs are drawn over."""


def draw_arms(arms: Sequence[Arm], results: Results, held_against: Sequence[Comparison], out: Path) -> None:
    """A row an arm that has run, a panel a metric: a point a seed, the mean and, of enough seeds, its 95% interval.

    The margin around an online arm is drawn behind it and behind all that `held_against` holds against it.
    """
    shown = [arm for arm in arms if results.of(arm)]
    with drawing_style([arm.title for arm in shown]):
        figure = titled_figure("Accuracy by arm", 10.5, 1.6 + 0.3 * len(shown))
        panels = figure.subplots(1, len(MARGINS), sharey=True, squeeze=False)[0]
        for panel, metric in zip(panels, MARGINS, strict=True):
            panel.set_title(metric)
            for row, arm in enumerate(shown):
                _draw_arm(panel, row, results.metric(arm, metric), metric)
            _draw_margins(panel, shown, results, held_against, metric)
            panel.grid(visible=False, axis="y")
            panel.xaxis.set_major_locator(MaxNLocator(6))
        panels[0].set_yticks(range(len(shown)), [arm.title for arm in shown], fontsize=9, color=INK)
        panels[0].set_ylim(len(shown) - 0.4, -0.6)
        figure.supxlabel(
            f"points: seeds; diamond and bar: mean and its 95% interval, from {FEWEST_PAIRS} seeds on; green: the "
            "margin around the online arm. Tests are of differences seed by seed.",
            fontsize=8.5,
            color=QUIET,
        )
        write_figure(figure, out)


def _draw_arm(panel: Axes, row: int, values: dict[int, float], metric: str) -> None:
    spread = spread_of(values.values())
    if spread is None:
        panel.text(0.5, row, "no value", transform=panel.get_yaxis_transform(), ha="center", va="center", color=QUIET)
        return
    colour = _COLOURS[metric]
    rows = np.full(len(spread.values), row + 0.2)
    panel.plot(spread.values, rows, "o", color=colour, alpha=0.55, markersize=4, markeredgewidth=0, zorder=3)
    if spread.interval is not None and len(values) >= FEWEST_PAIRS:
        panel.hlines(row, *spread.interval, color=colour, linewidth=2, zorder=3)
        panel.plot(spread.mean, row, "D", color=colour, markersize=6, markeredgecolor="white", zorder=4)


def _draw_margins(
    panel: Axes, shown: Sequence[Arm], results: Results, held_against: Sequence[Comparison], metric: str
) -> None:
    """The margin around the mean of an online arm, behind it and what is held against it."""
    rows = {arm.name: row for row, arm in enumerate(shown)}
    behind = {(each.reference.name, name): each.reference for each in held_against for name in _names(each)}
    for (_, name), online in behind.items():
        spread = spread_of(results.metric(online, metric).values())
        if name in rows and spread is not None and len(spread.values) >= FEWEST_PAIRS:
            low, high = spread.mean - MARGINS[metric], spread.mean + MARGINS[metric]
            panel.fill_betweenx([rows[name] - 0.5, rows[name] + 0.5], low, high, color=_MARGIN_COLOUR, alpha=0.15, lw=0)


def _names(comparison: Comparison) -> tuple[str, str]:
    return comparison.arm.name, comparison.reference.name


def draw_costs(savings: Sequence[Saving], out: Path) -> None:
    """Processor hours over the number of runs, preparation included: a panel an online arm, a line a cache."""
    by_online: dict[str, list[Saving]] = {}
    for saving in savings:
        by_online.setdefault(saving.online.title, []).append(saving)
    with drawing_style(list(by_online)):
        figure = titled_figure("Processor hours, preparation included", 10.5, 6)
        panels = figure.subplots(1, len(by_online), squeeze=False)[0]
        for panel, (title, of_online) in zip(panels, by_online.items(), strict=True):
            panel.set_title(title)
            _draw_costs(panel, of_online)
        figure.supxlabel(
            "over the runs with one cache; steps alone, as evaluation is the same", fontsize=8.5, color=QUIET
        )
        write_figure(figure, out)


def _draw_costs(panel: Axes, savings: Sequence[Saving]) -> None:
    paying = [saving.runs for saving in savings if saving.runs != NEVER]
    runs = np.arange(int(np.clip(1.5 * max(paying, default=0), _SHORTEST, _LONGEST)) + 1)
    first = savings[0]
    panel.plot(runs, runs * first.online_step_s * first.steps / 3600, color=INK, linewidth=2.6, label="online")
    label_sets = sorted({saving.arm.label_sets for saving in savings})
    for saving in savings:
        place = label_sets.index(saving.arm.label_sets)
        panel.plot(
            runs,
            (saving.preparation_s + runs * saving.step_s * saving.steps) / 3600,
            color=LINE_COLOURS[place % len(LINE_COLOURS)],
            linestyle="--" if kind_of(saving.arm) in _BORROWING else "-",
            label=saving.arm.title,
        )
    panel.set_xlim(0, runs[-1])
    panel.set_ylim(0, None)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set_ylabel("processor hours")
    # Below, since lines fill the panel from corner to corner.
    panel.legend(fontsize=8, loc="upper left", bbox_to_anchor=(-0.02, -0.08))
