"""Instances over the rank of their category, a line a file, as the supplement's figure 3 has them."""

from collections.abc import Sequence
from pathlib import Path

from richsem_prep.analyses.frequency import FEW, Frequency
from richsem_schemas.figures.figure import QUIET, drawing_style, titled_figure, write_figure
from richsem_schemas.figures.lines import Line, count_by_powers, draw_lines

_FEW_CATEGORIES = 30
"""Of fewer each has a mark of its own."""


def draw_frequencies(found: Sequence[Frequency], out: Path) -> None:
    """Draw the instances of each category, most first, on a logarithmic scale, into one figure.

    Categories without instances have no place on such a scale and are left out.
    """
    title = "instances a category"
    with drawing_style([title, *(each.label for each in found)]):
        figure = titled_figure(title, 8, 4.6)
        panel = figure.subplots()
        count_by_powers(panel)
        draw_lines(panel, [_line(each) for each in found])
        panel.axhline(FEW, color=QUIET, linewidth=0.9, linestyle=":", zorder=1)
        panel.set_ylim(bottom=0.8)
        panel.set_xlim(left=0)
        panel.set_xlabel("rank of the category, most instances first")
        panel.set_ylabel(f"instances; dotted: {FEW}")
        write_figure(figure, out)


def _line(found: Frequency) -> Line:
    ranks = list(range(1, len(found.present) + 1))
    label = f"{found.label}: {len(ranks):,} categories"
    return Line(label, ranks, found.present, marker="o" if len(ranks) < _FEW_CATEGORIES else "")
