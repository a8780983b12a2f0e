"""A command run to its end, and what it took: processor time of it and of all that it started."""

import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import psutil

_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Took:
    """What a command took.

    Attributes:
        exit_code: negative where a signal ended it.
        output: what it printed.
        processor_s: user and system time.
        wall_s: by the clock.
        places: what `watch` said and the processor time until then, whenever it was farther than before.
    """

    exit_code: int
    output: str
    processor_s: float
    wall_s: float
    places: tuple[tuple[int, float], ...]


def run_measured(
    command: Sequence[str], log: Path, *, stop: Event, watch: Callable[[], int | None] = lambda: None
) -> Took:
    """Run a command with one thread of torch.

    Args:
        command: its words.
        log: takes what it writes on standard error.
        stop: where it is set from elsewhere, the command gets a SIGTERM, and is waited for.
        watch: says how far the command is; called every second.
    """
    started = time.monotonic()
    printed = log.with_suffix(".out")
    with log.open("ab") as errors, printed.open("wb") as output:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        # A session of its own: Ctrl-C is for this process, which tells it.
        process = subprocess.Popen(command, stdout=output, stderr=errors, env=environment, start_new_session=True)
        try:
            status, usage, places = _followed(process.pid, stop, watch)
        except BaseException:
            process.terminate()
            raise
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = usage.ru_utime + usage.ru_stime
    return Took(process.returncode, printed.read_text(), seconds, time.monotonic() - started, tuple(places))


def _followed(
    pid: int, stop: Event, watch: Callable[[], int | None]
) -> tuple[int, resource.struct_rusage, list[tuple[int, float]]]:
    """Wait for a process; its status, what it used, and the places of `Took`."""
    places: list[tuple[int, float]] = []
    is_told = False
    while not (ended := os.wait4(pid, os.WNOHANG))[0]:
        if stop.is_set() and not is_told:
            # Not by `Popen`, which would collect a command that has just ended, and what it used with it.
            os.kill(pid, signal.SIGTERM)
            is_told = True
        place = watch()
        if place is not None and place > (places[-1][0] if places else -1):
            places.append((place, _processor_s(pid)))
        time.sleep(_POLL_SECONDS)
    _, status, usage = ended
    return status, usage, places


def _processor_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system
