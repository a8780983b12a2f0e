"""A bar over things that are counted, on a terminal; a line now and then in a log."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_LOG_SECONDS = 15.0


@contextmanager
def counting_bar(console: Console, name: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Yield what takes the number done and the number in all."""
    started = last_line = time.monotonic()

    def log(done: int, total: int) -> None:
        nonlocal last_line
        now = time.monotonic()
        if console.is_terminal or now - last_line < _LOG_SECONDS:
            return
        last_line = now
        rate = done / max(now - started, 1e-6)
        left = (total - done) / rate if rate else 0.0
        console.print(f"{name}: {done:,} of {total:,} {unit}, {rate:,.0f}/s, ETA {left:,.0f} s", highlight=False)

    columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=None)

        def move(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)
            log(done, total)

        yield move
