"""A kernel that does not work, through the command line: the run goes on without it and says so once.

The kernels' device is the CPU here, where they can't run: what fails is Triton itself.
"""

import pytest

from richsem_train.models.dino.deformable_attention import backends
from richsem_train.run.checkpoint import load_checkpoint

pytest.importorskip("triton")


@pytest.fixture
def kernels_fail(monkeypatch):
    """The first CUDA device of a machine whose Triton can't compile."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(backends, "_KERNEL_DEVICE", "cpu")
    backends.kernel_fault.cache_clear()
    yield
    backends.kernel_fault.cache_clear()


def notes(command):
    return [line for line in command.stderr.splitlines() if "whose kernel does not work" in line]


def test_train_eval_and_predict_go_on_without_the_kernel_and_say_so_in_one_line(command, kernels_fail, tmp_path):
    assert command.train(schedule__epochs=1) == 0, command.stderr
    (note,) = notes(command)
    assert note.startswith("deformable attention: torch-checkpoint")
    assert "'cpu'" in note
    assert "deformable attention: torch-checkpoint; " in command.stderr

    last = command.out / "checkpoints" / "last.pt"
    assert load_checkpoint(last).info.config.model.deformable_attention == "auto"
    assert command("eval", last, "--device", "cpu") == 0, command.stderr
    assert len(notes(command)) == 1
    picture = next((command.world.data / "val").iterdir())
    assert command("predict", last, picture, "--out", tmp_path / "seen", "--device", "cpu") == 0, command.stderr
    assert len(notes(command)) == 1


def test_the_kernel_asked_for_by_name_is_an_error_with_the_remedy(command, kernels_fail):
    assert command.train("--set", "model.deformable_attention=triton") == 1
    assert "'triton' does not work on 'cpu'" in command.error
    assert "choose 'auto' or 'torch-checkpoint'" in command.error
    assert not command.out.exists()
