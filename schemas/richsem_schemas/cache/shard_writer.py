"""A shard on its way to disk: a WebDataset tar with deterministic bytes, then its index; its receipt comes last."""

from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from richsem_schemas.cache.index import VIEW_ROW, Rows, index_bytes
from richsem_schemas.cache.manifest import ShardSummary
from richsem_schemas.cache.shard import LabelShard, PictureShard
from richsem_schemas.io.files import hash_bytes, hashed_file, write_atomically

_HEADER = 512
"""Bytes of a tar header; our names are short and ASCII, so a member never needs more than one."""


class ShardWriter:
    """Writes the tar of a shard sample by sample, then its index; neither is visible before it is whole.

    A block that ends without `finish` leaves nothing behind, and what was there stays:

        with ShardWriter(shard) as writer:
            offsets = writer.add(key, members)
            ...
            summary = writer.finish(rows, samples=...)
        receipt_with(summary).write(shard.receipt)
    """

    def __init__(self, shard: PictureShard | LabelShard) -> None:
        # Here alone, since it loads torch where that is installed.
        from webdataset import TarWriter  # noqa: PLC0415

        self._shard = shard
        self._stack = ExitStack()
        self._file = self._stack.enter_context(hashed_file(shard.tar))
        # User, group, mode and time are the same on all machines, and so are the bytes.
        self._tar = TarWriter(self._file, encoder=False, user="richsem", group="richsem", mode=0o444, mtime=0)
        self._stack.callback(self._tar.close)
        self._position = 0
        self._is_finished = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._is_finished:
            self._file.discard()
            self._stack.__exit__(kind, error, traceback)

    def add(self, key: str, members: Mapping[str, bytes]) -> dict[str, int]:
        """Append one sample.

        Args:
            key: `__key__`, without dots.
            members: content by extension; they are written in the order of their extensions.

        Returns:
            Offset of each member's data, in bytes.

        Raises:
            ValueError: a content is no bytes.
        """
        self._tar.write({"__key__": key, **members})
        # `tarfile` remembers all members, which nobody asks for, and the garbage collector goes through them.
        self._tar.tarstream.members.clear()
        offsets = {}
        for extension in sorted(members):
            offsets[extension] = self._position + _HEADER
            size = len(members[extension])
            self._position += _HEADER + size + -size % _HEADER
        return offsets

    def finish(self, rows: Rows, *, samples: int, quarantined: int = 0) -> ShardSummary:
        """Make the tar visible, then its index; counts and hashes, for the receipt."""
        self._is_finished = True
        self._stack.close()
        index = index_bytes(rows)
        write_atomically(self._shard.index, index)
        is_of_views = rows.dtype == VIEW_ROW
        return ShardSummary(
            shard=self._shard.number,
            samples=samples,
            views=len(rows) if is_of_views else 0,
            regions=int(rows["regions"].sum()) if is_of_views else 0,
            quarantined=quarantined,
            tar=self._file.hash(),
            index=hash_bytes(index),
        )
