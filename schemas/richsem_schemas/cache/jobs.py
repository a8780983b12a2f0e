"""One job at a time on the same shards of an OUT, held by locks that die with their process."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from richsem_schemas.errors import RichSemError
from richsem_schemas.io.output_files import full_disk_named
from richsem_schemas.io.places import Place, RemotePath

JOBS_FOLDER = ".jobs"


@contextmanager
def hold_job(out: Place, shards: range | None) -> Iterator[None]:
    """Claim some shards of an OUT, or all, for this process; a killed process's claim ends with it.

    At a URL there are no such locks, so nothing is claimed there.

    Raises:
        RichSemError: a living job holds some of the same shards.
        FullDiskError: there is no space for the claim.
    """
    if isinstance(out, RemotePath):
        yield
        return
    folder = out / JOBS_FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RichSemError(f"--out {out} can't be made: {error.strerror}; name another folder") from error
    claim = folder / f"{socket.gethostname()}-{os.getpid()}.json"
    with full_disk_named(claim), (folder / "guard").open("a") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        for other in sorted(folder.glob("*.json")):
            if other.is_file():
                _check_other(out, other, shards)
        held = claim.open("w")
        fcntl.flock(held, fcntl.LOCK_EX)
        json.dump({"host": socket.gethostname(), "pid": os.getpid(), "shards": _bounds(shards)}, held)
        held.flush()
    try:
        yield
    finally:
        claim.unlink(missing_ok=True)
        held.close()


@contextmanager
def one_at_a_time(out: Place) -> Iterator[None]:
    """Wait until no other job writes the plan or the spec of this OUT; at a URL, don't."""
    if isinstance(out, RemotePath):
        yield
        return
    with (out / JOBS_FOLDER / "plan-guard").open("a") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        yield


def _check_other(out: Path, other: Path, shards: range | None) -> None:
    try:
        with other.open() as file:
            if not _is_locked(file):
                other.unlink(missing_ok=True)
                return
            holder = json.load(file)
            theirs = None if holder["shards"] is None else (int(holder["shards"][0]), int(holder["shards"][1]))
            description = f"process {holder['pid']} on {holder['host']}"
    except FileNotFoundError:
        return
    except (ValueError, LookupError, TypeError):
        theirs, description = None, "another process"
    mine = _bounds(shards)
    if mine is None or theirs is None or (mine[0] < theirs[1] and theirs[0] < mine[1]):
        raise RichSemError(
            f"{out} is in use by {description}; wait for it, stop it, or share the work with "
            "--shard-range (ranges must not overlap)"
        )


def _is_locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _bounds(shards: range | None) -> tuple[int, int] | None:
    return None if shards is None else (shards.start, shards.stop)
