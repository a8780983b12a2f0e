"""Progress of a run: a live bar on a terminal, a line now and then in a log; imports no other room."""

import time
from collections.abc import Mapping
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from richsem_schemas.io.words import printable_text

_LOG_SECONDS = 15.0


class Reporter(Protocol):
    """Is told of the progress of a run."""

    def say(self, message: str) -> None:
        """A line that stays."""

    def begin(self, what: str, total: int, done: int = 0) -> None:
        """A stretch of work begins; it ends when the next begins."""

    def move(self, done: int, note: str = "") -> None:
        """So much of it is done."""

    def end(self) -> None:
        """It has ended."""


class ConsoleReporter:
    """Reports on a console; use as a context manager, so that the bar ends with the block."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._what, self._total = "", 0
        self._started, self._started_at, self._last_line = 0.0, 0, 0.0

    def __enter__(self) -> "ConsoleReporter":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def say(self, message: str) -> None:
        """Print a line that stays."""
        self._console.print(printable_text(message), highlight=False, markup=False, soft_wrap=True)

    def begin(self, what: str, total: int, done: int = 0) -> None:
        """Begin a bar."""
        self.end()
        self._what, self._total = what, total
        self._started, self._started_at = time.monotonic(), done
        self._last_line = self._started
        if not self._console.is_terminal:
            return
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            transient=True,
        )
        self._bar.add_task(what, total=total, completed=done, note="")
        self._bar.start()

    def move(self, done: int, note: str = "") -> None:
        """Move the bar, or print a line every quarter of a minute."""
        eta = f"ETA {self._eta(done)}  {note}".rstrip()
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, note=eta)
            return
        now = time.monotonic()
        if now - self._last_line >= _LOG_SECONDS:
            self._last_line = now
            self.say(f"{self._what}: {done} of {self._total}, {eta}")

    def end(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _eta(self, done: int) -> str:
        fresh = done - self._started_at
        if fresh <= 0:
            return "?"
        seconds = round((time.monotonic() - self._started) / fresh * max(self._total - done, 0))
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


class SilentReporter(ConsoleReporter):
    """Says nothing; of all ranks but the first."""

    def __init__(self) -> None:
        super().__init__(Console(quiet=True, force_terminal=False))


def step_note(loss: float, losses: Mapping[str, float], lr: float, seconds: float, wait_share: float) -> str:
    """The figures beside the bar."""
    shown = {"class": "loss_class", "box": "loss_bbox", "giou": "loss_giou", "soft": "loss_soft", "image": "loss_image"}
    parts = "".join(f" {name} {losses[key]:.3f}" for name, key in shown.items() if key in losses)
    return f"loss {loss:.3f}{parts}  lr {lr:.1e}  {seconds:.2f} s/step  data wait {wait_share:.0%}"
