"""Progress through annotation files of hundreds of megabytes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from richsem_train.console import Reporter

_MEGABYTE = 10**6


@contextmanager
def reading(what: str, files: Sequence[Path], reporter: Reporter) -> Iterator[Callable[[int], None]]:
    """Show how many megabytes of some files have been read; yields who is to be told of bytes as they are."""
    done = 0

    def on_read(count: int) -> None:
        nonlocal done
        done += count
        reporter.move(done // _MEGABYTE)

    reporter.begin(f"{what}, megabytes", sum(path.stat().st_size for path in files) // _MEGABYTE)
    try:
        yield on_read
    finally:
        reporter.end()
