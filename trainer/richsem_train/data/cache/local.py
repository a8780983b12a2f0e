"""Caches at URLs, read through a bounded folder on the local disk that all processes of this machine share.

What was read once is kept as it was asked for: indexes and label shards whole, pictures by block or one by one. The
least recently used goes first. Whoever dies, and whenever, leaves at worst a temporary file, which a later clearing
removes; what doesn't match its checksum is fetched again. What turns out not to be what the cache was written with is
forgotten, so that a shard that is restored at its URL is read from there.
"""

import fcntl
import hashlib
import io
import os
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from richsem_schemas.io.places import Place, RemotePath

ATTEMPTS = 3
"""Times that something is asked of a network before it counts as failed; clients have retries of their own as well."""

KEPT_SHARE = 0.875
"""Of the bound, left by a clearing, so that not each new file needs one."""

WHOLE = "whole"
"""The part of a file that is all of it."""

_FIRST_PAUSE_SECONDS = 1.0
_ABANDONED_SECONDS = 600.0
_CHECKSUM_BYTES = 4
_USAGE_BYTES = 8


def default_folder() -> Path:
    """The folder for parts of files at URLs, among the user's other caches."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "richsem" / "remote"


def forget(*places: Place) -> None:
    """Drop what is kept of files that turned out to be damaged; those that are not read through a store stay."""
    for place in places:
        if isinstance(place, KeptPath):
            place.store.forget(place.key)


def with_store(place: Place, store: "Store", *, version: str) -> Place:
    """The same folder, what is read of it kept in a store; a local one stays as it is.

    What is kept of another version of the files is not taken for theirs.
    """
    if not isinstance(place, RemotePath):
        return place
    return KeptPath(place.url, place.typed_length, store=store, version=version)


@dataclass(frozen=True)
class Store:
    """Parts of files in a folder, by the file's key and the part's, up to a number of bytes; processes may share it.

    Attributes:
        folder: made when it is needed.
        limit: most bytes of all files together, but for what is being written while others are cleared.
    """

    folder: Path
    limit: int

    def get(self, key: str, part: str = WHOLE) -> bytes | None:
        """The part that is kept under a key; None where there is none, or not as it was put there."""
        path = self._path(key, part)
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        content, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
        return content if checksum == _checksum(content) else None

    def get_range(self, key: str, offset: int, size: int) -> bytes | None:
        """Bytes of a file that is kept whole, not compared with its checksum; None where it isn't there."""
        path = self._path(key, WHOLE)
        try:
            with path.open("rb") as file:
                content_bytes = os.fstat(file.fileno()).st_size - _CHECKSUM_BYTES
                data = os.pread(file.fileno(), max(min(size, content_bytes - offset), 0), offset)
            os.utime(path)
        except OSError:
            return None
        return data

    def put(self, key: str, content: bytes, part: str = WHOLE) -> None:
        """Keep something, whole or not at all; a disk that is full or fails keeps nothing."""
        size = len(content) + _CHECKSUM_BYTES
        path = self._path(key, part)
        temporary = path.with_name(f"{path.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            if not self._make_room(size):
                return
            try:
                with temporary.open("wb") as file:
                    file.write(content)
                    file.write(_checksum(content))
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)

    def forget(self, key: str) -> None:
        """Drop all parts of a file; their bytes are counted until the next clearing."""
        whole = self._path(key, WHOLE)
        for path in whole.parent.glob(f"{whole.name.partition('-')[0]}-*"):
            with suppress(OSError):
                path.unlink()

    def _path(self, key: str, part: str) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        return self.folder / name[:2] / f"{name}-{part}"

    def _make_room(self, size: int) -> bool:
        """Count bytes that are about to be written, and clear where they would be too many."""
        if size > self.limit * KEPT_SHARE:
            return False
        with self._usage() as descriptor:
            # Bytes are counted before they are written: whoever dies in between has counted too many, until a clearing.
            used = int.from_bytes(os.pread(descriptor, _USAGE_BYTES, 0), "little") + size
            if used > self.limit:
                used = self._clear(int(self.limit * KEPT_SHARE) - size) + size
            os.pwrite(descriptor, used.to_bytes(_USAGE_BYTES, "little"), 0)
        return True

    @contextmanager
    def _usage(self) -> Iterator[int]:
        """The file that counts the bytes, held by one process at a time."""
        descriptor = os.open(self.folder / "usage", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)

    def _clear(self, keep: int) -> int:
        """Remove the least recently used until at most `keep` bytes are left; returns how many are."""
        files = []
        for path in self.folder.glob("??/*"):
            with suppress(OSError):
                status = path.stat()
                files.append((status.st_mtime_ns, status.st_size, path))
        used = sum(size for _, size, _ in files)
        fresh = time.time_ns() - int(_ABANDONED_SECONDS * 1e9)
        for modified, size, path in sorted(files):
            is_written_now = path.suffix == ".tmp" and modified > fresh
            if used <= keep and path.suffix != ".tmp":
                continue
            if not is_written_now:
                path.unlink(missing_ok=True)
                used -= size
        return used


@dataclass(frozen=True, order=True)
class KeptPath(RemotePath):
    """A file at a URL, of which what is read is kept.

    Attributes:
        store: where.
        version: of the cache that it belongs to.
    """

    store: Store = field(kw_only=True, compare=False, repr=False)
    version: str = field(kw_only=True, compare=False, repr=False)

    def read_bytes(self) -> bytes:
        """The whole file."""
        content = self.store.get(self.key)
        if content is None:
            content = _with_retries(super().read_bytes)
            self.store.put(self.key, content)
        return content

    def read_range(self, offset: int, size: int) -> bytes:
        """Bytes from the middle; fewer only where the file ends."""
        if size <= 0:
            return b""
        content = self.store.get_range(self.key, offset, size)
        if content is not None:
            return content
        part = f"{offset}+{size}"
        content = self.store.get(self.key, part)
        if content is None:
            fetch = super().read_range
            content = _with_retries(lambda: fetch(offset, size))
            self.store.put(self.key, content, part)
        return content

    @contextmanager
    def open(self) -> "Iterator[io.BytesIO]":  # type: ignore[override]
        """The whole file for reading."""
        yield io.BytesIO(self.read_bytes())

    @property
    def key(self) -> str:
        """Names the file in the store."""
        return f"{self.version} {self.url}"


def _with_retries(fetch: Callable[[], bytes]) -> bytes:
    """Fetch, and again where the network fails; what isn't there or isn't allowed is not asked for again."""
    for attempt in range(ATTEMPTS):
        try:
            return fetch()
        except (FileNotFoundError, PermissionError):
            raise
        except OSError:
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(_FIRST_PAUSE_SECONDS * 4**attempt)
    raise AssertionError("the last attempt returns or raises")


def _checksum(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(_CHECKSUM_BYTES, "little")
