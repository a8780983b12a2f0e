"""Lines over a quantity as coordinates, for an SVG within a page, which gives them the colours of its theme."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WIDTH, HEIGHT = 360, 200
"""Of the plotting area, in the chart's own units."""

_MOST_POINTS = 300


@dataclass(frozen=True)
class ChartLine:
    """A line: its name, a class of the style sheet, points `x,y` of a polyline, and its last value in words."""

    name: str
    style: str
    points: str
    last: str = ""


@dataclass(frozen=True)
class Chart:
    """Lines with their ticks, each a place and a text; what the axes are."""

    title: str
    lines: tuple[ChartLine, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    x_label: str
    has_diagonal: bool = False


@dataclass(frozen=True)
class Series:
    """N places and values of a line; NaN are left out."""

    name: str
    style: str
    xs: Sequence[float]
    ys: Sequence[float]
    last: str = ""


def draw_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    has_diagonal: bool = False,
) -> Chart | None:
    """Lay lines out; None where there is no point at all. Ranges are those of the points, from 0, unless given."""
    known = [(each, *_known(each)) for each in series]
    known = [entry for entry in known if len(entry[1])]
    if not known:
        return None
    x_low, x_high = x_range or (0.0, float(max(xs.max() for _, xs, _ in known)))
    y_low, y_high = y_range or (0.0, float(max(np.quantile(ys, 0.99) for _, _, ys in known)) * 1.08)
    x_high, y_high = max(x_high, x_low + 1e-9), max(y_high, y_low + 1e-9)
    lines = []
    for each, xs, ys in known:
        across = (xs - x_low) / (x_high - x_low) * WIDTH
        up = HEIGHT - np.clip((ys - y_low) / (y_high - y_low), 0, 1) * HEIGHT
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across.tolist(), up.tolist(), strict=True))
        lines.append(ChartLine(each.name, each.style, points, each.last))
    return Chart(
        title,
        tuple(lines),
        tuple(((tick - x_low) / (x_high - x_low) * WIDTH, _text(tick)) for tick in _ticks(x_low, x_high)),
        tuple((HEIGHT - (tick - y_low) / (y_high - y_low) * HEIGHT, _text(tick)) for tick in _ticks(y_low, y_high)),
        x_label,
        has_diagonal,
    )


def thinned(xs: Sequence[float], ys: Sequence[float]) -> tuple[list[float], list[float]]:
    """At most `_MOST_POINTS` points: means of as many neighbours as that takes; values that aren't finite left out."""
    places, values = np.asarray(xs, np.float64), np.asarray(ys, np.float64)
    is_finite = np.isfinite(values)
    places, values = places[is_finite], values[is_finite]
    if not len(places):
        return [], []
    groups = np.array_split(np.arange(len(places)), min(_MOST_POINTS, len(places)))
    return [float(places[group].mean()) for group in groups], [float(values[group].mean()) for group in groups]


def _known(series: Series) -> tuple[np.ndarray, np.ndarray]:
    xs, ys = np.asarray(series.xs, np.float64), np.asarray(series.ys, np.float64)
    is_known = np.isfinite(xs) & np.isfinite(ys)
    return xs[is_known], ys[is_known]


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, about four steps."""
    step = 10.0 ** np.floor(np.log10((high - low) / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 5)
    first = np.ceil(low / step - 1e-9)
    return [float(number * step) + 0.0 for number in np.arange(first, np.floor(high / step + 1e-9) + 1)]


def _text(tick: float) -> str:
    return f"{tick:,.0f}" if abs(tick) >= 100 else f"{tick:.4g}"
