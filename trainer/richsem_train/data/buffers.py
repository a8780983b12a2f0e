"""Memory for the pixels of batches that is used again, shared with the processes that fill it."""

import itertools
import mmap
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_living: "weakref.WeakValueDictionary[int, BatchBuffers]" = weakref.WeakValueDictionary()
_keys = itertools.count()


class BatchBuffers:
    """Buffers that this process and those forked from it see, each filled by one and read by this one.

    Memory that was never touched costs as much as what is drawn in it, so each is used again once nobody looks at it
    any more. They need no room in /dev/shm, and end with the last process that sees them. Size is address space: pages
    count as memory once something was written there.

    Args:
        count: buffers.
        size: of each, bytes.
    """

    def __init__(self, count: int, size: int) -> None:
        self._memory = [mmap.mmap(-1, size) for _ in range(count)]
        self._free = list(range(count))
        self._key = next(_keys)
        _living[self._key] = self

    def take(self) -> int | None:
        """The number of a buffer that nobody looks at; None where there is none. It must be lent once."""
        return self._free.pop() if self._free else None

    def room(self, number: int) -> NDArray[np.uint8]:
        """A buffer for whoever fills it, uint8 [N]."""
        return np.frombuffer(self._memory[number], np.uint8)

    def lend(self, number: int) -> NDArray[np.uint8]:
        """A buffer for whoever reads it, uint8 [N]; free again once this array and all that look at it are gone."""
        room = self.room(number)
        weakref.finalize(room, self._free.append, number).atexit = False
        return room

    def __reduce__(self) -> tuple[Callable[[int], Any], tuple[int]]:
        """On the way back from a forked process it is what it was."""
        return _of_key, (self._key,)


def _of_key(key: int) -> BatchBuffers:
    return _living[key]
