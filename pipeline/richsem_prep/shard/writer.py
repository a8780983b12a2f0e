"""Shards on their way to disk: WebDataset tars with deterministic bytes, their indexes, and the receipt last."""

import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import pyarrow as pa

from richsem_schemas.cache.index import PICTURE_COLUMNS, PICTURE_ROW, VIEW_ROW, index_bytes
from richsem_schemas.io.files import FileHash, HashedFile, hash_bytes, hashed_file, write_atomically
from richsem_schemas.io.places import Place

_HEADER = 512
"""Bytes of a tar header; our names are short and ASCII, so a member never needs more than one."""


class ShardTar:
    """A tar being written, sample by sample; the standard library's headers, since webdataset's writer needs torch."""

    def __init__(self, file: HashedFile) -> None:
        self._file = file
        self._position = 0

    def add(self, key: str, members: Mapping[str, bytes]) -> dict[str, int]:
        """Append one sample.

        Args:
            key: `__key__`, without dots.
            members: content by extension; they are written in the order of their extensions.

        Returns:
            Offset of each member's data, in bytes.
        """
        offsets = {}
        for extension in sorted(members):
            data = members[extension]
            offsets[extension] = self._position + _HEADER
            self._append(_header(f"{key}.{extension}", len(data)) + data + bytes(-len(data) % _HEADER))
        return offsets

    def close(self) -> None:
        """Write the end-of-archive marker: two empty headers, and zeros to a whole record."""
        self._append(bytes(2 * _HEADER))
        self._append(bytes(-self._position % tarfile.RECORDSIZE))

    def _append(self, data: bytes) -> None:
        self._file.write(data)
        self._position += len(data)


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o444, 0
    info.uname = info.gname = "richsem"
    return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


@contextmanager
def open_tar(path: Place) -> Iterator[tuple[ShardTar, HashedFile]]:
    """A tar that becomes visible when the block ends well, and leaves nothing when it doesn't."""
    with hashed_file(path) as file:
        tar = ShardTar(file)
        try:
            yield tar, file
        except BaseException:
            file.discard()
            raise
        finally:
            tar.close()


def write_index(path: Place, rows: list[tuple], schema: pa.Schema) -> FileHash:
    """Write a shard's index."""
    data = index_bytes(np.array(rows, PICTURE_ROW if schema == PICTURE_COLUMNS else VIEW_ROW))
    write_atomically(path, data)
    return hash_bytes(data)
