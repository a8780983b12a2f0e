"""The members of a shard's tar against its index: many at a time where it is as we write tars, else one by one."""

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from richsem_prep.verify.files import HashingReader
from richsem_schemas.errors import CorruptCacheError
from richsem_schemas.pictures.decode import MAX_PICTURE_BYTES

CHUNK_BYTES = 2 * 2**20
"""Read and checked at a time: enough that a call of NumPy costs little a byte, little enough for many threads."""

_BLOCK = 512
_NAME, _SIZE, _CHECKSUM, _PREFIX = slice(0, 100), slice(124, 135), slice(148, 156), slice(345, 500)
_SIZE_END, _TYPE = 135, 156
"""Where a header's fields lie: POSIX.1-1988 (ustar)."""

_OCTAL_DIGITS = 8 ** np.arange(10, -1, -1, dtype=np.int64)


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
    """Consecutive members of a tar, from number `first` on."""

    first: int
    contents: Sequence[memoryview]


def tar_chunks(reader: HashingReader, members: Members, *, file_bytes: int) -> Iterator[Chunk]:
    """The members of a tar of plain files, up to its end.

    As long as it is as we write tars, plain files one after the other, headers are compared with the index without
    parsing them one by one.

    Raises:
        CorruptCacheError: it is another kind of tar, breaks off, or is not the one that the index describes.
    """
    first = 0
    starts, ends = _spans(members, file_bytes)
    while first < len(ends):
        last = _end_of_chunk(starts, ends, first, members.together)
        data = reader.read(int(ends[last - 1] - starts[first]))
        sizes = members.sizes[first:last]
        if len(data) < ends[last - 1] - starts[first] or not _are_plain(
            _headers(data, starts[first:last] - starts[first]), members.names[first:last], sizes
        ):
            reader.unread(data)
            break
        offsets = members.offsets[first:last] - starts[first]
        whole = memoryview(data)
        yield Chunk(first, [whole[at : at + size] for at, size in zip(offsets.tolist(), sizes.tolist(), strict=True)])
        first = last
    yield from _parsed_chunks(reader, members, first, file_bytes)


def _spans(members: Members, file_bytes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """[M] where each member's header begins and its padding ends; none where they don't lie as we write them."""
    none = np.zeros(0, np.int64)
    if ((members.sizes < 0) | (members.sizes > min(MAX_PICTURE_BYTES, file_bytes))).any():
        return none, none
    ends = np.cumsum(_BLOCK + -(-members.sizes // _BLOCK) * _BLOCK)
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])[: len(members)]
    if not np.array_equal(starts + _BLOCK, members.offsets) or (ends > file_bytes).any():
        return none, none
    return starts, ends


def _end_of_chunk(starts: NDArray[np.int64], ends: NDArray[np.int64], first: int, together: int) -> int:
    fitting = int(np.searchsorted(ends, starts[first] + CHUNK_BYTES, side="right")) - first
    return min(first + max(fitting // together, 1) * together, len(ends))


def _headers(data: bytes, offsets_M: NDArray[np.int64]) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8).reshape(-1, _BLOCK)[offsets_M // _BLOCK]


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
        and (headers_M512[:, _TYPE] == ord("0")).all()
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


def _parsed_chunks(reader: HashingReader, members: Members, first: int, file_bytes: int) -> Iterator[Chunk]:
    """The members from `first` on, each header parsed, up to the end of the archive."""
    found = _parsed_members(reader, file_bytes)
    waiting: list[memoryview] = []
    waiting_bytes = 0
    for number in range(first, len(members)):
        waiting.append(_next_content(found, members, number))
        waiting_bytes += len(waiting[-1])
        if (number + 1) % members.together == 0 and waiting_bytes >= CHUNK_BYTES:
            yield Chunk(first, waiting)
            first, waiting, waiting_bytes = number + 1, [], 0
    if waiting:
        yield Chunk(first, waiting)
    if (more := next(found, None)) is not None:
        raise CorruptCacheError(f"it goes on with {shown(more[0])}, which the index has not")


def _next_content(found: Iterator[tuple[str, int, memoryview]], members: Members, number: int) -> memoryview:
    name, offset, size = members.names[number], int(members.offsets[number]), int(members.sizes[number])
    member = next(found, None)
    if member is None:
        raise CorruptCacheError(f"it ends before {name}, which the index has")
    found_name, found_offset, content = member
    if (found_name, found_offset, len(content)) != (name, offset, size):
        raise CorruptCacheError(
            f"{shown(found_name)} ({len(content):,} bytes at {found_offset:,}) stands where the index has "
            f"{name} ({size:,} bytes at {offset:,})"
        )
    return content


def _parsed_members(reader: HashingReader, file_bytes: int) -> Iterator[tuple[str, int, memoryview]]:
    """Name, offset of the data, and content of each member; offsets count from the start of the tar."""
    while any(header := reader.read(_BLOCK)) or len(header) < _BLOCK:
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
        yield info.name, offset, content
    while rest := reader.read(CHUNK_BYTES):
        if rest.count(0) != len(rest):
            raise CorruptCacheError("something stands behind the end of the archive")


def shown(name: str) -> str:
    """An untrusted name for a message: short and quoted."""
    return repr(name[:100])
