"""The basis of all figures: a style, a titled page, and a file of it that is written whole or not at all."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from cycler import cycler
from matplotlib import font_manager, rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from richsem_schemas.errors import RichSemError
from richsem_schemas.figures.lettering import font_files, one_line
from richsem_schemas.io.files import write_atomically

INK = "#222222"
QUIET = "#8a8a8a"
LINE_COLOURS = ("#2b8cc4", "#cc3300", "#009e73", "#a88f00", "#9a5b8c", "#555555", "#e69f00")

_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#bbbbbb",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.prop_cycle": cycler(color=LINE_COLOURS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "grid.color": "#e6e6e6",
    "legend.fontsize": 9,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.6,
    # Ids within an SVG are drawn from it: the same figure is the same bytes.
    "svg.hashsalt": "richsem",
    "text.parse_math": False,
    "xtick.color": QUIET,
    "xtick.labelsize": 8.5,
    "xtick.major.size": 3,
    "ytick.color": QUIET,
    "ytick.labelsize": 8.5,
    "ytick.major.size": 3,
}

_DOTS_A_INCH = 130

# No software version and no date.
_METADATA: dict[str, dict[str, None]] = {"png": {"Software": None}, "svg": {"Creator": None, "Date": None}}


@contextmanager
def drawing_style(texts: Sequence[str]) -> Iterator[None]:
    """Draw in our style, with fonts that have the letters of all scripts where these texts need them.

    All from `titled_figure` to `write_figure` goes inside.
    """
    families = () if all(text.isascii() for text in texts) else _families()
    with rc_context({**_STYLE, "font.family": ["DejaVu Sans", *families]}):
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


def titled_figure(title: str, width: float, height: float) -> Figure:
    """An empty figure of this size, inches, its title at the upper left."""
    figure = Figure(figsize=(width, height), dpi=_DOTS_A_INCH, layout="constrained")
    figure.suptitle(one_line(title), fontsize=13, color=INK, x=0.01, ha="left")
    return figure


def require_figure_name(path: Path) -> None:
    """Check that a figure can be written under this name.

    Raises:
        RichSemError: it is neither a PNG's nor an SVG's.
    """
    if path.suffix.lower() not in {".png", ".svg"}:
        raise RichSemError(f"{path}: a figure is a .png or an .svg; name it so")


def write_figure(figure: Figure, out: Path) -> None:
    """Write a figure as SVG under such a name, else as PNG: whole or not at all, the same figure as the same bytes."""
    kind = "svg" if out.suffix.lower() == ".svg" else "png"
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata=_METADATA[kind])
    write_atomically(out, buffer.getvalue())
