import itertools
import json
import sys
import threading
import time
from collections import Counter

import pytest

from benchmarks.evidence import measured, run, world
from benchmarks.evidence.arms import ARMS
from benchmarks.evidence.label_sets import LABEL_SETS, LabelSet, command_of
from benchmarks.evidence.measured import run_measured
from benchmarks.evidence.run import FailedError, Planned, Runner, planned
from richsem_train.config import load_config

ARM = ARMS[0]


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Results and runs below a folder of the test; nothing is prepared."""
    monkeypatch.setattr(run, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(run, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(measured, "_POLL_SECONDS", 0.1)
    monkeypatch.setattr(Runner, "_prepare", lambda *_: run.RUNS.mkdir(exist_ok=True))
    return tmp_path


def trained_by(monkeypatch, code: str) -> None:
    """Let a run be some lines of Python, which are given its folder and the word `--resume`."""
    start = "import json, pathlib, sys, time; out = pathlib.Path(sys.argv[1]); out.mkdir(parents=True, exist_ok=True)\n"
    results = 'def end(): (out / "results.json").write_text(json.dumps({"step": 7, "metrics": {"AP": 0.25}}))\n'
    monkeypatch.setattr(
        run, "_training", lambda each: [sys.executable, "-c", start + results + code, str(run.RUNS / each.name)]
    )


def runner(*, jobs=1, hours=1.0, stop=None) -> Runner:
    return Runner(budget_hours=hours, jobs=jobs, stop=stop or threading.Event(), on_done=lambda: None)


def test_classes_have_the_tail_of_lvis():
    classes = world.classes()

    assert len({each.name for each in classes}) == len(classes) == 144
    assert Counter(each.frequency for each in classes) == world.CLASS_COUNTS
    for each in classes:
        least, most = {"r": (1, 10), "c": (11, 100), "f": (101, 10_000)}[each.frequency]
        assert least <= each.instance_count <= most


def test_every_arm_has_a_config_that_the_trainer_takes(places):
    run.RUNS.mkdir()
    for arm in ARMS:
        command = run._training(Planned(arm, 3))
        config = load_config(command[command.index("--config") + 1])
        assert config.name == arm.title


def test_arms_differ_and_know_their_label_sets():
    assert len({arm.name for arm in ARMS}) == len({arm.title for arm in ARMS}) == len(ARMS)
    assert len({run.arm_recipe(arm) for arm in ARMS}) == len(ARMS)
    for arm in ARMS:
        assert set(arm.label_sets) <= set(LABEL_SETS)
        for section in ("detection", "extra"):
            named = arm.config.get(section, {}).get("label_set")
            assert named is None or named in arm.label_sets


def test_a_label_set_is_made_by_the_command_of_its_kind():
    assert command_of(LABEL_SETS["mosaics-4"])[-4:] == ["--crops", "0", "--mosaics", "4"]
    assert command_of(LABEL_SETS["windows-4-top8"])[0] == "rescore"


def test_the_spread_is_measured_first_and_trials_come_before_further_seeds():
    order = [(each.arm.name, each.seed) for each in planned()]

    assert order[:4] == [("baseline", 0), ("baseline", 1), ("baseline", 2), ("branch", 0)]
    assert len(order) == len(set(order))
    trials = [place for place, (name, _) in enumerate(order) if name == "cached-both"]
    assert len(trials) == 1
    assert order.index(("fresh-4", 2)) < trials[0] < order.index(("baseline", 3))


def test_a_run_leaves_its_figures_and_is_not_made_again(places, monkeypatch):
    trained_by(monkeypatch, "sum(range(10**7)); end()")
    runner().run_all(iter([Planned(ARM, 0)]))
    trained_by(monkeypatch, "sys.exit('made again')")
    runner().run_all(iter([Planned(ARM, 0)]))

    figures = json.loads((places / "results/runs/baseline-0.json").read_text())
    assert (figures["arm"], figures["seed"], figures["steps"], figures["metrics"]) == ("baseline", 0, 7, {"AP": 0.25})
    assert figures["processor_s"] > 0


def test_a_run_of_another_recipe_is_made_again(places, monkeypatch):
    trained_by(monkeypatch, "end()")
    runner().run_all(iter([Planned(ARM, 0)]))

    assert run.is_done(Planned(ARM, 0))
    monkeypatch.setattr(world, "RECIPE", {**world.RECIPE, "val_instances": 1})
    assert not run.is_done(Planned(ARM, 0))


def test_a_run_that_was_begun_by_another_recipe_is_not_gone_on_with(places, monkeypatch):
    trained_by(monkeypatch, "(out / 'config.yaml').touch(); end()")
    runner().run_all(iter([Planned(ARM, 0)]))
    monkeypatch.setattr(world, "RECIPE", {**world.RECIPE, "val_instances": 1})

    with pytest.raises(FailedError, match=r"runs/baseline-0 was made by .*; remove it"):
        runner().run_all(iter([Planned(ARM, 0)]))


def test_a_stopped_run_goes_on_and_its_parts_are_summed(places, monkeypatch):
    stop = threading.Event()
    trained_by(monkeypatch, "(out / 'config.yaml').touch(); sum(range(3 * 10**7)); time.sleep(60)")
    threading.Timer(3, stop.set).start()
    runner(stop=stop).run_all(iter([Planned(ARM, 0)]))
    assert not run.is_done(Planned(ARM, 0))
    first = json.loads((places / "runs/baseline-0/parts.json").read_text())[0]["processor_s"]

    trained_by(monkeypatch, "assert sys.argv[2:] == ['--resume']; end()")
    runner().run_all(iter([Planned(ARM, 0)]))

    figures = json.loads((places / "results/runs/baseline-0.json").read_text())
    assert first > 0.2
    assert figures["processor_s"] >= first


def test_what_a_killed_part_took_is_unknown(places, monkeypatch):
    (places / "runs/baseline-0").mkdir(parents=True)
    (places / "runs/baseline-0/config.yaml").touch()
    trained_by(monkeypatch, "end()")
    runner().run_all(iter([Planned(ARM, 0)]))

    assert json.loads((places / "results/runs/baseline-0.json").read_text())["processor_s"] is None


def test_a_failed_run_ends_the_others_and_names_its_log(places, monkeypatch):
    trained_by(monkeypatch, "time.sleep(0 if 'baseline' in str(out) else 60); sys.exit('no such thing')")
    started = time.monotonic()

    with pytest.raises(FailedError, match=r"baseline-0 ended with 1; .*baseline-0\.log"):
        runner(jobs=2).run_all(iter([Planned(ARM, 0), Planned(ARMS[1], 0)]))

    assert time.monotonic() - started < 30
    assert "no such thing" in (places / "runs/baseline-0.log").read_text()


def test_no_run_begins_beyond_the_budget(places, monkeypatch):
    trained_by(monkeypatch, "sum(range(10**7)); end()")
    runner(hours=1e-9).run_all(Planned(ARM, seed) for seed in itertools.count())

    assert [path.name for path in (places / "results/runs").iterdir()] == ["baseline-0.json"]


def test_processor_time_is_that_of_the_command_and_its_children(tmp_path):
    burn = "t = time.process_time()\nwhile time.process_time() - t < 1: pass"
    code = f"import subprocess, sys, time\nsubprocess.run([sys.executable, '-c', 'import time\\n' + {burn!r}])\n{burn}"
    took = run_measured([sys.executable, "-c", code], tmp_path / "log", stop=threading.Event())

    assert took.exit_code == 0
    assert 2 <= took.processor_s < 3


def test_a_step_is_timed_without_start_and_end():
    assert run._seconds_a_step(((10, 5.0), (20, 6.0), (210, 25.0))) == pytest.approx(0.1)


@pytest.mark.parametrize("places", [(), ((10, 5.0),), ((10, 5.0), (60, 9.0))])
def test_a_step_is_not_timed_by_few(places):
    assert run._seconds_a_step(places) is None


def test_steps_of_the_part_before_are_not_this_ones(tmp_path):
    log = tmp_path / "log.jsonl"
    assert run._last_step(log, 0) is None
    log.write_text('{"event": "train", "step": 400}\n{"event": "train", "step": 500}\n')
    begins_at = log.stat().st_size
    assert run._last_step(log, 0) == 500
    assert run._last_step(log, begins_at) is None

    with log.open("a") as file:
        file.write('{"event": "train", "step": 410}\n{"event": "train", "st')
    assert run._last_step(log, begins_at) == 410


@pytest.fixture
def label_sets(tmp_path, monkeypatch):
    """A label set is made by some lines of Python, which are given its folder."""
    monkeypatch.setattr(run, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(run, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(measured, "_POLL_SECONDS", 0.1)
    monkeypatch.setattr(LabelSet, "out", tmp_path / "cache")
    run.RUNS.mkdir()

    def make(code: str, stop: threading.Event | None = None) -> None:
        def run_measured_code(command, *args, **options):
            return run_measured(
                [sys.executable, "-c", code, str(tmp_path / "cache/labels" / "windows-1")], *args, **options
            )

        monkeypatch.setattr(run, "run_measured", run_measured_code)
        runner(stop=stop)._make_label_set("windows-1")

    return make


BEGIN = "import json, pathlib, sys, time; out = pathlib.Path(sys.argv[1]); out.mkdir(parents=True, exist_ok=True)\n"
END = """
(out / "manifest.json").touch()
print(json.dumps({"label_bytes": 5, "picture_bytes": 6, "views": 7, "regions": 8}))
"""


def test_what_a_stopped_label_set_took_is_summed(label_sets, tmp_path):
    stop = threading.Event()
    threading.Timer(2, stop.set).start()
    label_sets(BEGIN + "sum(range(3 * 10**7)); time.sleep(60)", stop)
    first = json.loads((tmp_path / "runs/windows-1-parts.json").read_text())[0]["processor_s"]

    label_sets(BEGIN + END)

    figures = json.loads((tmp_path / "results/caches/windows-1.json").read_text())
    assert first > 0.2
    assert figures["processor_s"] >= first
    assert figures["views"] == 7
    label_sets("sys.exit('made again')")


def test_a_label_set_that_was_made_by_another_command_is_not_taken(label_sets, monkeypatch):
    label_sets(BEGIN + END)
    monkeypatch.setitem(LABEL_SETS, "windows-1", LabelSet("windows-1", "evidence-detection", {"windows": 2}))

    with pytest.raises(FailedError, match=r"labels/windows-1 was made by '.*--windows 1'.*--windows 2'; remove it"):
        label_sets(BEGIN + END)


def test_a_label_set_without_figures_gets_them_and_says_that_its_time_is_unknown(label_sets, tmp_path):
    (tmp_path / "cache/labels/windows-1").mkdir(parents=True)
    (tmp_path / "cache/labels/windows-1/manifest.json").touch()

    label_sets(BEGIN + END)

    figures = json.loads((tmp_path / "results/caches/windows-1.json").read_text())
    assert (figures["processor_s"], figures["label_bytes"]) == (None, 5)


def test_a_command_ends_where_it_cannot_be_watched(tmp_path):
    alive = tmp_path / "alive"
    code = f"import pathlib, time; alive = pathlib.Path({str(alive)!r}); alive.touch(); time.sleep(3); alive.unlink()"

    def fail():
        if alive.exists():
            raise OSError("no log")

    with pytest.raises(OSError, match="no log"):
        run_measured([sys.executable, "-c", code], tmp_path / "log", stop=threading.Event(), watch=fail)

    time.sleep(4)
    assert alive.exists()
