"""Lines over a quantity, each with a band of its spread, and the legend that names them."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from richsem_schemas.figures.lettering import one_line


@dataclass(frozen=True)
class Line:
    """One line of a plot, of N points.

    Attributes:
        label: its name in the legend.
        xs: N places.
        ys: N values.
        band: N lowest and N highest values beside them, such as mean minus and plus deviation; None draws no band.
        colour: None takes the next of the style.
        dashed: whether it is dashed.
        marker: of its points, in matplotlib's words; none by default.
    """

    label: str
    xs: Sequence[float]
    ys: Sequence[float]
    band: tuple[Sequence[float], Sequence[float]] | None = None
    colour: str | None = None
    dashed: bool = False
    marker: str = ""


def draw_lines(panel: Axes, lines: Sequence[Line]) -> None:
    """Draw lines, their bands behind them, and a legend."""
    for line in lines:
        (drawn,) = panel.plot(
            line.xs,
            line.ys,
            color=line.colour,
            linestyle="--" if line.dashed else "-",
            marker=line.marker,
            markersize=4,
            label=one_line(line.label),
        )
        if line.band is not None:
            panel.fill_between(line.xs, *line.band, color=drawn.get_color(), alpha=0.18, linewidth=0, zorder=1)
    add_legend(panel)


def add_legend(panel: Axes) -> None:
    """Name what has a label; nothing where nothing has."""
    if panel.get_legend_handles_labels()[0]:
        panel.legend()


def count_by_powers(panel: Axes) -> None:
    """Give counts, upwards, a logarithmic scale with numbers written out: the style sets no powers as mathematics."""
    panel.set_yscale("log")
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())
