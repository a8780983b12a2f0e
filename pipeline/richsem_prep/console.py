"""What a run shows: a live bar on a terminal, a line now and then in a log, tables at the end."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from richsem_prep.executors import progress
from richsem_prep.executors.base import OnProgress, ShardOutcome
from richsem_prep.shard.run import RunSummary
from richsem_schemas.io.words import printable_text

_LOG_SECONDS = 15.0


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
                task, completed=done, rate=f"{rate:.1f} {unit}/s", note=f"ETA {eta}  {self._troubles(counters)}"
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
        self.say(f"{name}: {done}{of} {unit}, {rate:.1f}/s, ETA {eta}, {self._troubles(counters)}")

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


def _rate(done: int, total: int | None, started: float) -> tuple[float, str]:
    rate = done / max(time.monotonic() - started, 1e-6)
    if not total or not done:
        return rate, "?"
    minutes, seconds = divmod(round(max(total - done, 0) / rate), 60)
    return rate, f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def summary_table(summary: RunSummary) -> Table:
    """What a run did, for the end."""
    receipts = [result.receipt.summary for result in summary.results.values()]
    samples = sum(item.samples for item in receipts)
    regions = sum(item.regions for item in receipts)
    label_bytes = sum(item.tar.bytes for item in receipts)
    picture_bytes = sum(result.picture_bytes for result in summary.results.values())
    quarantined = sum(result.quarantined for result in summary.results.values())
    whole = summary.start_seconds + summary.work_seconds
    table = Table(title=f"label set {summary.labels}", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_row(
        "shards", f"{len(summary.results)} made, {summary.already} there before, {len(summary.failed)} failed"
    )
    table.add_row("pictures", f"{samples:,}")
    table.add_row("quarantined", f"{quarantined:,}")
    if summary.left_out:
        table.add_row("left out of the listing", f"{summary.left_out:,}")
    table.add_row("views", f"{sum(item.views for item in receipts):,}")
    table.add_row("regions", f"{regions:,}")
    if regions:
        table.add_row(
            "bytes a region", f"{label_bytes / regions:,.0f} labels; {picture_bytes / samples:,.0f} a picture"
        )
        table.add_row(
            "throughput",
            f"{regions / summary.work_seconds:,.1f} regions/s, {samples / summary.work_seconds:,.1f} pictures/s",
        )
        table.add_row("with start-up", f"{regions / whole:,.1f} regions/s, {samples / whole:,.1f} pictures/s")
    table.add_row("start-up", f"{summary.start_seconds:,.1f} s")
    table.add_row("work", f"{summary.work_seconds:,.1f} s, {summary.workers} worker{'s' * (summary.workers > 1)}")
    for stage, seconds in _stage_seconds(summary).items():
        table.add_row(f"  {stage}", f"{seconds:,.1f} s")
    return table


def _stage_seconds(summary: RunSummary) -> dict[str, float]:
    total: dict[str, float] = {}
    for result in summary.results.values():
        for stage, seconds in result.seconds.items():
            total[stage] = total.get(stage, 0.0) + seconds
    return total
