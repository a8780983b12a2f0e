import io

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from richsem_train.results.class_aps import ClassAps
from richsem_train.results.class_gains import class_gains, gains_line, gains_table, regrouped_line

NAMES = ("ant", "bee", "cat", "dog")


def aps(*values, names=NAMES):
    return ClassAps(10, names, ("r",) * len(names), np.array(values, np.float64))


BASELINE = {
    0: aps(0.10, 0.30, 0.5, 0.2),
    1: aps(0.12, 0.33, 0.5, 0.2),
    2: aps(0.11, 0.28, 0.5, 0.2),
}
ARM = {
    0: aps(0.31, 0.33, 0.5, 0.3),
    1: aps(0.32, 0.35, 0.5, 0.3),
    2: aps(0.325, 0.33, 0.5, 0.3),
}


def by_name(gains):
    return {each.name: each for each in gains.gains}


def test_chance_is_that_of_a_paired_t_test_with_benjamini_hochberg():
    gains = class_gains(ARM, BASELINE)
    found = by_name(gains)
    ant, bee = (
        stats.ttest_rel([ARM[seed].aps[n] for seed in range(3)], [BASELINE[seed].aps[n] for seed in range(3)]).pvalue
        for n in (0, 1)
    )
    assert (found["ant"].p, found["bee"].p) == pytest.approx((ant, bee))
    # Three classes have a chance: ant, bee, and cat, which doesn't change. p(1) * 3 / 1, p(2) * 3 / 2.
    assert found["ant"].q == pytest.approx(3 * ant)
    assert found["bee"].q == pytest.approx(1.5 * bee)
    assert found["cat"].p == found["cat"].q == 1
    assert (found["ant"].is_sure, found["bee"].is_sure) == (True, False)
    assert gains.sure == (1, 0)


def test_a_gain_that_is_the_same_in_each_seed_tells_nothing_of_chance():
    dog = by_name(class_gains(ARM, BASELINE))["dog"]
    assert (dog.gain, dog.p, dog.q) == (pytest.approx(0.1), None, None)


def test_gains_come_largest_first_and_of_classes_that_both_have():
    one, other = aps(0.1, 0.5, np.nan, 0.2), aps(0.4, 0.2, 0.9, 0.2)
    gains = class_gains({4: other}, {4: one})
    assert [(each.name, round(each.gain, 6)) for each in gains.gains] == [("ant", 0.3), ("dog", 0), ("bee", -0.3)]


def test_with_one_seed_chance_is_not_told():
    gains = class_gains({0: ARM[0]}, {0: BASELINE[0], 1: BASELINE[1]})
    assert {each.p for each in gains.gains} == {None}
    assert gains.as_json()["test"] is None
    assert "can't be told from one seed" in gains_line(gains)


def test_runs_are_paired_by_seed():
    gains = class_gains({2: ARM[2], 0: ARM[0]}, {1: BASELINE[1], 0: BASELINE[0], 2: BASELINE[2]})
    assert gains.seeds == (0, 2)
    assert by_name(gains)["ant"].gain == pytest.approx((0.21 + 0.215) / 2)
    assert class_gains({5: ARM[0]}, BASELINE).gains == ()


def test_under_no_effect_hardly_any_class_is_called_sure():
    """Of 400 classes without an effect, in each of 20 comparisons: at most 5% of the comparisons would name one."""
    rng = np.random.default_rng(0)
    names = tuple(f"class {n}" for n in range(400))
    named = 0
    for _ in range(20):
        runs = [{seed: aps(*rng.normal(0.4, 0.05, 400), names=names) for seed in range(4)} for _ in range(2)]
        named += class_gains(*runs).sure != (0, 0)
    assert named <= 3


def test_classes_of_another_frequency_are_told():
    changed = ClassAps(10, NAMES, ("r", "r", "c", "r"), ARM[0].aps)
    gains = class_gains({0: changed}, BASELINE)
    assert gains.regrouped == ("cat",)
    assert gains.as_json()["of_another_frequency"] == ["cat"]
    assert "1 are of another frequency there, such as cat" in regrouped_line(gains, "plain")
    same = class_gains(ARM, BASELINE)
    assert same.regrouped == ()
    assert regrouped_line(same, "plain") == ""


def test_the_table_names_gains_and_marks_the_sure_ones():
    out = io.StringIO()
    Console(file=out, width=100).print(gains_table(class_gains(ARM, BASELINE), title="classes"))
    lines = out.getvalue().splitlines()
    (ant,) = [line for line in lines if "ant" in line]
    assert "+0.208*" in ant
    assert not any("cat" in line for line in lines)
