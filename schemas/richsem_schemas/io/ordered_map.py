"""Work ahead in threads, with results in order and a bound on what is in flight."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


MAX_THREADS = 16
"""More of one process only wait for each other."""


def default_threads() -> int:
    """One a core that this process may use, at most `MAX_THREADS`."""
    return min(cores(), MAX_THREADS)


def cores() -> int:
    """Cores that this process may use; all of the machine where the system has no word for that, as macOS."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ordered_map(
    pool: Executor,
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    ahead: float,
    weigh: Callable[[Item], float] = lambda _: 1,
) -> Iterator[Result]:
    """Apply `function` to `items` in `pool`, and go on until those after the one that is asked for weigh `ahead`.

    By default an item weighs 1, so at most `ahead` are taken before they are asked for. Otherwise it is that weight and
    less than one item more. The first exception, in order, is raised where its result would have come.
    """
    waiting: deque[tuple[Future[Result], float]] = deque()
    behind_first = 0.0
    try:
        for item in items:
            weight = weigh(item)
            behind_first += weight if waiting else 0
            waiting.append((pool.submit(function, item), weight))
            while waiting and behind_first >= ahead:
                future, _ = waiting.popleft()
                behind_first -= waiting[0][1] if waiting else 0
                yield future.result()
        while waiting:
            yield waiting.popleft()[0].result()
    finally:
        for future, _ in waiting:
            future.cancel()
