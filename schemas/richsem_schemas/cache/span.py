"""A part of a file in memory, read at once."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.errors import CorruptCacheError
from richsem_schemas.io.files import open_regular, read_at, size_of
from richsem_schemas.io.places import Place, RemotePath


@dataclass(frozen=True, eq=False)
class Span:
    """A part of a shard in memory.

    Attributes:
        start: offset of the first byte.
    """

    path: Place
    start: int
    data: bytes

    def read(self, offset: int, size: int) -> bytes:
        """Bytes of the shard, by their offset in it.

        Raises:
            CorruptCacheError: they lie outside of the span.
        """
        first = offset - self.start
        if not 0 <= first <= first + size <= len(self.data):
            raise CorruptCacheError(f"{self.path}: bytes {offset}..{offset + size} lie outside of their block")
        return self.data[first : first + size]


def read_span(path: Place, offset: int, size: int) -> bytes:
    """Read bytes from the middle of a file; at a URL, by one request.

    Raises:
        CorruptCacheError: the file ends before, or is none.
    """
    if isinstance(path, RemotePath):
        data = path.read_range(offset, size)
    else:
        with open_regular(path) as file:
            # Reading first makes room for what is asked for, and a damaged index may ask for an exabyte.
            is_there = 0 <= offset <= offset + size <= size_of(file.fileno())
            data = read_at(file.fileno(), offset, size) if is_there else b""
    if len(data) != size or offset < 0:
        raise CorruptCacheError(
            f"{path}: cut short; bytes {offset}..{offset + size} are not all there; "
            "`richsem-prep verify` says how to mend it"
        )
    return data


def read_hull(path: Place, offsets: NDArray[np.int64], sizes: NDArray[np.int64], *, limit: int) -> Span:
    """Read the smallest part of a file that covers some members, in one read of at most `limit` bytes.

    Raises:
        CorruptCacheError: bytes are missing, or their number is implausible.
    """
    start, end = (int(offsets.min()), int((offsets + sizes).max())) if len(offsets) else (0, 0)
    if not 0 <= start <= end <= start + limit or (sizes < 0).any():
        raise CorruptCacheError(f"{path}: its index claims bytes {start}..{end} for one block; make the shard anew")
    return Span(path, start, read_span(path, start, end - start))
