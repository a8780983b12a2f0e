"""Runs that are stopped on the way, and whether two runs are the same."""

import signal

import torch

from richsem_train.run.checkpoint import load_checkpoint
from richsem_train.run.log import LOG_NAME, read_log
from tests.trainer.tiny import Quiet, losses_of


class StopAt(Quiet):
    """Sends a signal to this process when a step has been taken."""

    def __init__(self, step, number=signal.SIGTERM):
        super().__init__()
        self._step, self._number = step, number
        self._is_training = False

    def begin(self, what, total, done=0):
        self._is_training = what == "training"

    def move(self, done, note=""):
        if self._is_training and done == self._step:
            signal.raise_signal(self._number)


def assert_same(out, whole):
    """The two runs can't be told apart but by the clock."""
    assert losses_of(out) == losses_of(whole)
    assert read_log(out / LOG_NAME).evaluations == read_log(whole / LOG_NAME).evaluations
    for name in ("last.pt", "best.pt"):
        ours, theirs = (load_checkpoint(folder / "checkpoints" / name) for folder in (out, whole))
        assert (ours.step, ours.best_ap) == (theirs.step, theirs.best_ap)
        for one, other in ((ours.model, theirs.model), (ours.averaged, theirs.averaged)):
            assert one.keys() == other.keys()
            assert all(torch.equal(one[key], other[key]) for key in one)
        for index, state in theirs.optimiser.get("state", {}).items():
            for key, value in state.items():
                assert torch.equal(ours.optimiser["state"][index][key], value)
