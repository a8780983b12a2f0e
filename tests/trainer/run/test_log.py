"""The log of a run survives kills, and forgets what is done again."""

import builtins
import json

import pytest

from richsem_schemas.errors import RichSemError
from richsem_train.run.log import LOG_NAME, RunLogWriter, forget_after, read_log


@pytest.fixture
def path(tmp_path):
    return tmp_path / LOG_NAME


def write(out, *records, **options):
    options = {"tensorboard": False, "wandb": None, "name": "n", "config": {}} | options
    with RunLogWriter(out, **options) as log:
        for event, step, values in records:
            log.write(event, step, values)


STEPS = [("train", step, {"loss": float(step)}) for step in (1, 2, 3)]


def test_steps_and_evaluations_are_read_as_written(path):
    write(path.parent, *STEPS, ("eval", 3, {"AP": 0.5}), ("damage", 3, {"message": "x"}))
    log = read_log(path)
    assert [line["loss"] for line in log.steps] == [1.0, 2.0, 3.0]
    assert log.evaluations == ({"step": 3, "metrics": {"AP": 0.5}},)


def test_a_record_is_on_disk_as_soon_as_it_is_written(path):
    with RunLogWriter(path.parent, tensorboard=False, wandb=None, name="n", config={}) as log:
        log.write("train", 1, {"loss": 1.0})
        assert len(read_log(path).steps) == 1


def test_a_last_line_cut_short_is_left_out_and_forgotten(path):
    write(path.parent, *STEPS)
    path.write_bytes(path.read_bytes()[:-9])
    assert [line["step"] for line in read_log(path).steps] == [1, 2]
    forget_after(path.parent, 5)
    write(path.parent, ("train", 3, {"loss": 9.0}))
    assert [line["loss"] for line in read_log(path).steps] == [1.0, 2.0, 9.0]


def test_steps_that_a_resume_takes_again_are_forgotten(path):
    write(path.parent, *STEPS, ("eval", 3, {"AP": 0.5}))
    forget_after(path.parent, 2)
    log = read_log(path)
    assert ([line["step"] for line in log.steps], log.evaluations) == ([1, 2], ())


def test_forgetting_without_a_log_begins_an_empty_one(path):
    forget_after(path.parent, 0)
    assert path.read_bytes() == b""


def test_of_steps_that_were_taken_twice_the_later_records_count(path):
    write(path.parent, *STEPS, ("train", 2, {"loss": 7.0}))
    assert [(line["step"], line["loss"]) for line in read_log(path).steps] == [(1, 1.0), (2, 7.0), (3, 3.0)]


def test_a_missing_log_is_named(path):
    with pytest.raises(RichSemError, match=r"log\.jsonl"):
        read_log(path)


@pytest.mark.parametrize("line", ["{", "[]", "3", '{"event": "train"}', '{"event": "train", "step": "1"}'])
def test_a_damaged_line_in_the_middle_is_named(path, line):
    path.write_text(line + "\n" + json.dumps({"event": "train", "step": 2}) + "\n")
    with pytest.raises(RichSemError, match="line 1"):
        read_log(path)


def test_tensorboard_gets_the_numbers(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(tmp_path, ("train", 1, {"loss": 2.0, "data": "extra", "losses": {"loss_soft": 0.5}}), tensorboard=True)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert set(board.Tags()["scalars"]) == {"train/loss", "train/losses/loss_soft"}
    assert [(event.step, event.value) for event in board.Scalars("train/loss")] == [(1, 2.0)]


def test_weights_and_biases_without_its_package_is_refused_with_the_remedy(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name == "wandb":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RichSemError, match=r"pip install 'richsem\[wandb\]'.*log.wandb=null"):
        write(tmp_path, wandb="project")
