"""Where a picture's bytes lie outside of the cache, and the one way they are read."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from richsem_schemas.errors import IrregularFileError, PictureError, SourceError
from richsem_schemas.io.files import OpenFile, open_regular, read_at, size_of
from richsem_schemas.io.places import Place, RemotePath
from richsem_schemas.io.words import printable
from richsem_schemas.pictures.decode import MAX_PICTURE_BYTES, gunzip_picture

WHOLE_FILE = -1
"""The `offset` of a picture that is a file of its own."""


@dataclass(frozen=True, slots=True)
class Original:
    """Where one picture's bytes lie.

    Attributes:
        file: the path of the file (or of the tar) relative to ROOT, as the file system's bytes; what is opened.
        offset: of the member's data in the tar, in bytes; `WHOLE_FILE` where the file is the picture.
        size: bytes when it was listed.
    """

    file: bytes
    offset: int
    size: int

    def to_json(self) -> dict[str, Any]:
        """For KEY.json; bytes that are no UTF-8 become lone surrogates, which JSON escapes."""
        return {"file": os.fsdecode(self.file), "offset": self.offset, "size": self.size}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read `to_json` back.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        file, offset, size = value["file"], value["offset"], value["size"]
        if not isinstance(file, str) or type(offset) is not int or type(size) is not int:
            raise TypeError("not a name and two whole numbers")
        if offset < WHOLE_FILE or size < 0:
            raise ValueError(f"offset {offset} and size {size}")
        return cls(os.fsencode(file), offset, size)


def read_original(root: Place, original: Original) -> bytes:
    """Read one picture's bytes, gzip-compressed ones inflated.

    Symlinks below `root` are followed wherever they point (people link their datasets), but only regular files are
    read. An `OSError` is let through: a disk that fails is no broken picture.

    Raises:
        PictureError: truncated, larger than `MAX_PICTURE_BYTES`, damaged gzip data, or not a regular file.
        SourceError: the file lies outside of `root`.
    """
    if isinstance(root, RemotePath):
        data = _read_remote(root, original)
    else:
        with open_below(root, original.file) as file:
            if original.offset == WHOLE_FILE:
                data = _read_whole(file)
            else:
                data = _read_range(file, original.offset, original.size)
    return gunzip_picture(data)


@contextmanager
def open_below(root: Place, file: bytes) -> Iterator[OpenFile]:
    """Open a regular file below a root, as `read_original` does.

    Raises:
        PictureError: not a regular file.
        SourceError: it lies outside of `root`.
    """
    _check_below(root, file)
    if isinstance(root, RemotePath):
        with (root / os.fsdecode(file)).open() as remote:
            yield remote
    else:
        try:
            local = open_regular(os.path.join(os.fsencode(root), file))
        except IrregularFileError:
            raise PictureError("not a regular file; only those are read") from None
        with local:
            yield local.fileno()


def _check_below(root: Place, file: bytes) -> None:
    if not file or file.startswith(b"/") or b"\0" in file or b".." in file.split(b"/"):
        raise SourceError(
            f"{printable(file)!r} is no path below {root}; entries are relative and without `..`: list the source anew"
        )


def _read_remote(root: RemotePath, original: Original) -> bytes:
    _check_below(root, original.file)
    path = root / os.fsdecode(original.file)
    if original.offset == WHOLE_FILE:
        data = path.read_range(0, MAX_PICTURE_BYTES + 1)
        _check_bytes(len(data))
        return data
    _check_bytes(original.size)
    return _require_all(path.read_range(original.offset, original.size), original.size)


def _read_whole(descriptor: OpenFile) -> bytes:
    # The file's size now, not when it was listed: it may have been replaced by a repaired copy.
    size = size_of(descriptor)
    _check_bytes(size)
    return read_at(descriptor, 0, size)


def _read_range(descriptor: OpenFile, offset: int, size: int) -> bytes:
    _check_bytes(size)
    return _require_all(read_at(descriptor, offset, size), size)


def _require_all(data: bytes, size: int) -> bytes:
    if len(data) < size:
        raise PictureError(f"truncated: {len(data):,} of {size:,} bytes are in the archive")
    return data


def _check_bytes(size: int) -> None:
    if size > MAX_PICTURE_BYTES:
        raise PictureError(f"{size:,} bytes; a picture may have at most {MAX_PICTURE_BYTES:,}")
