"""Progress on standard error: a live bar on a terminal, a line now and then in a log."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from richsem_prep.shard import progress
from richsem_prep.shard.progress import OnProgress, ShardOutcome
from richsem_schemas.io.words import printable_text

_LOG_SECONDS = 15.0


def warn(message: str) -> None:
    """Print a warning on standard error."""
    Console(stderr=True).print(Text(f"warning: {message}"), soft_wrap=True)


@contextmanager
def counting_bar(name: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error over things that are counted; yields what takes the number done and the number in all."""
    console = Console(stderr=True)
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


@contextmanager
def bytes_bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error over bytes; a log gets none."""
    console = Console(stderr=True)
    columns = (TextColumn(name), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class ConsoleReporter:
    """Reports a run on a console; use as a context manager, so that the bar ends with the block."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Progress | None = None
        self._last_line = 0.0
        self.failures = 0

    def __enter__(self) -> "ConsoleReporter":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_bar()

    def say(self, message: str) -> None:
        """Print a line that stays."""
        self._console.print(printable_text(message), highlight=False, markup=False, soft_wrap=True)

    def stage(self, name: str, total: int | None, unit: str) -> OnProgress:
        """Begin a bar; the function returned moves it."""
        self._stop_bar()
        started = time.monotonic()
        if not self._console.is_terminal:
            return lambda counters: self._log(name, total, unit, counters, started)
        self._live = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            transient=True,
        )
        task = self._live.add_task(name, total=total, rate="", note="")
        self._live.start()
        live = self._live

        def move(counters: progress.Progress) -> None:
            done = _done(unit, counters)
            rate, eta = _rate(done, total, started)
            live.update(
                task, completed=done, rate=f"{rate:.1f} {unit}/s", note=", ".join([*eta, self._troubles(counters)])
            )

        return move

    def _log(self, name: str, total: int | None, unit: str, counters: progress.Progress, started: float) -> None:
        done = _done(unit, counters)
        finished = total is not None and done >= total
        waited = time.monotonic() - self._last_line
        # A finished stage has had its last line, which lies ahead of the clock.
        if waited < 0 or (waited < _LOG_SECONDS and not finished):
            return
        self._last_line = time.monotonic() + (1e9 if finished else 0)
        rate, eta = _rate(done, total, started)
        of = f" of {total}" if total else ""
        self.say(", ".join([f"{name}: {done}{of} {unit}", f"{rate:.1f}/s", *eta, self._troubles(counters)]))

    def _troubles(self, counters: progress.Progress) -> str:
        return f"{counters.quarantined} quarantined, {self.failures} failed"

    def _stop_bar(self) -> None:
        self._last_line = 0.0
        if self._live is not None:
            self._live.stop()
            self._live = None

    def shard_done(self, outcome: ShardOutcome) -> None:
        """Say so where a shard was given up."""
        if outcome.failure is not None:
            self.failures += 1
            self.say(f"shard {outcome.shard} failed: {outcome.failure.message}")


def _done(unit: str, counters: progress.Progress) -> int:
    return counters.text_classes if unit == "classes" else counters.samples


def _rate(done: int, total: int | None, started: float) -> tuple[float, list[str]]:
    """Things a second, and when all are done, where that is known."""
    rate = done / max(time.monotonic() - started, 1e-6)
    if not total or not done:
        return rate, []
    minutes, seconds = divmod(round(max(total - done, 0) / rate), 60)
    return rate, [f"ETA {minutes // 60}:{minutes % 60:02d}:{seconds:02d}"]
