"""Who is held against whom, and the sentences that verdicts make."""

import re

from benchmarks.evidence.arms import ARMS as DECLARED
from benchmarks.evidence.comparisons import answers, compare, ladder
from benchmarks.evidence.questions import QUESTIONS, in_order
from benchmarks.evidence.results import read_results
from benchmarks.evidence.statistics import Verdict
from tests.benchmarks.evidence.synthetic import ARMS, BY_NAME, write_run, write_world

GOOD, BETTER, WORSE, UNDECIDED, TRIAL, NOT_RUN = (
    Verdict.AS_GOOD, Verdict.BETTER, Verdict.WORSE, Verdict.UNDECIDED, Verdict.TRIAL, Verdict.NOT_RUN,
)  # fmt: skip

BY_TITLE = {question.title: question for question in QUESTIONS}


def pairs_of(title):
    return [(arm.name, reference.name) for arm, reference in BY_TITLE[title].pairs(ARMS)]


def steps(*told):
    return [(f"K = {2**place}", verdict) for place, verdict in enumerate(told)]


def told_of(title, folder):
    write_world(folder)
    question = BY_TITLE[title]
    return answers(question, compare(question, ARMS, read_results(folder, ARMS)))


def test_arms_are_held_against_what_their_question_names():
    assert pairs_of("The branch alone") == [
        ("branch", "baseline"), ("online-detection", "baseline"), ("online-detection", "branch"),
    ]  # fmt: skip
    assert pairs_of("Windows") == [(f"{kind}-{k}", "online-detection") for kind in ("stored", "fresh") for k in (1, 4)]
    assert pairs_of("Stored or fresh") == [("fresh-1", "stored-1"), ("fresh-4", "stored-4")]
    assert pairs_of("Crops and mosaics") == [
        (name, "online-extra") for name in ("mosaics-1", "mosaics-4", "crops-1", "free-mosaics-1")
    ]
    assert pairs_of("Both") == [("cached-both", "online-both")]
    assert pairs_of("Extra pictures") == [
        *((name, "baseline") for name in ("online-extra", "mosaics-1", "mosaics-4", "extra-hard", "crops-1")),
        ("free-mosaics-1", "baseline"), ("online-both", "online-detection"), ("cached-both", "fresh-4"),
    ]  # fmt: skip
    assert pairs_of("Label size") == [("top8-bucket", "stored-4"), ("int8", "stored-4")]
    assert pairs_of("Dropped annotations") == [("fresh-4", "baseline"), ("dropped-0.5-soft", "dropped-0.5-hard")]
    assert pairs_of("Teachers") == [("worse", "fresh-4")]


def test_every_declared_arm_is_in_some_section():
    assert {arm.name for question in QUESTIONS for arm in question.arms(DECLARED)} == {arm.name for arm in DECLARED}


def test_every_declared_ladder_has_its_step_in_the_title():
    for title in ("Windows", "Crops and mosaics"):
        for arm, _ in BY_TITLE[title].pairs(DECLARED):
            assert re.fullmatch(rf".+, [KV] = {arm.passes}", arm.title)


def test_arms_of_one_kind_stand_together_by_the_number_of_views():
    mixed = [BY_NAME[name] for name in ("baseline", "fresh-4", "crops-1", "fresh-1", "free-mosaics-1")]
    assert [arm.name for arm in in_order(mixed)] == ["baseline", "fresh-1", "fresh-4", "crops-1", "free-mosaics-1"]


def test_a_ladder_says_from_where_on_all_are_good():
    assert ladder(steps(WORSE, GOOD, GOOD, GOOD)) == "as good from K = 2 on, worse at K = 1"
    assert ladder(steps(GOOD, BETTER)) == "as good or better from K = 1 on"


def test_one_good_step_is_no_range():
    assert ladder(steps(UNDECIDED, GOOD)) == "as good at K = 2, undecided at K = 1"


def test_good_below_undecided_is_not_from_there_on():
    assert ladder(steps(GOOD, UNDECIDED, GOOD)) == "as good at K = 1, 4, undecided at K = 2"
    assert ladder(steps(GOOD, UNDECIDED, GOOD, GOOD)) == "as good from K = 4 on, as good at K = 1, undecided at K = 2"


def test_what_has_not_run_breaks_no_ladder_and_is_said():
    assert ladder(steps(GOOD, TRIAL, GOOD, NOT_RUN)) == "as good from K = 1 on, a trial at K = 2, not run at K = 8"


def test_nothing_run_is_not_an_answer(tmp_path):
    for title in BY_TITLE:
        assert told_of(title, tmp_path) == ["Not run yet."]


def test_equal_arms_are_as_good_and_worse_ones_worse(tmp_path):
    for seed, luck in enumerate((-0.02, 0.0, 0.03)):
        write_run(tmp_path, "online-detection", seed, ap=0.5 + luck, apr=0.4 + luck)
        write_run(tmp_path, "stored-1", seed, ap=0.43 + luck + 0.001 * seed, apr=0.33 + luck)
        write_run(tmp_path, "stored-4", seed, ap=0.5 + luck - 0.001 * seed, apr=0.4 + luck)
    assert told_of("Windows", tmp_path) == [
        "Stored windows: by AP and APr as good at K = 4, worse at K = 1.",
        "Fresh windows: not run at K = 1, 4.",
    ]


def test_metrics_that_disagree_are_told_apart(tmp_path):
    for seed in range(3):
        write_run(tmp_path, "baseline", seed, ap=0.4, apr=0.3)
        write_run(tmp_path, "branch", seed, ap=0.4 + 0.001 * seed, apr=0.3 + 0.2 * (seed - 1))
    assert told_of("The branch alone", tmp_path) == [
        "As good by AP, undecided by APr, against baseline: the branch with hard labels.",
        "2 not run.",
    ]


def test_one_seed_is_a_trial_whatever_it_says(tmp_path):
    write_run(tmp_path, "stored-4", 0, ap=0.1)
    write_run(tmp_path, "fresh-4", 0, ap=0.9)
    assert told_of("Stored or fresh", tmp_path) == ["1 trial, of which nothing is claimed.", "1 not run."]


def test_seeds_that_only_one_arm_has_answer_nothing(tmp_path):
    for seed in range(3):
        write_run(tmp_path, "stored-4", seed)
        write_run(tmp_path, "fresh-4", seed + 3)
    assert told_of("Stored or fresh", tmp_path) == ["Not run yet."]


def test_a_metric_without_categories_is_not_a_value(tmp_path):
    for seed in range(3):
        for arm in ("stored-4", "fresh-4"):
            write_run(tmp_path, arm, seed, apr=-1.0)
    assert told_of("Stored or fresh", tmp_path)[0] == "As good by AP, not run by APr: fresh windows, K = 4."
