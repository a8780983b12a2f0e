"""A run that was stopped or killed goes on as if nothing had been: the same losses and weights, bit for bit."""

import shutil
import signal
from unittest.mock import patch

import pytest

from richsem_schemas.errors import RichSemError
from richsem_train.run.checkpoint import load_checkpoint
from richsem_train.run.distributed import Ranks
from richsem_train.run.log import LOG_NAME, read_log
from richsem_train.run.signals import stop_requests
from tests.trainer.processes import start_command
from tests.trainer.stopping import StopAt, assert_same
from tests.trainer.tiny import EPOCH_STEPS, WHOLE_IMAGES, Quiet, losses_of

CHANGES = {"schedule__ema": 0.9, "model__dropout": 0.1}
"""With all that a checkpoint has to hold: averaged weights, and noise from the global generators."""


class Killed(BaseException):
    """Nothing catches it, like SIGKILL."""


class KillAt(StopAt):
    def move(self, done, note=""):
        if self._is_training and done == self._step:
            raise Killed


class KillAtEvaluation(Quiet):
    def begin(self, what, total, done=0):
        if what == "evaluating":
            raise Killed


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """OUT of an uninterrupted run of two epochs."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert world.run(out, **CHANGES).stopped_by is None
    return out


@pytest.mark.parametrize("step", [3, EPOCH_STEPS, EPOCH_STEPS + 3])
def test_a_run_stopped_after_any_step_goes_on_as_if_it_had_not_been(world, whole, tmp_path, step):
    reporter = StopAt(step)
    ended = world.run(tmp_path, reporter=reporter, **CHANGES)
    assert (ended.stopped_by, ended.table) == ("SIGTERM", None)
    assert "--resume" in reporter.said[-1]
    assert f"after step {step}" in reporter.said[-1]
    assert load_checkpoint(tmp_path / "checkpoints" / "last.pt").step == step
    assert not (tmp_path / "results.json").exists()
    assert world.run(tmp_path, resume=True, **CHANGES).stopped_by is None
    assert_same(tmp_path, whole)


def test_a_run_stopped_at_its_last_step_is_evaluated_when_it_is_resumed(world, whole, tmp_path):
    ended = world.run(tmp_path, reporter=StopAt(2 * EPOCH_STEPS), **CHANGES)
    assert (ended.stopped_by, ended.table) == ("SIGTERM", None)
    assert world.run(tmp_path, resume=True, **CHANGES).table is not None
    assert_same(tmp_path, whole)


def test_a_run_killed_between_checkpoints_takes_the_lost_steps_again(world, whole, tmp_path):
    with pytest.raises(Killed):
        world.run(tmp_path, reporter=KillAt(EPOCH_STEPS - 1), **CHANGES)
    assert load_checkpoint(tmp_path / "checkpoints" / "last.pt").step == 4
    assert len(losses_of(tmp_path)) == 5
    with pytest.raises(Killed):
        world.run(tmp_path, resume=True, reporter=KillAtEvaluation(), **CHANGES)
    assert load_checkpoint(tmp_path / "checkpoints" / "last.pt").step == EPOCH_STEPS
    assert not read_log(tmp_path / LOG_NAME).evaluations
    world.run(tmp_path, resume=True, **CHANGES)
    assert_same(tmp_path, whole)


def test_a_run_killed_before_its_first_checkpoint_begins_again(world, whole, tmp_path):
    with pytest.raises(Killed):
        world.run(tmp_path, reporter=KillAt(2), **CHANGES)
    world.run(tmp_path, resume=True, **CHANGES)
    assert_same(tmp_path, whole)


def test_a_finished_run_resumed_does_nothing_but_tell_its_results(world, whole, tmp_path):
    out = shutil.copytree(whole, tmp_path / "out")
    before = (out / "checkpoints" / "last.pt").read_bytes()
    assert world.run(out, resume=True, **CHANGES).table is not None
    assert (out / "checkpoints" / "last.pt").read_bytes() == before
    assert_same(out, whole)


def test_whole_images_in_batches_of_their_own_size_go_on_as_if_nothing_had_been(world, tmp_path):
    changes = CHANGES | WHOLE_IMAGES
    world.run(tmp_path / "whole", **changes)
    # Before a batch of each kind.
    for step in (EPOCH_STEPS - 2, EPOCH_STEPS + 1):
        out = tmp_path / str(step)
        assert world.run(out, reporter=StopAt(step), **changes).stopped_by == "SIGTERM"
        world.run(out, resume=True, **changes)
        assert_same(out, tmp_path / "whole")
    steps = losses_of(tmp_path / "whole")
    assert {(line["data"], bool(line["losses"]["loss_image"])) for line in steps} == {
        ("detection", False),
        ("extra", True),
    }
    assert steps[-1]["lr"] < 0.1 * steps[2]["lr"]


def test_a_run_may_be_prolonged(world, whole, tmp_path):
    out = shutil.copytree(whole, tmp_path / "out")
    world.run(out, resume=True, **CHANGES, schedule__epochs=3)
    assert [line["step"] for line in read_log(out / LOG_NAME).evaluations] == [
        epoch * EPOCH_STEPS for epoch in (1, 2, 3)
    ]
    assert losses_of(out)[: 2 * EPOCH_STEPS] == losses_of(whole)


@pytest.mark.parametrize("changes", [{"schedule__lr": 2e-3}, {"seed": 1}, {"extra__labels": "topk"}])
def test_a_resume_with_another_config_is_refused_by_its_fields(world, whole, changes):
    with pytest.raises(RichSemError, match=next(iter(changes)).replace("__", r"\.")):
        world.run(whole, resume=True, **(CHANGES | changes))


def test_ctrl_c_ends_after_the_step_and_what_a_kill_left_is_swept(world, whole, tmp_path):
    config = world.write_config(tmp_path / "tiny.yaml", **CHANGES)
    out = tmp_path / "out"
    stopped = start_command(tmp_path / "stopped", "--config", config, "--out", out, "--device", "cpu")
    stopped.wait_until(lambda: (out / LOG_NAME).exists() and len(losses_of(out)) >= 2)
    stopped.send(signal.SIGINT, group=True)
    assert stopped.wait() == 130, stopped.output
    assert "stopped by SIGINT after step" in stopped.output
    assert "Traceback" not in stopped.output

    leftover = out / "checkpoints" / ".last.pt.4711-0123abcd.tmp"
    leftover.write_bytes(b"half")
    world.run(out, resume=True, **CHANGES)
    assert not leftover.exists()
    assert_same(out, whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_a_shell_has_us_ignore_stays_ignored(number):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with stop_requests() as stop:
            signal.raise_signal(number)
            assert stop.signal is None
        assert signal.getsignal(number) == signal.SIG_IGN
        signal.signal(number, signal.default_int_handler)
        with stop_requests() as stop:
            signal.raise_signal(number)
            assert stop.signal == number.name
        assert signal.getsignal(number) == signal.default_int_handler
    finally:
        signal.signal(number, before)


def test_signals_to_processes_with_workers_lose_no_step(world, whole, tmp_path):
    """The whole group gets SIGTERM, as from a batch system; then the resumed one is killed; all steps are the same."""
    config = world.write_config(tmp_path / "tiny.yaml", **CHANGES, workers=1)
    out = tmp_path / "out"
    arguments = ("--config", config, "--out", out, "--device", "cpu")

    def steps():
        return len(losses_of(out)) if (out / LOG_NAME).exists() else 0

    stopped = start_command(tmp_path / "stopped", *arguments)
    stopped.wait_until(lambda: steps() >= 2)
    stopped.send(signal.SIGTERM, group=True)
    assert stopped.wait() == 143, stopped.output
    assert "Traceback" not in stopped.output
    taken = load_checkpoint(out / "checkpoints" / "last.pt").step
    assert taken == steps() >= 2
    assert f"stopped by SIGTERM after step {taken}" in stopped.output

    killed = start_command(tmp_path / "killed", *arguments, "--resume")
    killed.wait_until(lambda: steps() >= EPOCH_STEPS + 3)
    killed.send(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert load_checkpoint(out / "checkpoints" / "last.pt").step < 2 * EPOCH_STEPS

    world.run(out, resume=True, **CHANGES)
    assert_same(out, whole)


def test_there_is_one_message_a_step(world, tmp_path):
    """And one for each checkpoint or evaluation, before which all wait for the step in flight."""
    said = []
    exchange = Ranks.sum

    def count(ranks, values):
        said.append(len(values))
        return exchange(ranks, values)

    with patch.object(Ranks, "sum", count):
        world.run(tmp_path / "out", **CHANGES)
    steps = 2 * EPOCH_STEPS
    stops = {step for step in range(1, steps + 1) if step % EPOCH_STEPS == 0 or step % 4 == 0}
    # Refusals are looked for before the first step, by messages of one number.
    assert len([numbers for numbers in said if numbers > 1]) == steps + len(stops)
