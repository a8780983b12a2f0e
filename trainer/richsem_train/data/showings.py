"""How often a picture has been shown before, from an epoch and a position in it alone."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray


class Showings:
    """Counts showings of pictures over a run: those of earlier epochs and those earlier in the epoch.

    A function of the position, whoever asks and in which order. Epochs are counted from their lists when the first
    position behind them is asked for, one array of counts for all pictures: for 100,000 pictures and 24 epochs some
    tenths of a second once, and a megabyte.

    Args:
        epoch_indices: the pictures of an epoch in their order.
        epoch_length: how many of them are shown; the rest doesn't fill a batch.
        pictures: how many there are.
    """

    def __init__(self, epoch_indices: Callable[[int], NDArray[np.int64]], *, epoch_length: int, pictures: int) -> None:
        self._epoch_indices = epoch_indices
        self._epoch_length = epoch_length
        self._start(pictures)

    def _start(self, pictures: int) -> None:
        self._epoch = 0
        self._before = np.zeros(pictures, np.int32)
        self._shown = self._list(0)

    def before(self, epoch: int, position: int, picture: int) -> int:
        """How many times a picture was shown before a position of an epoch."""
        self._go_to(epoch)
        return int(self._before[picture]) + int(np.count_nonzero(self._shown[:position] == picture))

    def _go_to(self, epoch: int) -> None:
        if epoch < self._epoch:
            self._start(len(self._before))
        while self._epoch < epoch:
            self._before += np.bincount(self._shown, minlength=len(self._before)).astype(np.int32)
            self._epoch += 1
            self._shown = self._list(self._epoch)

    def _list(self, epoch: int) -> NDArray[np.int32]:
        return self._epoch_indices(epoch)[: self._epoch_length].astype(np.int32)
