"""Rules for files that commands write: never over what they read; a full disk is told with the file and the space."""

import errno
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from richsem_schemas.errors import RichSemError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""How systems say that a disk, or a user's share of it, is full."""


class FullDiskError(OSError):
    """A disk is full; `filename` is the file that was to be written, `strerror` tells the space."""


def require_no_inputs(outputs: Iterable[Path], inputs: Iterable[Path], *, remedy: str) -> None:
    """Check, before the first write, that nothing that is read would be written over.

    Files are compared, not names: links of both kinds are followed, and so is a file system that ignores case.

    Files that don't exist are left to their readers. The remedy is such as "name another --out".

    Raises:
        RichSemError: an output is one of the inputs.
    """
    taken = {file: path for path in inputs if (file := _file_of(path)) is not None}
    for path in outputs:
        file = _file_of(path)
        if file in taken:
            same = "" if taken[file] == path else f" (it is {taken[file]})"
            raise RichSemError(f"{path} would be overwritten, and this command reads it{same}; {remedy}")


def require_folder(path: Path, *, option: str = "--out") -> None:
    """Check that a folder is there or can be made.

    Raises:
        RichSemError: it is a file.
    """
    if path.exists() and not path.is_dir():
        raise RichSemError(f"{option} {path} is no folder; name a folder, which is made if it isn't there")


def require_replaceable(path: Path) -> None:
    """Check that a file that is written whole would take the place of a file, if of anything; links are followed.

    Raises:
        RichSemError: a pipe, a device or a socket is there, or a folder.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return
    if stat.S_ISDIR(mode):
        raise RichSemError(f"{path} is a folder, and a file is to be written there; name a file")
    if not stat.S_ISREG(mode):
        raise RichSemError(
            f"{path} is a pipe, a device or a socket, and would be replaced by a file; files are written whole, under "
            "another name first: name a file"
        )


def _file_of(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


@contextmanager
def full_disk_named(path: Path, *, needed: int | None = None) -> Iterator[None]:
    """Where a disk is full in the block, say so with the file, the space that is free and the space that is needed.

    Raises:
        FullDiskError: the disk is full; other errors are let through.
    """
    try:
        yield
    except FullDiskError:
        raise
    except OSError as error:
        if error.errno not in FULL:
            raise
        # Quotas are not in what the system says of its disks.
        known = [f"{_free_bytes(path):,} bytes are free"] if error.errno == errno.ENOSPC else []
        known += [] if needed is None else [f"{needed:,} are needed"]
        told = f" ({', '.join(known)})" if known else ""
        raise FullDiskError(error.errno, f"{os.strerror(error.errno)}{told}", str(path)) from error


def _free_bytes(path: Path) -> int:
    folder = next(folder for folder in path.absolute().parents if folder.is_dir())
    return shutil.disk_usage(folder).free
