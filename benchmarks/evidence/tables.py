"""The tables of the page, as Markdown."""

from collections.abc import Iterable, Sequence

from benchmarks.evidence.arms import Arm
from benchmarks.evidence.comparisons import Comparison
from benchmarks.evidence.costs import Saving
from benchmarks.evidence.results import METRICS, Results
from benchmarks.evidence.statistics import FEWEST_PAIRS, MARGINS, Difference, Spread, Verdict, spread_of
from richsem_schemas.io.words import readable_bytes

NOTHING = "–"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def arms_table(arms: Sequence[Arm], results: Results) -> str:
    """A row an arm: accuracy with its spread, what a step and a run take, what its caches took and keep."""
    head = ["arm", "seeds", *METRICS, "s/step", "a run", "preparation", "in all", "kept on disk"]
    return table(head, [_arm_row(arm, results) for arm in arms])


def _arm_row(arm: Arm, results: Results) -> list[str]:
    needed = results.preparation(arm)
    kept = NOTHING if not needed or not arm.passes else readable_bytes(needed.label_bytes + needed.picture_bytes)
    preparation = NOTHING if not needed or not arm.passes else duration(needed.processor_s)
    runs = results.of(arm)
    if not runs:
        return [arm.title, "not run", *[NOTHING] * (len(METRICS) + 2), preparation, NOTHING, kept]
    seconds = spread_of(results.run_seconds(arm))
    whole = NOTHING if seconds is None or needed is None else duration(seconds.mean + needed.processor_s)
    return [
        arm.title,
        seeds_of(len(runs)),
        *(_mean(spread_of(results.metric(arm, name).values())) for name in METRICS),
        _mean(spread_of(results.step_seconds(arm).values()), digits=2),
        NOTHING if seconds is None else duration(seconds.mean),
        preparation,
        whole,
        kept,
    ]


def seeds_of(count: int) -> str:
    """How many seeds, and that few are a trial."""
    return str(count) if count >= FEWEST_PAIRS else f"{count}, trial"


def _mean(values: Spread | None, digits: int = 3) -> str:
    if values is None:
        return NOTHING
    mean = f"{values.mean:.{digits}f}"
    return mean if values.deviation is None else f"{mean} ± {values.deviation:.{digits}f}"


def duration(seconds: float) -> str:
    """Processor time with the unit that reads best."""
    if abs(seconds) < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if abs(seconds) < 7200 else f"{seconds / 3600:.1f} h"


def differences_table(comparisons: Sequence[Comparison]) -> str:
    """A row a comparison: the paired differences with their 95% intervals, and what is claimed of them."""
    head = ["arm", "against", "paired seeds"]
    for metric in MARGINS:
        head += [metric, ""]
    return table(head, [_difference_row(each) for each in comparisons if each.pairs])


def _difference_row(comparison: Comparison) -> list[str]:
    cells = [comparison.arm.title, comparison.reference.title, str(comparison.pairs)]
    for metric in MARGINS:
        verdict = comparison.verdicts[metric]
        cells += [_difference(comparison.differences[metric]), NOTHING if verdict == Verdict.NOT_RUN else str(verdict)]
    return cells


def _difference(difference: Difference | None) -> str:
    if difference is None:
        return NOTHING
    spread = difference.spread
    # Of two seeds, an interval is thirteen deviations wide.
    if spread.interval is None or difference.pairs < FEWEST_PAIRS:
        return f"{spread.mean:+.3f}"
    return f"{spread.mean:+.3f} ({spread.interval[0]:+.3f} to {spread.interval[1]:+.3f})"


def savings_table(savings: Sequence[Saving]) -> str:
    """A row a cached arm: what its cache takes and saves against asking the teacher in each step."""
    head = ["arm", "against", "seeds", "s/step", "online", "saved a run", "preparation", "pays", "labels", "pictures"]
    return table(head, [_saving_row(each) for each in savings])


def _saving_row(saving: Saving) -> list[str]:
    return [
        saving.arm.title,
        saving.online.title,
        seeds_of(len(saving.saved_s.values)),
        f"{saving.step_s:.2f}",
        f"{saving.online_step_s:.2f}",
        duration(saving.saved_s.mean),
        duration(saving.preparation_s),
        saving.answer,
        readable_bytes(saving.label_bytes),
        readable_bytes(saving.picture_bytes),
    ]


def label_sizes_table(arms: Sequence[Arm], results: Results) -> str | None:
    """Bytes a region of the labels that each arm reads; None where no cache is there."""
    rows = [[arm.title, f"{size:,.0f}"] for arm in arms if (size := bytes_a_region(arm, results)) is not None]
    return table(["arm", "bytes a region"], rows) if rows else None


def bytes_a_region(arm: Arm, results: Results) -> float | None:
    """Of the label sets that an arm reads; None where one of them has no figures."""
    caches = [results.caches[name] for name in arm.label_sets if name in results.caches]
    regions = sum(cache.regions for cache in caches)
    if len(caches) < len(arm.label_sets) or not regions:
        return None
    return sum(cache.label_bytes for cache in caches) / regions
