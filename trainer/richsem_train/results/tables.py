"""The figures of a run and of a comparison of runs: tables to print and content for JSON files."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.markup import escape
from rich.table import Table

from richsem_schemas.io.words import printable_text
from richsem_schemas.scoring.metrics import METRICS, NOT_DEFINED, Metrics, is_defined, json_metrics

Arms = Mapping[str, Sequence[Metrics]]
"""The runs of each arm of a comparison, one a seed, in the same order of seeds in every arm."""

AP_UNDEFINED = "AP is undefined: the val split has no boxes that count"

STEPS = "steps"
"""Name of the number of steps among the values of a run."""

_NOTHING = "-"


@dataclass(frozen=True)
class SeedSpread:
    """Several seeds' values of one metric.

    Attributes:
        values: those that are defined.
        deviation: sample standard deviation; None of fewer than two values.
    """

    values: tuple[float, ...]
    mean: float
    deviation: float | None


def spread(values: Sequence[float | None]) -> SeedSpread | None:
    """Mean and sample standard deviation of the defined values; None where there are none."""
    defined = tuple(value for value in values if value is not None and is_defined(value))
    if not defined:
        return None
    return SeedSpread(defined, statistics.fmean(defined), statistics.stdev(defined) if len(defined) > 1 else None)


def results_table(rows: Mapping[str, Metrics], *, title: str) -> Table:
    """A row a model or evaluation, such as "last" and "best"; a column a metric, average precisions first."""
    names = _columns(list(rows.values()))
    table = _empty_table(title, names)
    for label, metrics in rows.items():
        table.add_row(_plain(label), *(_number(metrics.get(name)) for name in names))
    return table


def comparison_table(arms: Arms, *, title: str, columns: Sequence[str], baseline: str) -> Table:
    """A row an arm: mean and standard deviation over seeds, and the mean difference to the baseline, seed by seed.

    Where the runs took different numbers of steps a line below says so, since no other figure is comparable then.
    """
    table = _empty_table(title, columns)
    # Two runs of the demo fit into eighty letters without its edges.
    table.show_edge = False
    for arm, runs in arms.items():
        cells = []
        for name in columns:
            digits = 0 if name == STEPS else 3
            gain = None if arm == baseline else spread(paired_differences(runs, arms[baseline], name))
            difference = f"\n({gain.mean:+,.{digits}f})" if gain else ""
            cells.append(_mean_and_deviation(spread([run.get(name) for run in runs]), digits) + difference)
        table.add_row(_plain(arm), *cells)
    most = max(len(runs) for runs in arms.values())
    notes = [f"mean ± standard deviation over up to {most} seeds"] if most > 1 else []
    notes += [f"in brackets the difference to {baseline!r}"] if len(arms) > 1 else []
    if STEPS in columns and (unequal := _unequal_steps(arms)):
        notes.append(f"the runs took {unequal} steps, which alone may make the difference")
    table.caption = "\n".join(map(_plain, notes))
    return table


def _unequal_steps(arms: Arms) -> str | None:
    """The numbers of steps in words; None where all runs took the same."""
    steps = sorted({run[STEPS] for runs in arms.values() for run in runs if STEPS in run})
    return " or ".join(f"{number:,.0f}" for number in steps) if len(steps) > 1 else None


def paired_differences(runs: Sequence[Metrics], baseline: Sequence[Metrics], name: str) -> list[float]:
    """A metric's difference to the baseline, seed by seed, where both are defined."""
    pairs = [
        (run.get(name, NOT_DEFINED), base.get(name, NOT_DEFINED)) for run, base in zip(runs, baseline, strict=False)
    ]
    return [value - base for value, base in pairs if is_defined(value) and is_defined(base)]


def comparison_content(arms: Arms, *, baseline: str) -> dict[str, Any]:
    """The content of `comparison.json`: all seeds, means, deviations, paired differences to the baseline."""
    content: dict[str, Any] = {}
    for arm, runs in arms.items():
        summary = {name: _spread_content(spread([run.get(name) for run in runs])) for name in _columns(runs)}
        if arm != baseline:
            for name, figures in summary.items():
                figures["difference"] = _spread_content(spread(paired_differences(runs, arms[baseline], name)))
        content[arm] = {"seeds": [json_metrics(run) for run in runs], "summary": summary}
    return {"baseline": baseline, "arms": content}


def _columns(rows: Sequence[Metrics]) -> list[str]:
    """All names of the rows: average precisions in their order, then the others as they come."""
    present = list(dict.fromkeys(name for row in rows for name in row))
    return [name for name in METRICS if name in present] + [name for name in present if name not in METRICS]


def _empty_table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=_plain(title))
    table.add_column("", overflow="fold")
    for name in columns:
        table.add_column(name, justify="right")
    return table


def _plain(text: str) -> str:
    """Names and paths, of which nothing is markup or steers a terminal."""
    return escape(printable_text(text))


def _number(value: float | None) -> str:
    return _NOTHING if value is None or not is_defined(value) else f"{value:.3f}"


def _mean_and_deviation(values: SeedSpread | None, digits: int) -> str:
    if values is None:
        return _NOTHING
    mean = f"{values.mean:,.{digits}f}"
    # Counts that are all the same need no spread.
    if values.deviation is None or (digits == 0 and values.deviation == 0):
        return mean
    return f"{mean} ±{values.deviation:,.{digits}f}"


def _spread_content(values: SeedSpread | None) -> dict[str, Any]:
    return {
        "mean": values.mean if values else None,
        "standard_deviation": values.deviation if values else None,
        "seeds": len(values.values) if values else 0,
    }
