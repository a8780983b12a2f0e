"""How much seeds scatter, and so what a number of them can see."""

import bisect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from benchmarks.evidence.arms import Arm
from benchmarks.evidence.comparisons import Comparison
from benchmarks.evidence.results import Results
from benchmarks.evidence.statistics import (
    MARGINS,
    POWER,
    narrowest_margin,
    pooled_deviation,
    smallest_difference,
    spread_of,
)
from benchmarks.evidence.tables import NOTHING, table

_COUNTS = (5, 10)
"""Numbers of seeds to tell of, beside the number at hand."""

_MOST_SEEDS = 1_000

_MEANING = (
    f"Seen means in {POWER:.0%} of such experiments, by a two-sided test of 5%; the narrowest margin is that within "
    "which two arms that don't differ at all are found as good as often. Both are of one comparison: Holm's correction "
    "for several makes them wider. Differences that share an arm are pooled as if they shared none, so they tell less "
    "than their degrees of freedom (d.f.) say."
)

_NOT_PAIRED = "No two arms that are compared have two seeds in common yet: these are differences of unpaired seeds."

Pooled = Mapping[str, tuple[float, int] | None]
"""A standard deviation and its degrees of freedom, by metric."""


def spread_section(arms: Sequence[Arm], results: Results, comparisons: Iterable[Comparison]) -> Iterator[str]:
    """Deviations, the smallest differences that can be seen for them, and what that means for equality."""
    # A pair may stand in two questions.
    distinct = list({(each.arm.name, each.reference.name): each for each in comparisons}.values())
    single = {metric: _of_arms(arms, results, metric) for metric in MARGINS}
    paired = {metric: _of_differences(distinct, metric) for metric in MARGINS}
    if None in single.values():
        yield "Not known yet: it takes two seeds of an arm."
        return
    baseline = [arm for arm in arms if arm.group == "baseline"]
    is_paired = None not in paired.values()
    used = paired if is_paired else _unpaired(single)
    most = max((each.pairs for each in distinct), default=0) if is_paired else max(len(results.of(arm)) for arm in arms)
    yield table(
        ["", *MARGINS],
        [
            [
                "standard deviation of the baseline",
                *_deviations({metric: _of_arms(baseline, results, metric) for metric in MARGINS}),
            ],
            ["of an arm, pooled over all", *_deviations(single)],
            ["of differences paired by seed, pooled over all", *_deviations(paired)],
            *_limits("smallest difference seen", smallest_difference, used, most),
            *_limits("narrowest margin that equal arms pass", narrowest_margin, used, most),
            ["margin set beforehand", *(f"{margin:.3f}" for margin in MARGINS.values())],
        ],
    )
    yield _MEANING
    pairing = _pairing(single, paired) if is_paired else _NOT_PAIRED
    yield " ".join((pairing, *(_seeds_for(metric, used, most) for metric in MARGINS)))


def _unpaired(single: Pooled) -> Pooled:
    """Deviations of the difference of two seeds that have nothing in common."""
    return {metric: each and (math.sqrt(2) * each[0], each[1]) for metric, each in single.items()}


def _of_arms(arms: Sequence[Arm], results: Results, metric: str) -> tuple[float, int] | None:
    spreads = [spread_of(results.metric(arm, metric).values()) for arm in arms]
    return pooled_deviation(spread for spread in spreads if spread)


def _of_differences(comparisons: Sequence[Comparison], metric: str) -> tuple[float, int] | None:
    differences = [each.differences[metric] for each in comparisons]
    return pooled_deviation(difference.spread for difference in differences if difference)


def _deviations(pooled: Pooled) -> list[str]:
    return [NOTHING if each is None else f"{each[0]:.3f} ({each[1]} d.f.)" for each in pooled.values()]


def _limits(name: str, limit: Callable[[float, int], float], paired: Pooled, most: int) -> Iterator[list[str]]:
    """A row a number of seeds, the one at hand first."""
    for count in sorted({most, *_COUNTS}):
        at_hand = ", as are at hand" if count == most else ""
        yield [f"{name}, {count} seeds{at_hand}", *(f"{limit(each[0], count):.3f}" for each in paired.values() if each)]


def _pairing(single: Pooled, paired: Pooled) -> str:
    """Whether one seed in two arms has something in common."""
    (alone, _), (together, _) = single["AP"] or (0.0, 0), paired["AP"] or (0.0, 0)
    expected = math.sqrt(2) * alone
    if together < 0.9 * expected:
        return f"Pairing pays: unpaired seeds would differ by {expected:.3f} AP instead of {together:.3f}."
    return f"Pairing brings little: unpaired seeds would differ by {expected:.3f} AP, paired ones do by {together:.3f}."


def _seeds_for(metric: str, paired: Pooled, most: int) -> str:
    """How many seeds equality takes."""
    deviation, _ = paired[metric] or (0.0, 0)
    margin = MARGINS[metric]
    # The margin that passes falls with the number of seeds.
    needed = 2 + bisect.bisect_left(
        range(2, _MOST_SEEDS), -margin, key=lambda count: -narrowest_margin(deviation, count)
    )
    if needed <= most:
        return f"Equality within {margin} {metric} can be shown with the {most} seeds at hand."
    return f"Equality within {margin} {metric} takes about {needed} seeds; {most} are at hand, at most."
