"""From how many runs on a cache pays, by hand."""

import math

import pytest

from benchmarks.evidence.costs import savings
from benchmarks.evidence.results import read_results
from tests.benchmarks.evidence.synthetic import ARMS, BY_NAME, write_caches, write_run, write_world


def saving(folder, name="stored-4"):
    write_world(folder)
    (found,) = [each for each in savings(ARMS, read_results(folder, ARMS)) if each.arm.name == name]
    return found


def write_pair(folder, online, cached, name="stored-4"):
    """Processor seconds a step of each seed, online and cached; 1,200 steps, and 300 s for the cache."""
    for seed, (online_s, cached_s) in enumerate(zip(online, cached, strict=True)):
        write_run(folder, "online-detection", seed, step_s=online_s)
        write_run(folder, name, seed, step_s=cached_s)
    write_caches(folder, BY_NAME[name].label_sets)


def test_a_cache_pays_from_preparation_over_saving_on(tmp_path):
    # 0.1 s x 1,200 = 120 s a run: two runs save 240 s, three 360 s.
    write_pair(tmp_path, [0.6, 0.62, 0.61], [0.5, 0.52, 0.51])
    found = saving(tmp_path)
    assert (found.preparation_s, found.runs) == (300, 3)
    assert found.saved_s.mean == pytest.approx(120)
    assert found.answer == "from 3 runs on"


def test_an_interval_of_savings_is_one_of_runs(tmp_path):
    # Saved: 96, 120 and 144 s; t(0.975, 2) x 24 / sqrt(3) is 59.6: 60.4 to 179.6 s a run.
    write_pair(tmp_path, [0.58, 0.60, 0.62], [0.5, 0.5, 0.5])
    assert saving(tmp_path).answer == "from 3 runs on (2 to 5)"


def test_a_saving_within_the_noise_is_undecided(tmp_path):
    write_pair(tmp_path, [0.5, 0.8, 0.6], [0.5, 0.5, 0.6])
    assert saving(tmp_path).answer == "undecided, from 3 runs on by the mean, but a step may cost no less"


def test_a_step_that_costs_more_never_pays(tmp_path):
    write_pair(tmp_path, [0.5, 0.5, 0.5], [0.6, 0.61, 0.6])
    assert saving(tmp_path).runs == math.inf
    assert saving(tmp_path).answer == "never, since a step costs no less"


def test_one_seed_is_a_trial(tmp_path):
    write_pair(tmp_path, [0.6], [0.5])
    assert saving(tmp_path).answer == "a trial, from 3 runs on"


def test_labels_that_are_rescored_cost_their_base_and_keep_themselves_alone(tmp_path):
    write_caches(tmp_path)
    found = read_results(tmp_path, ARMS).preparation(BY_NAME["top8-bucket"])
    assert (found.processor_s, found.label_bytes, found.picture_bytes) == (330, 1_600_000, 20_000_000)


def test_label_sets_of_two_caches_keep_the_pictures_of_both(tmp_path):
    write_caches(tmp_path)
    found = read_results(tmp_path, ARMS).preparation(BY_NAME["cached-both"])
    assert (found.processor_s, found.label_bytes, found.picture_bytes) == (600, 14_000_000, 40_000_000)


def test_arms_that_read_no_cached_labels_need_no_preparation(tmp_path):
    for name in ("online-extra", "extra-hard", "baseline"):
        assert read_results(tmp_path, ARMS).preparation(BY_NAME[name]).processor_s == 0


def test_what_nothing_was_prepared_for_pays_at_once(tmp_path):
    write_pair(tmp_path, [0.6], [0.5])
    path = tmp_path / "caches" / "windows-4.json"
    path.write_text(path.read_text().replace("300.0", "0.0"))
    assert saving(tmp_path).answer == "a trial, from the first run on"


def test_seconds_of_another_machine_are_not_compared(tmp_path):
    write_pair(tmp_path, [0.6, 0.6], [0.5, 0.5])
    write_run(tmp_path, "online-detection", 2, step_s=0.1, machine={"cpu": "another", "cores": 8, "gpu": "a GPU"})
    write_run(tmp_path, "stored-4", 2, step_s=0.5)
    assert saving(tmp_path).saved_s.values == pytest.approx((120, 120))


def test_a_cache_without_figures_says_nothing(tmp_path):
    write_world(tmp_path)
    write_pair(tmp_path, [0.6], [0.5])
    for path in (tmp_path / "caches").iterdir():
        path.unlink()
    assert savings(ARMS, read_results(tmp_path, ARMS)) == []


def test_nothing_pays_by_a_label_set_whose_making_was_killed(tmp_path):
    write_pair(tmp_path, [0.6, 0.62, 0.61], [0.5, 0.52, 0.51])
    write_caches(tmp_path, BY_NAME["stored-4"].label_sets, processor_s=None, wall_s=None)
    write_world(tmp_path)
    results = read_results(tmp_path, ARMS)
    assert results.preparation(BY_NAME["stored-4"]) is None
    assert savings(ARMS, results) == []
