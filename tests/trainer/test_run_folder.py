"""OUT holds one run: begun once, gone on with only when asked, and only with the same config."""

import errno
import multiprocessing
import subprocess
import sys
import time

import pytest
import torch

from richsem_schemas.errors import RichSemError
from richsem_train import run_folder
from richsem_train.config import load_config, with_changes
from richsem_train.distributed import Ranks
from richsem_train.run_folder import RunFolder


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


def test_what_a_killed_run_left_half_written_is_swept_and_nothing_else(folder):
    lay(folder.out, LEFT_BEHIND + SOMEBODY_ELSES)
    with folder.held(ALONE):
        assert there(folder.out, LEFT_BEHIND) == []
    assert there(folder.out, SOMEBODY_ELSES) == SOMEBODY_ELSES


HOLDER = """
import sys, torch
from pathlib import Path
from richsem_train.distributed import Ranks
from richsem_train.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])).held(Ranks(0, 1, torch.device("cpu"))):
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


def test_a_second_process_is_refused_and_sweeps_nothing(folder, holder, monkeypatch):
    monkeypatch.setattr(run_folder, "_HAND_OVER_SECONDS", 0.3)
    lay(folder.out, LEFT_BEHIND)
    with pytest.raises(
        RichSemError, match=r"another process trains in .*; wait for it, stop it, or name another --out"
    ):
        folder.held(ALONE).__enter__()
    assert there(folder.out, LEFT_BEHIND) == LEFT_BEHIND


def test_the_lock_of_a_killed_process_is_gone_at_once(folder, holder):
    holder.kill()
    lay(folder.out, LEFT_BEHIND)
    with folder.held(ALONE):
        assert there(folder.out, LEFT_BEHIND) == []


def test_forked_children_dont_keep_the_lock(folder):
    """Loader processes are forked while it is held, and outlive a killed parent by moments."""
    child = None
    with folder.held(ALONE):
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
    other = subprocess.run(
        [sys.executable, "-c", HOLDER, str(folder.out)], input="", capture_output=True, text=True, check=False
    )
    child.kill()
    child.join()
    assert other.returncode == 0, other.stderr


def test_without_locks_nothing_is_held_and_nothing_swept(folder, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(run_folder.fcntl, "lockf", none)
    lay(folder.out, LEFT_BEHIND)
    with folder.held(ALONE):
        assert there(folder.out, LEFT_BEHIND) == LEFT_BEHIND


def test_a_folder_with_a_lock_alone_is_free(tmp_path, config):
    folder = RunFolder(tmp_path / "out")
    with folder.held(ALONE):
        pass
    folder.check(config, resume=False)
