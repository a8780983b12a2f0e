"""Paired tests against scipy's and the textbook's formulas; error rates and powers against simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from benchmarks.evidence.statistics import (
    Verdict,
    holm,
    narrowest_margin,
    paired_difference,
    pooled_deviation,
    smallest_difference,
    spread_of,
    verdicts,
)

MARGIN = 0.02


def by_seed(values):
    return dict(enumerate(values))


def difference_of(values, margin=MARGIN):
    """A comparison whose paired differences are these."""
    return paired_difference(by_seed(values), by_seed([0.0] * len(values)), margin)


def drawn(seed, pairs, mean, deviation=0.01):
    return np.random.default_rng(seed).normal(mean, deviation, pairs)


def test_spread_is_that_of_the_textbook():
    # t(0.975, 2) = 4.3027; deviation of 1, 2, 4 is sqrt(7 / 3).
    spread = spread_of([1.0, 2.0, 4.0])
    reach = 4.302653 * math.sqrt(7 / 3) / math.sqrt(3)
    assert spread.mean == pytest.approx(7 / 3)
    assert spread.deviation == pytest.approx(math.sqrt(7 / 3))
    assert spread.interval == pytest.approx((7 / 3 - reach, 7 / 3 + reach), rel=1e-6)


def test_one_value_has_no_deviation_and_none_no_spread():
    assert spread_of([0.5]).interval is None
    assert spread_of([]) is None


@pytest.mark.parametrize("pairs", [2, 3, 7])
def test_p_of_a_difference_is_that_of_a_paired_t_test(pairs):
    rng = np.random.default_rng(pairs)
    arm, reference = rng.normal(0.5, 0.05, pairs), rng.normal(0.45, 0.05, pairs)
    found = paired_difference(by_seed(arm), by_seed(reference), MARGIN)
    theirs = stats.ttest_rel(arm, reference)
    assert found.p_difference == pytest.approx(theirs.pvalue)
    assert found.spread.interval == pytest.approx(tuple(theirs.confidence_interval(0.95)))


@pytest.mark.parametrize("mean", [-0.03, -0.01, 0.0, 0.015, 0.04])
def test_p_of_equality_is_that_of_two_one_sided_tests(mean):
    # As statsmodels' ttost_paired has it: t of the mean's distance to either bound, the larger p counts.
    values = drawn(5, 6, mean)
    error = values.std(ddof=1) / math.sqrt(6)
    lower, upper = (values.mean() + MARGIN) / error, (values.mean() - MARGIN) / error
    expected = max(stats.t.sf(lower, 5), stats.t.cdf(upper, 5))
    assert difference_of(values).p_equivalence == pytest.approx(expected)


def test_equality_is_claimed_where_the_interval_of_90_percent_is_within_the_margin():
    for seed in range(200):
        values = drawn(seed, 4, 0.005, 0.008)
        error = values.std(ddof=1) / 2
        reach = stats.t.ppf(0.95, 3) * error
        within = values.mean() - reach > -MARGIN and values.mean() + reach < MARGIN
        assert (difference_of(values).p_equivalence < 0.05) == within


def test_only_seeds_that_both_arms_have_count():
    found = paired_difference({0: 0.5, 1: 0.7, 5: 0.9}, {1: 0.4, 2: 0.1, 5: 0.5}, MARGIN)
    assert found.spread.values == pytest.approx((0.3, 0.4))
    assert paired_difference({0: 0.5}, {1: 0.4}, MARGIN) is None


def test_differences_that_do_not_scatter_need_no_test():
    assert difference_of([0.0, 0.0, 0.0]).p_difference == 1
    assert difference_of([0.0, 0.0, 0.0]).p_equivalence == 0
    assert difference_of([0.1, 0.1, 0.1]).p_difference == 0
    assert difference_of([0.1, 0.1, 0.1]).p_equivalence == 1
    assert difference_of([0.02, 0.02, 0.02]).p_equivalence == 1


@pytest.mark.parametrize("pairs", [3, 5])
@pytest.mark.parametrize("deviation", [0.003, 0.01, 0.03])
def test_arms_a_margin_apart_are_seldom_called_as_good(pairs, deviation):
    rng = np.random.default_rng(1)
    trials = [difference_of(rng.normal(MARGIN, deviation, pairs)) for _ in range(1500)]
    rate = np.mean([each.p_equivalence < 0.05 for each in trials])
    # Three standard errors of a rate of 5%.
    assert rate <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / len(trials))


def test_verdicts_by_hand():
    differences = [
        difference_of([0.001, -0.001, 0.002, 0.0]),
        difference_of([0.050, 0.052, 0.049, 0.051]),
        difference_of([-0.050, -0.052, -0.049, -0.051]),
        difference_of([-0.050, 0.052, 0.049, -0.021]),
        difference_of([0.050, 0.050]),
        None,
    ]
    assert verdicts(differences) == [
        Verdict.AS_GOOD, Verdict.BETTER, Verdict.WORSE, Verdict.UNDECIDED, Verdict.TRIAL, Verdict.NOT_RUN,
    ]  # fmt: skip


def test_a_sure_difference_within_the_margin_is_as_good():
    small = difference_of([0.010, 0.011, 0.009, 0.010])
    assert small.p_difference < 0.01
    assert verdicts([small]) == [Verdict.AS_GOOD]


def test_what_one_comparison_claims_alone_many_may_not():
    # p of 0.03: below 5%, and above 5% / 2.
    found = next(
        each for each in (difference_of(drawn(seed, 5, 0.05, 0.04), 0.0) for seed in range(500))
        if 0.026 < each.p_difference < 0.04 and each.spread.mean > 0
    )  # fmt: skip
    undecided = difference_of([-0.1, 0.1, 0.05, -0.05], 0.0)
    assert verdicts([found]) == [Verdict.BETTER]
    assert verdicts([found, undecided]) == [Verdict.UNDECIDED, Verdict.UNDECIDED]


def test_trials_do_not_count_for_the_family():
    found = difference_of([0.050, 0.052, 0.049, 0.047], 0.0)
    trial = difference_of([0.0, 0.1], 0.0)
    assert verdicts([found, *[trial] * 1000])[0] == Verdict.BETTER


def test_a_family_of_equal_arms_seldom_has_one_called_different():
    rng = np.random.default_rng(7)
    families = [[difference_of(rng.normal(0, 0.03, 4), 0.001) for _ in range(4)] for _ in range(500)]
    wrong = np.mean([bool({Verdict.BETTER, Verdict.WORSE} & set(verdicts(family))) for family in families])
    assert wrong <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / len(families))


def test_holm_is_that_of_r():
    # p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


def test_deviations_are_pooled_by_degrees_of_freedom():
    # Variances 2 (1 degree) and 1 (2 degrees).
    spreads = [spread_of([0.0, 2.0]), spread_of([1.0, 2.0, 3.0]), spread_of([5.0])]
    assert pooled_deviation(spreads) == (pytest.approx(math.sqrt(4 / 3)), 3)
    assert pooled_deviation([spread_of([5.0])]) is None


@pytest.mark.parametrize("pairs", [3, 5, 10])
def test_smallest_difference_is_that_of_the_noncentral_t(pairs):
    noncentrality = smallest_difference(0.04, pairs) / 0.04 * math.sqrt(pairs)
    critical = stats.t.ppf(0.975, pairs - 1)
    power = stats.nct.sf(critical, pairs - 1, noncentrality) + stats.nct.cdf(-critical, pairs - 1, noncentrality)
    assert power == pytest.approx(0.8, abs=1e-4)


def test_smallest_difference_of_many_seeds_is_that_of_the_normal():
    assert smallest_difference(1.0, 10_000) == pytest.approx((1.959964 + 0.841621) / 100, rel=1e-3)


@pytest.mark.parametrize("pairs", [2, 3, 10])
def test_equal_arms_pass_the_narrowest_margin_four_times_of_five(pairs):
    values = np.random.default_rng(pairs).normal(0, 0.04, (50_000, pairs))
    reach = stats.t.ppf(0.95, pairs - 1) * values.std(axis=1, ddof=1) / math.sqrt(pairs)
    passed = np.abs(values.mean(axis=1)) + reach < narrowest_margin(0.04, pairs)
    assert passed.mean() == pytest.approx(0.8, abs=3 * math.sqrt(0.16 / 50_000))


def test_narrowest_margin_of_many_seeds_is_that_of_the_normal():
    # Both sides may fail: z of 95% and of 90%.
    assert narrowest_margin(1.0, 10_000) == pytest.approx((1.644854 + 1.281552) / 100, rel=1e-3)
