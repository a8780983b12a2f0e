"""OUT holds one run: begun once, gone on with only when asked, and only with the same config."""

import errno
import multiprocessing
import os
import subprocess
import sys
import time

import pytest
import torch

from richsem_schemas.errors import RichSemError
from richsem_train.config import load_config, with_changes
from richsem_train.run import folder as run_folder
from richsem_train.run import training
from richsem_train.run.distributed import Ranks
from richsem_train.run.folder import RunFolder
from tests.trainer.tiny import Quiet


@pytest.fixture(scope="module")
def config():
    return load_config("demo")


@pytest.fixture
def folder(tmp_path, config):
    folder = RunFolder(tmp_path / "runs" / "one")
    folder.check(config, resume=False)
    folder.claim(config)
    return folder


def test_a_new_folder_is_made_and_remembers_its_config(folder, config):
    assert load_config(str(folder.config)) == config


def test_an_empty_folder_may_be_taken(tmp_path, config):
    (tmp_path / "empty").mkdir()
    RunFolder(tmp_path / "empty").check(config, resume=False)


def test_a_second_run_in_the_same_folder_is_refused(folder, config):
    with pytest.raises(RichSemError, match=r"holds a run already.*--resume, or name another --out"):
        RunFolder(folder.out).check(config, resume=False)


@pytest.mark.parametrize("make", ["file", "folder"])
def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path, config, make):
    out = tmp_path / "out"
    if make == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "thesis.txt").write_text("mine")
    with pytest.raises(RichSemError, match="holds something that is no run"):
        RunFolder(out).check(config, resume=False)
    assert {path.read_text() for path in (out, *out.glob("*")) if path.is_file()} == {"mine"}


def test_a_resume_without_a_run_is_refused(tmp_path, config):
    with pytest.raises(RichSemError, match="holds no run to go on with"):
        RunFolder(tmp_path).check(config, resume=True)


def test_a_resume_with_another_config_names_each_field_and_both_values(folder, config):
    changed = with_changes(config, ["schedule.lr=0.5", "seed=3", "extra.views=crops"], source="here")
    with pytest.raises(RichSemError) as refused:
        folder.check(changed, resume=True)
    message = str(refused.value)
    assert "schedule.lr is 0.001 there, 0.5 here" in message
    assert "seed is 0 there, 3 here" in message
    assert "extra.views is 'mosaics' there, 'crops' here" in message
    assert load_config(str(folder.config)) == config


@pytest.mark.parametrize(
    "change",
    ["workers=7", "data=elsewhere", "schedule.epochs=99", "extra.cache=moved", "log.every_steps=1",
     "evaluation.batch_size=2", "extra.on_damage=skip", "detection.on_damage=skip", "schedule.accumulate=2",
     "model.deformable_attention=torch"],
)  # fmt: skip
def test_a_resume_may_change_what_the_weights_do_not_depend_on(folder, config, change):
    changed = with_changes(config, [change], source="here")
    folder.check(changed, resume=True)
    folder.claim(changed)
    assert load_config(str(folder.config)) == changed


def test_a_resume_may_not_lengthen_a_cosine(folder, config):
    folder.claim(with_changes(config, ["schedule.lr_schedule=cosine"], source="x"))
    longer = with_changes(config, ["schedule.lr_schedule=cosine", "schedule.epochs=9"], source="x")
    with pytest.raises(RichSemError, match=r"schedule\.epochs is \d+ there, 9 here"):
        folder.check(longer, resume=True)


def test_a_damaged_config_of_a_run_is_named(folder, config):
    folder.config.write_text("{")
    with pytest.raises(RichSemError, match="config"):
        folder.check(config, resume=True)


def test_checking_writes_nothing(tmp_path, config):
    RunFolder(tmp_path / "new").check(config, resume=False)
    assert not (tmp_path / "new").exists()


# One process at a time


ALONE = Ranks(0, 1, torch.device("cpu"))

LEFT_BEHIND = [
    "checkpoints/.last.pt.4711-0123abcd.tmp",
    "checkpoints/.best.pt.4711-0123abcd.tmp",
    "detections/.detections-00003.arrow.1-0123abcd.tmp",
    ".config.yaml.4711-0123abcd.tmp",
    ".log.jsonl.4711-0123abcd.tmp",
]
SOMEBODY_ELSES = [
    ".notes.tmp", "checkpoints/.mine.pt.4711-0123abcd.tmp", "checkpoints/last.pt", "checkpoints/.last.pt.4711.tmp",
    "checkpoints/.best.safetensors.4711-0123abcd.tmp", "deep/.last.pt.4711-0123abcd.tmp",
]  # fmt: skip


def lay(out, names):
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(b"x")


def there(out, names):
    return [name for name in names if (out / name).exists()]


def test_what_a_killed_run_left_half_written_is_swept_and_nothing_else(folder, config):
    lay(folder.out, LEFT_BEHIND + SOMEBODY_ELSES)
    with folder.held(config, ALONE, resume=True):
        assert there(folder.out, LEFT_BEHIND) == []
    assert there(folder.out, SOMEBODY_ELSES) == SOMEBODY_ELSES


HOLDER = """
import sys, torch
from pathlib import Path
from richsem_train.config import load_config
from richsem_train.run.distributed import Ranks
from richsem_train.run.folder import RunFolder
folder = RunFolder(Path(sys.argv[1]))
with folder.held(load_config("demo"), Ranks(0, 1, torch.device("cpu")), resume=folder.config.exists()):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(folder):
    """Another process that holds the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder.out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_refused_and_sweeps_nothing(folder, config, holder, monkeypatch):
    monkeypatch.setattr(run_folder, "_HAND_OVER_SECONDS", 0.3)
    lay(folder.out, LEFT_BEHIND)
    with pytest.raises(
        RichSemError, match=r"another process trains in .*; wait for it, stop it, or name another --out"
    ):
        folder.held(config, ALONE, resume=True).__enter__()
    assert there(folder.out, LEFT_BEHIND) == LEFT_BEHIND


def test_the_lock_of_a_killed_process_is_gone_at_once(folder, config, holder):
    holder.kill()
    lay(folder.out, LEFT_BEHIND)
    with folder.held(config, ALONE, resume=True):
        assert there(folder.out, LEFT_BEHIND) == []


def test_forked_children_dont_keep_the_lock(folder, config):
    """Loader processes are forked while it is held, and outlive a killed parent by moments."""
    child = None
    with folder.held(config, ALONE, resume=True):
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
    other = subprocess.run(
        [sys.executable, "-c", HOLDER, str(folder.out)], input="", capture_output=True, text=True, check=False
    )
    child.kill()
    child.join()
    assert other.returncode == 0, other.stderr


def fails(number, path=None):
    def call(*_):
        raise OSError(number, os.strerror(number), path)

    return call


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_nothing_is_held_and_nothing_swept(folder, config, monkeypatch, number):
    monkeypatch.setattr(run_folder.fcntl, "lockf", fails(number))
    lay(folder.out, LEFT_BEHIND)
    with folder.held(config, ALONE, resume=True):
        assert there(folder.out, LEFT_BEHIND) == LEFT_BEHIND


def test_a_folder_with_a_lock_alone_is_free(tmp_path, config):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock").touch()
    RunFolder(tmp_path / "out").check(config, resume=False)


@pytest.mark.parametrize("what", ["open", "lock", "sweep"])
def test_a_folder_that_cannot_be_written_is_refused_in_words_on_all_ranks(folder, config, monkeypatch, what):
    told = []

    class First(Ranks):
        def messages(self, ours):
            told.extend(ours)
            return list(ours)

    lay(folder.out, LEFT_BEHIND)
    if what == "open":
        monkeypatch.setattr(run_folder.os, "open", fails(errno.EROFS, str(folder.out / ".lock")))
    elif what == "lock":
        monkeypatch.setattr(run_folder.fcntl, "lockf", fails(errno.EIO))
    else:
        monkeypatch.setattr(run_folder.Path, "unlink", lambda path, **_: fails(errno.EACCES, str(path))())
    with pytest.raises(RichSemError, match="a run writes to its folder, so mend that, or name another --out") as error:
        folder.held(config, First(0, 2, torch.device("cpu")), resume=True).__enter__()
    assert str(error.value).startswith(str(folder.out))
    assert told == [str(error.value)]


@pytest.mark.parametrize("out", ["new", "new/deep/er", "empty"])
def test_what_is_held_and_not_claimed_is_left_as_it_was(tmp_path, config, out):
    (tmp_path / "empty").mkdir()
    folder = RunFolder(tmp_path / out)
    with pytest.raises(ZeroDivisionError), folder.held(config, ALONE, resume=False):  # noqa: PT012 - nested on purpose
        assert (folder.out / ".lock").exists()
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


def test_what_others_put_into_a_folder_that_was_made_stays(tmp_path, config):
    folder = RunFolder(tmp_path / "new" / "out")
    with folder.held(config, ALONE, resume=False):
        (folder.out.parent / "note.txt").touch()
    assert {path.name for path in tmp_path.rglob("*")} == {"new", "note.txt"}


def test_a_folder_that_another_process_filled_before_it_was_held_is_refused(tmp_path, config, monkeypatch):
    folder = RunFolder(tmp_path / "out")
    lock = run_folder._lock

    def late(path):
        folder.claim(config)
        return lock(path)

    monkeypatch.setattr(run_folder, "_lock", late)
    with pytest.raises(RichSemError, match="holds a run already"):
        folder.held(config, ALONE, resume=False).__enter__()
    assert folder.config.exists()


def test_a_lock_whose_file_was_taken_away_is_taken_anew(folder, config, monkeypatch):
    lock, taken = run_folder.fcntl.lockf, []

    def first_taken_away(*arguments):
        lock(*arguments)
        if not taken:
            (folder.out / ".lock").unlink()
        taken.append(arguments)

    monkeypatch.setattr(run_folder.fcntl, "lockf", first_taken_away)
    with folder.held(config, ALONE, resume=True):
        assert len(taken) == 2
        assert (folder.out / ".lock").exists()


def test_a_second_process_is_refused_before_it_reads_a_checkpoint_or_data(folder, config, holder, monkeypatch):
    monkeypatch.setattr(run_folder, "_HAND_OVER_SECONDS", 0.3)
    for name in ("load_checkpoint", "open_data"):
        monkeypatch.setattr(training, name, None)
    folder.last.parent.mkdir()
    folder.last.touch()
    with pytest.raises(RichSemError, match="another process trains in"):
        training.train(config, folder.out, resume=True, device="cpu", reporter=Quiet())
