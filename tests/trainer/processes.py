"""`richsem-train` in processes of their own, for signals and ranks; forked from one that has imported torch already."""

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "torch._dynamo",
        "richsem_train.cli",
        "richsem_train.detector_tasks",
        "richsem_train.run.training",
        "richsem_train.results.plots",
    ]
)
# Read by the server when it starts; forks of a process with running OpenMP threads may hang.
os.environ["OMP_NUM_THREADS"] = "1"


@dataclass
class Command:
    """One process."""

    process: Any
    folder: Path

    def wait(self, timeout: float = 500) -> int:
        """Its exit code; negative where a signal ended it."""
        self.process.join(timeout)
        assert self.process.exitcode is not None, f"still running; it said: {self.output}"
        return self.process.exitcode

    @property
    def output(self) -> str:
        """What it printed so far."""
        return (self.folder / "stdout").read_text() + self.errors

    @property
    def errors(self) -> str:
        """What it printed on standard error so far."""
        return (self.folder / "stderr").read_text()

    def send(self, number: signal.Signals, *, group: bool = False) -> None:
        """Send a signal, to its children too if asked."""
        (os.killpg if group else os.kill)(self.process.pid, number)

    def wait_until(self, condition: Callable[[], bool], timeout: float = 400) -> None:
        """Until something is the case; fails if the process ends before."""
        limit = time.monotonic() + timeout
        while not condition():
            assert self.process.is_alive(), f"ended with {self.process.exitcode}; it said: {self.output}"
            assert time.monotonic() < limit, f"still not; it said: {self.output}"
            time.sleep(0.02)


def start_command(folder: Path, *arguments: object, env: dict[str, str] | None = None) -> Command:
    """Start `richsem-train ARGUMENTS`; what it prints goes into files in `folder`."""
    return start_function(folder, _run_command, tuple(map(str, arguments)), env=env)


def start_function(folder: Path, function: Callable[..., None], *arguments: Any, env: dict[str, str] | None) -> Command:
    """Start a function of a module in a process of its own session."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("stdout", "stderr"):
        (folder / name).touch()
    process = _CONTEXT.Process(target=_begin, args=(folder, env or {}, function, arguments))
    process.start()
    return Command(process, folder)


def start_ranks(folder: Path, count: int, function: Callable[..., None], *arguments: Any) -> list[Command]:
    """Start a function as each of several ranks, with the environment that torchrun gives them."""
    port = _free_port()
    return [
        start_function(
            folder / f"rank-{rank}",
            function,
            *arguments,
            env={
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(count),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            },
        )
        for rank in range(count)
    ]


def start_command_ranks(folder: Path, count: int, *arguments: object) -> list[Command]:
    """Start `richsem-train ARGUMENTS` as several ranks."""
    return start_ranks(folder, count, _run_command, tuple(map(str, arguments)))


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _begin(folder: Path, env: dict[str, str], function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.setsid()
    # A shell's background jobs ignore it, and so would we.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(env)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_APPEND), number)
    # The server's are closed or somebody else's.
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    function(*arguments)


def _run_command(arguments: tuple[str, ...]) -> None:
    from richsem_train import cli

    sys.argv = ["richsem-train", *arguments]
    cli.run()
