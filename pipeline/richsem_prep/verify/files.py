"""The files of an untrusted cache: only regular ones that lie in OUT itself are opened, and what is wrong with them."""

import hashlib
import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import BinaryIO, TypeVar

from richsem_schemas.cache.jobs import JOBS_FOLDER
from richsem_schemas.errors import CorruptCacheError, RichSemError
from richsem_schemas.io.files import FileHash, is_temporary, open_regular
from richsem_schemas.io.places import Place, RemoteFile, RemotePath, name_below
from richsem_schemas.io.words import one_line

MAX_PROBLEMS_A_FILE = 20
"""More than that of one file tell nothing new."""

_READ_BYTES = 4 * 2**20
_BUFFER_BYTES = 2**20

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Problem:
    """Something wrong with a cache.

    Attributes:
        path: the file, relative to OUT.
    """

    path: str
    message: str
    remedy: str


class BytesDone:
    """Counts the bytes that have been read, over all threads."""

    def __init__(self, on_bytes: Callable[[int], None]) -> None:
        self._on_bytes = on_bytes
        self._lock = Lock()
        self.total = 0

    def add(self, count: int) -> None:
        """Count, and report the total."""
        with self._lock:
            self.total += count
            self._on_bytes(self.total)


class HashingReader:
    """Reads a file from start to end and keeps the hash of what went by."""

    def __init__(self, file: BinaryIO | RemoteFile, done: BytesDone) -> None:
        self._file = file
        self._done = done
        self._digest = hashlib.sha256()
        self._uncounted = 0
        self._unread = io.BytesIO()
        self.position = 0

    def read(self, size: int) -> bytes:
        """The next bytes; fewer only where the file ends."""
        again = self._unread.read(size)
        data = self._file.read(size - len(again))
        self._digest.update(data)
        self.position += len(again) + len(data)
        self._uncounted += len(data)
        if self._uncounted >= _READ_BYTES or len(again) + len(data) < size:
            self._done.add(self._uncounted)
            self._uncounted = 0
        return again + data

    def unread(self, data: bytes) -> None:
        """Have the bytes that were read last read again."""
        self._unread = io.BytesIO(data)
        self.position -= len(data)

    def drain(self) -> None:
        """Read to the end."""
        while self.read(_READ_BYTES):
            pass

    def problem(self, expected: FileHash, *, said_by: str) -> str | None:
        """Compare with size and SHA-256, once all is read; None where they agree."""
        found = self._digest.hexdigest()
        if (self.position, found) == (expected.bytes, expected.sha256):
            return None
        return f"bytes have changed: its SHA-256 is {found[:12]}…, {said_by} says {expected.sha256[:12]}…"


@dataclass(frozen=True, eq=False)
class CacheFiles:
    """The regular files of a cache.

    Attributes:
        out: its folder, resolved.
        sizes: bytes of each file by its path relative to `out`; nothing else is ever opened.
    """

    out: Place
    sizes: dict[str, int]
    done: BytesDone

    def relative(self, path: Place) -> str:
        """A file's name in problems."""
        return name_below(path, self.out)

    def has(self, path: Place) -> bool:
        """Whether a regular file is there."""
        return self.relative(path) in self.sizes

    def count_below(self, folder: Place) -> int:
        """How many files lie in a folder, and in its folders."""
        prefix = self.relative(folder) + "/"
        return sum(path.startswith(prefix) for path in self.sizes)

    @contextmanager
    def open(self, path: Place) -> Iterator[HashingReader]:
        """Open a file to be read once, from start to end."""
        with path.open() if isinstance(path, RemotePath) else open_regular(path, buffering=_BUFFER_BYTES) as file:
            yield HashingReader(file, self.done)

    def size_problem(self, path: Place, expected: FileHash, *, said_by: str) -> str | None:
        """Compare a file with its size alone; None where they agree."""
        size = self.sizes.get(self.relative(path))
        if size is None:
            return "it is missing"
        if size != expected.bytes:
            verdict = "cut short" if size < expected.bytes else "too long"
            return f"{verdict}: it has {size:,} bytes, {said_by} says {expected.bytes:,}"
        return None

    def hash_problem(self, path: Place, expected: FileHash, *, said_by: str) -> str | None:
        """Compare a file with its size and SHA-256; None where they agree."""
        if problem := self.size_problem(path, expected, said_by=said_by):
            return problem
        with self.open(path) as reader:
            reader.drain()
        return reader.problem(expected, said_by=said_by)


@dataclass(frozen=True, eq=False)
class Report:
    """Takes the problems of files that one remedy mends."""

    files: CacheFiles
    remedy: str
    problems: list[Problem] = field(default_factory=list)

    def advising(self, remedy: str) -> "Report":
        """The same list of problems, with another remedy for those to come."""
        return replace(self, remedy=remedy)

    def add(self, path: Place, *messages: str) -> None:
        """Add problems of one file."""
        name = self.files.relative(path)
        self.problems.extend(Problem(name, message, self.remedy) for message in messages)

    def add_all(self, path: Place, messages: Iterator[str]) -> bool:
        """Add messages about one file, as many as tell something; returns whether there were any."""
        found = first_messages(messages)
        self.add(path, *found)
        return bool(found)

    def attempt(self, path: Place, read: Callable[[], _Result]) -> _Result | None:
        """What `read` returns, or None and a problem where it can't: the bytes of a cache may be anything."""
        try:
            return read()
        except Exception as error:
            self.add(path, _reason(error).removeprefix(f"{path}: ").partition("; ")[0])
            return None

    def record(
        self, path: Place, read: Callable[[Place], _Result], *, missing: str = "it is missing"
    ) -> _Result | None:
        """A sealed file, or None and a problem."""
        if not self.files.has(path):
            self.add(path, missing)
            return None
        self.files.done.add(self.files.sizes[self.files.relative(path)])
        return self.attempt(path, lambda: read(path))

    def has_hash(self, path: Place, expected: FileHash, *, said_by: str) -> bool:
        """Whether a file is the one that another names; else there is a problem."""
        problem = self.files.hash_problem(path, expected, said_by=said_by)
        if problem:
            self.add(path, problem)
        return problem is None


def first_messages(messages: Iterator[str]) -> list[str]:
    """As many messages about one file as tell something."""
    return list(islice(_and_its_failure(messages), MAX_PROBLEMS_A_FILE))


def _and_its_failure(messages: Iterator[str]) -> Iterator[str]:
    try:
        yield from messages
    except Exception as error:  # A hostile file may trip any library; that is a finding, not a crash.
        yield _reason(error)


def _reason(error: Exception) -> str:
    if isinstance(error, CorruptCacheError):
        return str(error)
    return f"it can't be read ({type(error).__name__}: {one_line(error, longest=200)})"


def find_files(out: Place) -> tuple[dict[str, int], list[Problem], list[str]]:
    """What lies in OUT, found without following a link: sizes of regular files by path, problems, and notes.

    Raises:
        RichSemError: OUT is no folder.
    """
    if isinstance(out, RemotePath):
        # Where a local cache was copied to a URL, its locks may have come along.
        return {name: size for name, size in out.sizes_below().items() if name.split("/")[0] != JOBS_FOLDER}, [], []
    if not out.is_dir():
        raise RichSemError(f"{out} is no folder; name the OUT of a `richsem-prep shard`")
    sizes: dict[str, int] = {}
    problems = []
    leftovers = 0
    for name, entry in sorted(_entries(out)):
        if entry.is_symlink():
            problems.append(_link_problem(out, name, entry))
        elif is_temporary(entry.name):
            leftovers += 1
        elif not stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
            problems.append(Problem(name, "neither a file nor a folder", "remove it"))
        else:
            sizes[name] = entry.stat(follow_symlinks=False).st_size
    note = (
        f"{leftovers} temporary file{'s' * (leftovers > 1)} of a run that goes on or was killed; "
        "the next `richsem-prep shard` removes what was left"
    )
    return sizes, problems, [note] * bool(leftovers)


def _entries(out: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Everything below a folder that is no folder itself, by path; `JOBS_FOLDER` holds locks and no data."""
    prefixes = [""]
    while prefixes:
        prefix = prefixes.pop()
        with os.scandir(out / prefix) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    yield prefix + entry.name, entry
                elif prefix or entry.name != JOBS_FOLDER:
                    prefixes.append(f"{prefix}{entry.name}/")


def _link_problem(out: Path, name: str, entry: os.DirEntry[str]) -> Problem:
    try:
        target = Path(entry.path).resolve()
    except (OSError, RuntimeError):
        return Problem(name, "a link that leads nowhere; it was not followed", "remove it")
    where = "within the cache" if target.is_relative_to(out) else "out of the cache"
    remedy = "put the files themselves in its place"
    return Problem(name, f"a link that leads {where}, to {target}; it was not followed", remedy)
