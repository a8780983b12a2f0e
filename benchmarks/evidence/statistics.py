"""Arms compared seed by seed: differences with intervals, equivalence within a margin, what a number of seeds sees."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats
from scipy.special import ndtr, stdtr

MARGINS = {"AP": 0.02, "APr": 0.03}
"""Within which two arms are as good as each other; set before any run.

Half of what soft labels gained on the demo's detection pictures, rounded: 0.049 AP and 0.059 APr (`make demo-compare`).
A loss that large would take away what the labels are for. APr, of few boxes, scatters more, and gains more.
"""

LEVEL = 0.05
"""How often a family of tests may claim what isn't so."""

POWER = 0.8
"""How often a difference, or equality, is to be seen where it is."""

FEWEST_PAIRS = 3
"""Seeds that both arms need before anything is claimed; fewer are a trial."""

_EQUAL = 1e-12
"""Differences that scatter less than this don't scatter; no metric has as many digits."""

_QUANTILES = 10_000


class Verdict(StrEnum):
    """What the paired seeds say of an arm against another."""

    BETTER = "better"
    WORSE = "worse"
    AS_GOOD = "as good"
    UNDECIDED = "undecided"
    TRIAL = "trial"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Spread:
    """Several seeds' values.

    Attributes:
        deviation: sample standard deviation; None of fewer than two values.
        interval: 95% of the mean, by Student's t; None likewise.
    """

    values: tuple[float, ...]
    mean: float
    deviation: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Difference:
    """An arm's metric less another's, seed by seed.

    Attributes:
        spread: of the differences.
        p_difference: two-sided, of no difference; None of fewer than two pairs.
        p_equivalence: of a difference of the margin or more, the larger of two one-sided tests; None likewise.
    """

    spread: Spread
    p_difference: float | None
    p_equivalence: float | None

    @property
    def pairs(self) -> int:
        return len(self.spread.values)


def spread_of(values: Iterable[float]) -> Spread | None:
    """Mean, deviation and interval of the mean; None of nothing."""
    kept = tuple(values)
    if len(kept) < 2:
        return Spread(kept, kept[0], None, None) if kept else None
    mean, deviation = statistics.fmean(kept), statistics.stdev(kept)
    reach = float(stats.t.ppf(1 - LEVEL / 2, len(kept) - 1)) * deviation / math.sqrt(len(kept))
    return Spread(kept, mean, deviation, (mean - reach, mean + reach))


def paired_difference(arm: Mapping[int, float], reference: Mapping[int, float], margin: float) -> Difference | None:
    """An arm less a reference over the seeds that both have, values by seed; None where they share none."""
    spread = spread_of(arm[seed] - reference[seed] for seed in sorted(arm.keys() & reference.keys()))
    if spread is None:
        return None
    if spread.deviation is None:
        return Difference(spread, None, None)
    unequal = 2 * min(_p_above(spread.mean, spread), _p_above(-spread.mean, spread))
    return Difference(
        spread,
        p_difference=min(1.0, unequal),
        p_equivalence=max(_p_above(margin + spread.mean, spread), _p_above(margin - spread.mean, spread)),
    )


def _p_above(excess: float, spread: Spread) -> float:
    """One-sided p, by Student's t, of a mean that lies `excess` above a bound that the true one is not above."""
    assert spread.deviation is not None
    if spread.deviation < _EQUAL:
        return 0.0 if excess > _EQUAL else 1.0
    count = len(spread.values)
    return float(stdtr(count - 1, -excess / (spread.deviation / math.sqrt(count))))


def verdicts(differences: Sequence[Difference | None]) -> list[Verdict]:
    """One of each comparison of a family: the arms of one question, by one metric.

    Holm's correction holds the claims of a difference at 5% for the whole family, and those of equality likewise.
    Within the margin comes first: a difference that is sure and smaller than what was said to matter is as good.
    """
    tested = [each for each in differences if each is not None and each.pairs >= FEWEST_PAIRS]
    told = map(
        _verdict,
        tested,
        holm([each.p_difference for each in tested if each.p_difference is not None]),
        holm([each.p_equivalence for each in tested if each.p_equivalence is not None]),
    )
    return [
        Verdict.NOT_RUN if each is None else Verdict.TRIAL if each.pairs < FEWEST_PAIRS else next(told)
        for each in differences
    ]


def _verdict(difference: Difference, p_different: float, p_equal: float) -> Verdict:
    if p_equal < LEVEL:
        return Verdict.AS_GOOD
    if p_different < LEVEL:
        return Verdict.BETTER if difference.spread.mean > 0 else Verdict.WORSE
    return Verdict.UNDECIDED


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given: none is smaller than one before it when sorted, none is above 1.

    Source:
        Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    raised = accumulate(((len(order) - rank) * p_values[index] for rank, index in enumerate(order)), max)
    adjusted = dict(zip(order, raised, strict=True))
    return [min(1.0, adjusted[index]) for index in range(len(p_values))]


def pooled_deviation(spreads: Iterable[Spread]) -> tuple[float, int] | None:
    """The standard deviation that several samples have in common, and its degrees of freedom; None without any."""
    scattered = [each for each in spreads if each.deviation is not None]
    freedom = sum(len(each.values) - 1 for each in scattered)
    if not freedom:
        return None
    squares = math.fsum((len(each.values) - 1) * (each.deviation or 0.0) ** 2 for each in scattered)
    return math.sqrt(squares / freedom), freedom


def smallest_difference(deviation: float, pairs: int) -> float:
    """The difference that a paired, two-sided t-test of 5% sees with a power of 80%.

    Args:
        deviation: of the paired differences.
        pairs: seeds that both arms have, at least 2.
    """
    ratios, critical = _deviation_ratios(pairs - 1), stats.t.ppf(1 - LEVEL / 2, pairs - 1)

    def power(difference: float) -> float:
        """All in standard errors of the mean."""
        return np.mean(ndtr(difference - critical * ratios) + ndtr(-difference - critical * ratios))

    return _reaching_power(power, critical) * deviation / math.sqrt(pairs)


def narrowest_margin(deviation: float, pairs: int) -> float:
    """The margin within which arms that don't differ at all are found as good with a power of 80%, by one comparison.

    Args:
        deviation: of the paired differences.
        pairs: seeds that both arms have, at least 2.
    """
    ratios, critical = _deviation_ratios(pairs - 1), stats.t.ppf(1 - LEVEL, pairs - 1)

    def power(margin: float) -> float:
        """All in standard errors of the mean; both tests pass where |mean| + critical x deviation is within."""
        return np.mean(np.maximum(2 * ndtr(margin - critical * ratios) - 1, 0))

    return _reaching_power(power, critical) * deviation / math.sqrt(pairs)


def _deviation_ratios(freedom: int) -> NDArray[np.float64]:
    """Quantiles of a normal sample's deviation over the true one, which is independent of its mean; equally likely."""
    return np.sqrt(stats.chi2.ppf((np.arange(_QUANTILES) + 0.5) / _QUANTILES, freedom) / freedom)


def _reaching_power(power: Callable[[float], float], critical: float) -> float:
    return float(optimize.brentq(lambda size: power(size) - POWER, 0.0, 4 * critical + 4))
