"""Shards on their way to disk: WebDataset tars with deterministic bytes, their indexes, and the receipt last."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pyarrow as pa
from webdataset import TarWriter

from richsem_prep.plan import HashedFile, hashed_file
from richsem_schemas.index import index_bytes
from richsem_schemas.manifest import FileHash
from richsem_schemas.places import Place
from richsem_schemas.sealed_json import write_atomically
from richsem_schemas.text_bank import hash_bytes

_HEADER = 512
"""Bytes of a tar header; our names are short and ASCII, so a member never needs more than one."""


class ShardTar:
    """A tar being written, sample by sample."""

    def __init__(self, file: HashedFile) -> None:
        self._file = file
        self._tar = TarWriter(file, user="richsem", group="richsem", mtime=0, encoder=False)
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
            offsets[extension] = self._position + _HEADER
            self._position += _HEADER + -(-len(members[extension]) // _HEADER) * _HEADER
        self._tar.write({"__key__": key, **members})
        return offsets

    def close(self) -> None:
        """Write the end-of-archive marker."""
        self._tar.close()


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
    data = index_bytes(rows, schema)
    write_atomically(path, data)
    return hash_bytes(data)
