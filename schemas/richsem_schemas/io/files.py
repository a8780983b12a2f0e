"""Regular files: opened, hashed, and written whole or not at all; at a URL, too."""

import errno
import hashlib
import io
import os
import stat as stat_modes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Annotated, BinaryIO

from pydantic import BaseModel, Field, NonNegativeInt

from richsem_schemas.errors import CorruptCacheError, IrregularFileError
from richsem_schemas.io.canonical_json import canonical_json
from richsem_schemas.io.output_files import full_disk_named, require_replaceable
from richsem_schemas.io.places import READ_AHEAD_BYTES, Place, RemoteFile, RemotePath
from richsem_schemas.io.words import printable

OpenFile = int | RemoteFile
"""A file open for reading: a descriptor, or a file at a URL."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class FileHash(BaseModel, frozen=True, extra="forbid"):
    """Size in bytes and SHA-256 of one file."""

    bytes: NonNegativeInt
    sha256: Sha256


def hash_bytes(data: bytes) -> FileHash:
    """Size and SHA-256 of a file's content."""
    return FileHash(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def open_regular(path: str | bytes | os.PathLike[str], *, buffering: int = io.DEFAULT_BUFFER_SIZE) -> io.BufferedReader:
    """Open a regular file for reading, links followed; a pipe or a device neither hangs nor is read.

    Raises:
        IrregularFileError: something else is there.
        OSError: it can't be opened.
    """
    return io.BufferedReader(io.FileIO(os.fspath(path), opener=_regular_descriptor), buffering)


def _regular_descriptor(path: str | bytes, flags: int) -> int:
    shown = printable(os.fsencode(path))
    message = f"{shown}: not a regular file, and only those are read; put the file itself there, or make it anew"
    try:
        descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        # A socket.
        if error.errno == errno.ENXIO:
            raise IrregularFileError(message) from None
        raise
    if not stat_modes.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise IrregularFileError(message)
    return descriptor


def read_file(path: Place, *, limit: int | None = None) -> bytes:
    """The content of a file of a cache, of which none has more than `limit` bytes.

    Raises:
        CorruptCacheError: it is no regular file, or larger than `limit`.
        OSError: it can't be read.
    """
    if isinstance(path, RemotePath):
        data = path.read_bytes() if limit is None else path.read_range(0, limit + 1)
    else:
        with open_regular(path) as file:
            data = file.read(-1 if limit is None else limit + 1)
    if limit is not None and len(data) > limit:
        raise CorruptCacheError(
            f"{path}: more than {limit:,} bytes, which no such file has; restore it, or make it anew"
        )
    return data


def hash_file(path: Place) -> FileHash:
    """Size and SHA-256 of a file.

    Raises:
        IrregularFileError: it is no regular file.
    """
    digest, size = hashlib.sha256(), 0
    with path.open() if isinstance(path, RemotePath) else open_regular(path) as file:
        while data := file.read(READ_AHEAD_BYTES):
            digest.update(data)
            size += len(data)
    return FileHash(bytes=size, sha256=digest.hexdigest())


def bytes_there(path: Place) -> int:
    """Bytes of a regular file, asked once; 0 where there is none."""
    try:
        status = path.stat()
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
            return 0
        raise
    return status.st_size if stat_modes.S_ISREG(status.st_mode) else 0


def size_of(file: OpenFile) -> int:
    """Bytes of an open file."""
    return os.fstat(file).st_size if isinstance(file, int) else file.size


def read_at(descriptor: OpenFile, offset: int, size: int) -> bytes:
    """Read `size` bytes from `offset` on, fewer only where the file ends."""
    if isinstance(descriptor, RemoteFile):
        return descriptor.read_at(offset, size)
    parts: list[bytes] = []
    while size > 0 and (part := os.pread(descriptor, size, offset)):
        parts.append(part)
        offset += len(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def write_atomically(path: Place, data: bytes) -> None:
    """Write a file under a temporary name, fsync it, rename it into place, fsync the folder; at a URL, by one call.

    Raises:
        FullDiskError: there is no space for it.
        RichSemError: a pipe or a device has its name.
        OSError: something else is wrong with the folder or the disk.
    """
    if isinstance(path, RemotePath):
        path.write_bytes(data)
        return
    with hashed_file(path, needed=len(data)) as file:
        file.write(data)


def move_into_place(local: Path, place: Place) -> None:
    """Make a finished local file visible at a place, durably; at a URL by an upload.

    Args:
        local: gone afterwards; on the disk of `place`, unless that is a URL.
        place: where it appears.
    """
    if isinstance(place, RemotePath):
        place.upload(local)
        local.unlink()
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    with local.open("rb") as file:
        os.fsync(file.fileno())
    commit(local, place)


def temporary_path(path: Path) -> Path:
    """A name beside `path` that no other process uses, and that a sweep recognises.

    Raises:
        RichSemError: a pipe or a device is at `path`, which the finished file would replace.
    """
    require_replaceable(path)
    return path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")


def is_temporary(name: str) -> bool:
    """Whether a file is called as `temporary_path` calls files."""
    return name.startswith(".") and name.endswith(".tmp")


def temporaries(folder: Place) -> list[Path]:
    """Files that processes are writing in a folder, or left when they were killed; none at a URL."""
    return sorted(folder.glob(".*.tmp")) if isinstance(folder, Path) and folder.is_dir() else []


def commit(temporary: Path, path: Path) -> None:
    """Make a finished, fsynced temporary file visible under its name, durably.

    Raises:
        RichSemError: a pipe or a device has that name by now.
    """
    require_replaceable(path)
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class HashedFile:
    """A file being written under a temporary name, its hash kept along."""

    closed = False

    def __init__(self, file: BinaryIO | IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._bytes = 0
        self.lines = 0
        self.discarded = False

    def write(self, data: bytes) -> int:
        """Append bytes, unless the file is discarded."""
        if self.discarded:
            return len(data)
        view = memoryview(data)
        self._digest.update(view)
        self._bytes += view.nbytes
        self._file.write(view)
        return view.nbytes

    def write_line(self, value: dict) -> None:
        """Append one line of JSON."""
        self.write(canonical_json(value) + b"\n")
        self.lines += 1

    def tell(self) -> int:
        """Bytes written so far."""
        return self._bytes

    def flush(self) -> None:
        """Hand what is buffered to the system."""
        self._file.flush()

    def discard(self) -> None:
        """Leave no file behind."""
        self.discarded = True

    def hash(self) -> FileHash:
        """Size and SHA-256 of what was written."""
        return FileHash(bytes=self._bytes, sha256=self._digest.hexdigest())


@contextmanager
def hashed_file(path: Place, *, needed: int | None = None) -> Iterator[HashedFile]:
    """Write a file that becomes visible, fsynced, when the block ends well, and leaves nothing when it doesn't.

    Args:
        path: its place; at a URL it is written to a local temporary file first, and uploaded when it is whole.
        needed: its bytes, if they are known, to be told where the disk is full.
    """
    if isinstance(path, RemotePath):
        with NamedTemporaryFile(prefix="richsem-", suffix=f"-{path.name}") as spool:
            hashed = HashedFile(spool)
            yield hashed
            spool.flush()
            if not hashed.discarded:
                path.upload(Path(spool.name))
        return
    with full_disk_named(path, needed=needed):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_path(path)
        try:
            with temporary.open("wb") as file:
                hashed = HashedFile(file)
                yield hashed
                file.flush()
                os.fsync(file.fileno())
            if not hashed.discarded:
                commit(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
