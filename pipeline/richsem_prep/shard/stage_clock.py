"""Where the time of a shard goes."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TypeVar

STAGES = ("read", "decode", "render", "encode", "write", "wait")
"""Stages whose seconds are counted; read, decode and render run in threads, `wait` is the network's for them. Packing
belongs to `write`, in threads as well."""

_Item = TypeVar("_Item")


class StageClock:
    """Seconds by stage, summed over threads."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._lock = Lock()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count the block's seconds."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._add(stage, time.perf_counter() - start)

    def each(self, stage: str, items: Iterable[_Item], *, not_in: str | None = None) -> Iterator[_Item]:
        """The items, the seconds that each takes to come counted; taken off the stage that asks for them, if any."""
        source = iter(items)
        while True:
            start = time.perf_counter()
            try:
                item = next(source)
            except StopIteration:
                return
            finally:
                seconds = time.perf_counter() - start
                self._add(stage, seconds)
                if not_in is not None:
                    self._add(not_in, -seconds)
            yield item

    def rounded(self) -> dict[str, float]:
        """For receipts."""
        return {stage: round(self.seconds[stage], 3) for stage in STAGES}

    def _add(self, stage: str, seconds: float) -> None:
        with self._lock:
            self.seconds[stage] += seconds
