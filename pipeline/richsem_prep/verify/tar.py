"""The members of a shard's tar against its index: many at a time where it is as we write tars, else one by one."""

import hashlib
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.errors import CorruptCacheError
from richsem_schemas.io.files import FileHash
from richsem_schemas.io.places import RemoteFile
from richsem_schemas.pictures.decode import MAX_PICTURE_BYTES

CHUNK_BYTES = 4 * 2**20
"""Read and checked at a time: enough that a call of NumPy costs little a byte, little enough for many threads."""

_BLOCK = 512
_NAME, _SIZE, _CHECKSUM, _PREFIX = slice(0, 100), slice(124, 135), slice(148, 156), slice(345, 500)
_SIZE_END, _TYPE = 135, 156
"""Where a header's fields lie: POSIX.1-1988 (ustar)."""

_OCTAL_DIGITS = 8 ** np.arange(10, -1, -1, dtype=np.int64)
_REGULAR = ord("0")


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
        self.position = 0

    def read(self, size: int) -> bytes:
        """The next bytes; fewer only where the file ends."""
        data = self._file.read(size)
        self._digest.update(data)
        self.position += len(data)
        self._uncounted += len(data)
        if self._uncounted >= CHUNK_BYTES or len(data) < size:
            self._done.add(self._uncounted)
            self._uncounted = 0
        return data

    def drain(self) -> None:
        """Read to the end."""
        while self.read(CHUNK_BYTES):
            pass

    def problem(self, expected: FileHash, *, said_by: str) -> str | None:
        """Compare with size and SHA-256, once all is read; None where they agree."""
        if (self.position, self._digest.hexdigest()) == (expected.bytes, expected.sha256):
            return None
        return (
            f"bytes have changed: its SHA-256 is {self._digest.hexdigest()[:12]}…, "
            f"{said_by} says {expected.sha256[:12]}…"
        )


@dataclass(frozen=True, eq=False)
class Members:
    """What an index says of a tar: M members, in order.

    Attributes:
        names: KEY.EXTENSION.
        offsets: [M] to the data, bytes.
        sizes: [M] bytes.
        together: so many consecutive members belong to one row of the index and come in one chunk.
    """

    names: Sequence[str]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    together: int = 1

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, eq=False)
class Chunk:
    """Consecutive members of a tar.

    Attributes:
        first: number of the first one.
        contents: the bytes of each.
    """

    first: int
    contents: Sequence[memoryview]


class UnusualTarError(Exception):
    """A tar that is not laid out as we write them; perhaps a good one all the same, which `walked_chunks` finds out."""


def plain_chunks(reader: HashingReader, members: Members, *, file_bytes: int) -> Iterator[Chunk]:
    """The members of a tar that is as we write them: plain files one after the other, then zeros to the end.

    Headers are compared with the index without parsing them one by one.

    Raises:
        UnusualTarError: it is not such a tar, or not the one that the index describes.
    """
    starts, ends = _spans(members, file_bytes)
    first = 0
    while first < len(members):
        last = _end_of_chunk(starts, ends, first, members.together)
        data = reader.read(int(ends[last - 1] - starts[first]))
        headers_at = (starts[first:last] - starts[first]) // _BLOCK
        blocks = np.frombuffer(data[: len(data) // _BLOCK * _BLOCK], np.uint8).reshape(-1, _BLOCK)
        if len(data) != ends[last - 1] - starts[first] or not _are_plain(
            blocks[headers_at], members.names[first:last], members.sizes[first:last]
        ):
            raise UnusualTarError
        whole = memoryview(data)
        offsets, sizes = members.offsets[first:last] - starts[first], members.sizes[first:last]
        yield Chunk(first, [whole[at : at + size] for at, size in zip(offsets.tolist(), sizes.tolist(), strict=True)])
        first = last
    end = reader.read(_BLOCK)
    if len(end) < _BLOCK or any(end) or _stands_behind(reader):
        raise UnusualTarError


def _spans(members: Members, file_bytes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """[M] where each member's header begins and its padding ends."""
    if ((members.sizes < 0) | (members.sizes > min(MAX_PICTURE_BYTES, file_bytes))).any():
        raise UnusualTarError
    ends = np.cumsum(_BLOCK + -(-members.sizes // _BLOCK) * _BLOCK)
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])[: len(members)]
    if not np.array_equal(starts + _BLOCK, members.offsets) or (len(ends) and ends[-1] > file_bytes):
        raise UnusualTarError
    return starts, ends


def _end_of_chunk(starts: NDArray[np.int64], ends: NDArray[np.int64], first: int, together: int) -> int:
    fitting = int(np.searchsorted(ends, starts[first] + CHUNK_BYTES, side="right")) - first
    return min(first + max(fitting // together, 1) * together, len(ends))


def _are_plain(headers_M512: NDArray[np.uint8], names: Sequence[str], sizes_M: NDArray[np.int64]) -> bool:
    """Whether headers are those of regular files of these names and sizes, checksums included."""
    try:
        expected_M = np.array([name.encode("ascii") for name in names], "S100")
    except UnicodeEncodeError:
        return False
    if max(map(len, names), default=0) > expected_M.itemsize:
        return False
    found_M = np.ascontiguousarray(headers_M512[:, _NAME]).view("S100")[:, 0]
    digits_M11 = headers_M512[:, _SIZE] - np.uint8(ord("0"))
    return bool(
        (found_M == expected_M).all()
        and (digits_M11 < 8).all()  # unsigned: what stands before "0" wraps around
        and (digits_M11.astype(np.int64) @ _OCTAL_DIGITS == sizes_M).all()
        and (headers_M512[:, _SIZE_END] == 0).all()
        and (headers_M512[:, _TYPE] == _REGULAR).all()
        and not headers_M512[:, _PREFIX].any()
        and _have_checksums(headers_M512)
    )


def _have_checksums(headers_M512: NDArray[np.uint8]) -> bool:
    """Whether each header's checksum, six octal digits and a NUL, is the sum of its bytes with the field as spaces."""
    field_M8 = headers_M512[:, _CHECKSUM]
    digits_M6 = field_M8[:, :6] - np.uint8(ord("0"))
    said_M = digits_M6.astype(np.int64) @ _OCTAL_DIGITS[-6:]
    sums_M = headers_M512.sum(axis=1, dtype=np.int64) - field_M8.sum(axis=1, dtype=np.int64) + 8 * ord(" ")
    return bool((digits_M6 < 8).all() and (field_M8[:, 6] == 0).all() and (said_M == sums_M).all())


def walked_chunks(reader: HashingReader, members: Members, *, file_bytes: int) -> Iterator[Chunk]:
    """The members of any tar of plain files, each header parsed.

    Raises:
        CorruptCacheError: it is another kind of tar, breaks off, or is not the one that the index describes.
    """
    walk = _walk(reader, file_bytes)
    first, waiting, waiting_bytes = 0, [], 0
    for number, (name, offset, size) in enumerate(
        zip(members.names, members.offsets.tolist(), members.sizes.tolist(), strict=True)
    ):
        found = next(walk, None)
        if found is None:
            raise CorruptCacheError(f"it ends before {name}, which the index has")
        if (found.name, found.offset, len(found.content)) != (name, offset, size):
            raise CorruptCacheError(
                f"{shown(found.name)} ({len(found.content):,} bytes at {found.offset:,}) stands where the index has "
                f"{name} ({size:,} bytes at {offset:,})"
            )
        waiting.append(found.content)
        waiting_bytes += size
        if (number + 1) % members.together == 0 and waiting_bytes >= CHUNK_BYTES:
            yield Chunk(first, waiting)
            first, waiting, waiting_bytes = number + 1, [], 0
    if waiting:
        yield Chunk(first, waiting)
    if (found := next(walk, None)) is not None:
        raise CorruptCacheError(f"it goes on with {shown(found.name)}, which the index has not")


@dataclass(frozen=True, slots=True)
class _Member:
    """A member as it stands in a tar; `offset` counts to its data."""

    name: str
    offset: int
    content: memoryview


def _walk(reader: HashingReader, file_bytes: int) -> Iterator[_Member]:
    while True:
        header = reader.read(_BLOCK)
        if len(header) == _BLOCK and not any(header):
            break
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except (tarfile.TarError, ValueError) as error:
            raise CorruptCacheError(f"no tar header at byte {reader.position - len(header):,} ({error})") from None
        offset = reader.position
        if info.type != tarfile.REGTYPE:
            raise CorruptCacheError(f"{shown(info.name)} is no plain file")
        if not 0 <= info.size <= min(MAX_PICTURE_BYTES, file_bytes - offset):
            raise CorruptCacheError(f"{shown(info.name)} claims {info.size:,} bytes, more than there are")
        content = memoryview(reader.read(info.size))
        reader.read(-info.size % _BLOCK)
        yield _Member(info.name, offset, content)
    if _stands_behind(reader):
        raise CorruptCacheError("something stands behind the end of the archive")


def _stands_behind(reader: HashingReader) -> bool:
    """Whether anything but zeros is left to read."""
    while rest := reader.read(CHUNK_BYTES):
        if rest.count(0) != len(rest):
            return True
    return False


def shown(name: str) -> str:
    """An untrusted name for a message: short and quoted."""
    return repr(name[:100])
