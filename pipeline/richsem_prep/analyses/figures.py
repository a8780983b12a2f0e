"""Pictures of analyses: bars by frequency for zero-shot classification, curves over the noise of boxes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from richsem_prep.analyses.judged_classes import ALL, GROUPS
from richsem_prep.analyses.location_noise import LocationNoise
from richsem_prep.analyses.zero_shot import ZeroShot
from richsem_schemas.figures.figure import INK, LINE_COLOURS, QUIET, drawing_style, titled_figure, write_figure
from richsem_schemas.figures.lines import Line, draw_lines

_Values = Mapping[str, float | None]
"""By group, from 0 to 1."""

_LEAST_SPAN = 10.0
"""Percent."""


def draw_zero_shot(found: ZeroShot, out: Path) -> None:
    """Draw a panel a measure, with a bar for each number of most probable classes in each group."""
    panels: dict[str, list[_Values]] = {
        "accuracy, mean over categories": [each.over_categories for each in found.accuracies],
        "accuracy over boxes": [each.over_boxes for each in found.accuracies],
    }
    if found.precisions is not None:
        panels["AP"] = [each.precision for each in found.precisions]
    labels = [f"top {each.top_k}" for each in found.accuracies]
    title = f"{found.teacher}: {found.groups[ALL].boxes:,} annotated boxes classified without training"
    with drawing_style([title]):
        figure = titled_figure(title, 1.6 + 3.4 * len(panels), 3.9)
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        groups = GROUPS if found.has_frequencies else (ALL,)
        for panel, (name, values) in zip(axes, panels.items(), strict=True):
            panel.set_title(name)
            _draw_bars(panel, values, labels, groups)
        axes[0].set_ylabel("%")
        axes[0].margins(y=0.12)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(labels))
        write_figure(figure, out)


def _draw_bars(panel: Axes, values: Sequence[_Values], labels: Sequence[str], groups: Sequence[str]) -> None:
    width = 0.8 / len(values)
    for number, (by_group, label) in enumerate(zip(values, labels, strict=True)):
        places = np.arange(len(groups)) + (number - (len(values) - 1) / 2) * width
        heights = [100 * (by_group[group] or 0.0) for group in groups]
        colour = LINE_COLOURS[number % len(LINE_COLOURS)]
        bars = panel.bar(places, heights, width * 0.92, color=colour, label=label)
        texts = [
            "-" if by_group[group] is None else f"{height:.0f}" for group, height in zip(groups, heights, strict=True)
        ]
        panel.bar_label(bars, texts, fontsize=7.5, color=INK, padding=1)
    panel.set_xticks(range(len(groups)), groups, fontsize=9, color=INK)
    panel.grid(visible=False, axis="x")


def draw_location_noise(found: LocationNoise, out: Path) -> None:
    """Draw accuracy over the noise scale, a line for each number of most probable classes above 1, and the KL."""
    title = f"{found.teacher}: soft labels as boxes are moved"
    scales = [at.noise_scale for at in found.scales]
    with drawing_style([title]):
        figure = titled_figure(title, 9.2, 3.9)
        accuracy, divergence = figure.subplots(1, 2)
        accuracy.set_title("accuracy, mean over categories")
        draw_lines(accuracy, _accuracy_lines(found, scales))
        accuracy.set_ylabel("%")
        _span(accuracy)
        divergence.set_title("KL of the label from that of the clean box")
        means, medians = [at.kl.mean for at in found.scales], [at.kl.median for at in found.scales]
        draw_lines(
            divergence,
            [
                Line("mean", scales, means, marker="o"),
                Line("median", scales, medians, dashed=True, marker="o", colour=QUIET),
            ],
        )
        divergence.set_ylabel("nats" if found.labels == "embedding" else "nats, a lower bound")
        divergence.set_ylim(bottom=0)
        for panel in (accuracy, divergence):
            panel.set_xlabel("noise scale, half sides of a box")
            panel.set_xlim(-0.02 * max(scales), 1.02 * max(scales))
        write_figure(figure, out)


def _span(panel: Axes) -> None:
    """Show at least so many percent that what is next to nothing looks like it."""
    low, high = panel.get_ylim()
    panel.set_ylim(max(min(low, high - _LEAST_SPAN), 0.0), high)


def _accuracy_lines(found: LocationNoise, scales: Sequence[float]) -> list[Line]:
    numbers = [each.top_k for each in found.scales[0].accuracies]
    shown = [at for at, top_k in enumerate(numbers) if top_k > 1] or range(len(numbers))
    values = [[100 * (at.accuracies[each].over_categories[ALL] or 0.0) for at in found.scales] for each in shown]
    return [
        Line(f"top {numbers[each]}", scales, line, marker="o", colour=LINE_COLOURS[each % len(LINE_COLOURS)])
        for each, line in zip(shown, values, strict=True)
    ]
