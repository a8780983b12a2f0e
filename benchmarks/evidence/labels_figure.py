"""The picture of label distances: how far each form is from the exact label, and how far it turns the gradient."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.evidence.forms import EXACT
from benchmarks.evidence.gradients import ANOTHER_BATCH
from richsem_schemas.figures.figure import INK, LINE_COLOURS, drawing_style, titled_figure, write_figure

LEAST_KL, LEAST_TURN = 1e-7, 1e-8
"""What is nearer stands at the edge."""

TITLES = {"windows": "boxes of windows", "mosaics": "tiles of mosaics"}
_COLOURS = {"demo": LINE_COLOURS[0], "pictures": LINE_COLOURS[1]}
_APART = 0.17
"""Between the worlds, and the students, of one form; rows are 1 apart."""


def shown_kinds(figures: Mapping[str, Any]) -> list[str]:
    """The kinds of views that have been measured and are drawn."""
    return [kind for kind in TITLES if _measured(figures["worlds"], kind)]


def _measured(worlds: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """By world."""
    return {world: kinds[kind] for world, kinds in worlds.items() if kinds.get(kind, {}).get("forms")}


def draw(figures: Mapping[str, Any], path: Path) -> None:
    """A row of panels for each of `shown_kinds`, one at least: KL, and 1 - cosine of the soft loss's gradients."""
    worlds = figures["worlds"]
    path.parent.mkdir(parents=True, exist_ok=True)
    with drawing_style([]):
        figure = titled_figure("How far a cached label is from the exact one", 10, 10)
        shown = shown_kinds(figures)
        axes = figure.subplots(len(shown), 2, sharey="row", squeeze=False)
        for row, kind in zip(axes, shown, strict=True):
            _draw_kind(row, _measured(worlds, kind), TITLES[kind])
        handles = {
            label: handle
            for panel in axes.flat
            for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2)
        write_figure(figure, path)


def _draw_kind(row: Any, worlds: dict[str, Any], title: str) -> None:
    """Both panels of a kind of views; a line a form, and beside each other the worlds."""
    names = [name for name in next(iter(worlds.values()))["forms"] if name != EXACT] + [ANOTHER_BATCH]
    places = {name: place for place, name in enumerate(names)}
    for offset, (world, node) in zip((-_APART, _APART), worlds.items(), strict=False):
        _draw_kl(row[0], node["forms"], places, offset, world)
        _draw_turns(row[1], node["gradients"], places, offset, world)
    row[0].set_yticks(range(len(names)), names, color=INK)
    row[0].invert_yaxis()
    row[0].set(title=f"{title}: label", xlabel="KL(exact ‖ cached), nats: mean, quartiles")
    row[1].set(title=f"{title}: gradient", xlabel="1 - cosine of the soft loss's gradients: median, quartiles")
    for panel in row:
        panel.set_xscale("log")
        # The style sets no powers as mathematics.
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.xaxis.set_minor_formatter(NullFormatter())


def _draw_kl(panel: Any, forms: dict[str, Any], places: dict[str, int], offset: float, world: str) -> None:
    """Where the cached label rules out what the exact one allows, KL is infinite: the other direction, hollow."""
    colour = _COLOURS.get(world, LINE_COLOURS[2])
    for name, place in places.items():
        found = forms.get(name)
        if found is None:
            continue
        is_finite = found["kl"]["mean"] is not None
        values = found["kl"] if is_finite else found["kl_reversed"]
        if values["mean"] is None:
            continue
        low, high, mean = (max(value, LEAST_KL) for value in (*values["quartiles"], values["mean"]))
        panel.plot([low, high], [place + offset] * 2, color=colour, lw=1.5, alpha=0.5)
        label = f"{world}: KL(exact ‖ cached)" if is_finite else f"{world}: KL(cached ‖ exact), the other is infinite"
        panel.plot([mean], [place + offset], "o", color=colour, mfc=colour if is_finite else "white", ms=5, label=label)


def _draw_turns(panel: Any, students: dict[str, Any], places: dict[str, int], offset: float, world: str) -> None:
    colour = _COLOURS.get(world, LINE_COLOURS[2])
    for student, forms in students.items():
        is_trained = student == "trained"
        for name, place in places.items():
            if name not in forms or forms[name]["detector"]["cosine"]["median"] is None:
                continue
            cosine = forms[name]["detector"]["cosine"]
            high, low, median = (max(1 - value, LEAST_TURN) for value in (*cosine["quartiles"], cosine["median"]))
            at = place + offset + (0 if is_trained else _APART / 2)
            panel.plot([low, high], [at] * 2, color=colour, lw=1.5, alpha=0.5)
            panel.plot(
                [median], [at], "D", color=colour, mfc=colour if is_trained else "white", ms=5 if is_trained else 4,
                label=f"{world}: {student} detector",
            )  # fmt: skip
