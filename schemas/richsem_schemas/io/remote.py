"""A file or a folder at a URL, by fsspec, with those of a path's methods that every file system can keep.

A file is written whole, by one call, and whatever goes wrong is an `OSError` that names the file.
"""

import errno
import os
import posixpath
import stat as stat_modes
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Self

from richsem_schemas.io.words import one_line

READ_AHEAD_BYTES = 4 * 2**20
"""Bytes a request, where a file is read from start to end."""

_ERRNO = {PermissionError: errno.EACCES, TimeoutError: errno.ETIMEDOUT}
_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "memory"})


@dataclass(frozen=True)
class RemoteStatus:
    """Size and kind of a remote file or folder, named as in `os.stat_result`."""

    st_size: int
    st_mode: int


@dataclass(frozen=True, order=True)
class RemotePath:
    """A file or a folder at a URL; travels to other processes as its text.

    Folders need not be made, and there are none without files in object stores. Listings are never remembered: other
    processes write, too.

    Attributes:
        url: as fsspec takes it, without a slash at its end.
        typed_length: how many of its letters the user typed; what follows are names of files, which may hold anything.
    """

    url: str
    typed_length: int = field(default=-1, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.url.endswith("://"):
            object.__setattr__(self, "url", self.url.rstrip("/"))
        if not 0 <= self.typed_length <= len(self.url):
            object.__setattr__(self, "typed_length", len(self.url))

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str | os.PathLike[str]) -> Self:
        separator = "" if self.url.endswith("/") else "/"
        return replace(self, url=f"{self.url}{separator}{os.fspath(name)}")

    @property
    def name(self) -> str:
        """The last part."""
        return posixpath.basename(self.url)

    @property
    def stem(self) -> str:
        """The last part without its extension."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The extension, dot included."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> Self:
        """The folder; that of a bucket is the bucket."""
        folder = self.url.rpartition("/")[0]
        return self if folder.endswith(":/") else replace(self, url=folder)

    def absolute(self) -> "RemotePath":
        """Itself: a URL is absolute."""
        return self

    def resolve(self) -> "RemotePath":
        """Itself: there are no links to follow."""
        return self

    def stat(self) -> RemoteStatus:
        """Size and kind.

        Raises:
            FileNotFoundError: there is nothing.
            OSError: it couldn't be asked.
        """
        with self._file_system() as (files, path):
            return _status(files.info(path))

    def exists(self) -> bool:
        """Whether there is a file or a folder; a network that fails is no answer.

        Raises:
            OSError: it couldn't be asked.
        """
        return self._kind() is not None

    def is_file(self) -> bool:
        """Whether there is a file, as `exists`."""
        return self._kind() == stat_modes.S_IFREG

    def is_dir(self) -> bool:
        """Whether there is a folder, as `exists`."""
        return self._kind() == stat_modes.S_IFDIR

    def _kind(self) -> int | None:
        try:
            return self.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read_bytes(self) -> bytes:
        """The whole file."""
        with self._file_system() as (files, path):
            return bytes(files.cat_file(path))

    def read_range(self, offset: int, size: int) -> bytes:
        """Bytes from the middle, by one request; fewer only where the file ends."""
        if size <= 0:
            return b""
        try:
            with self._file_system() as (files, path):
                return bytes(files.cat_file(path, start=offset, end=offset + size))
        except OSError as error:
            # How servers say that a range lies behind the end.
            if error.errno == errno.EINVAL:
                return b""
            raise

    @contextmanager
    def open(self) -> Iterator["RemoteFile"]:
        """The file for reading, some megabytes a request."""
        with self._file_system() as (files, path):
            file = files.open(path, "rb", block_size=READ_AHEAD_BYTES)
        try:
            yield RemoteFile(self.url, file)
        finally:
            file.close()

    def copy_to(self, write: Callable[[bytes], object]) -> None:
        """Hand the whole file to `write`, some megabytes at a time."""
        with self.open() as source:
            while data := source.read(READ_AHEAD_BYTES):
                write(data)

    def write_bytes(self, data: bytes) -> None:
        """Write the file by one call; in object stores it is there at once and whole, or not at all."""
        with self._file_system() as (files, path):
            _make_folder(files, path)
            files.pipe_file(path, data)

    def upload(self, local: Path) -> None:
        """Write the file from a local one; in object stores it is there at once and whole, or not at all."""
        with self._file_system() as (files, path):
            _make_folder(files, path)
            if "memory" in _protocols(files):
                # Its own upload shows the file while it grows.
                files.pipe_file(path, local.read_bytes())
            else:
                files.put_file(str(local), path)

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the file."""
        try:
            with self._file_system() as (files, path):
                files.rm_file(path)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def scan(self) -> list[tuple[Self, RemoteStatus]]:
        """The files and folders in the folder, sorted by name, with size and kind."""
        with self._file_system() as (files, path):
            # Some stores list a folder in itself.
            found = {info["name"].rstrip("/"): info for info in files.ls(path, detail=True)}
        found.pop(path.rstrip("/"), None)
        return [(self / posixpath.basename(name), _status(found[name])) for name in sorted(found)]

    def iterdir(self) -> Iterator[Self]:
        """The files and folders in the folder, sorted by name."""
        return (path for path, _ in self.scan())

    def sizes_below(self) -> dict[str, int]:
        """Bytes of every file below the folder, by its name relative to it; nothing where there is no folder."""
        try:
            with self._file_system() as (files, path):
                found = files.find(path, detail=True)
        except FileNotFoundError:
            return {}
        prefix = path.rstrip("/") + "/"
        below = {name.removeprefix(prefix): info for name, info in found.items() if name.startswith(prefix)}
        return {name: int(info["size"] or 0) for name, info in sorted(below.items()) if name and name[-1] != "/"}

    @contextmanager
    def _file_system(self) -> Iterator[tuple[Any, str]]:
        """The file system and the path in it; what goes wrong there becomes an `OSError` that names the file."""
        with _os_errors_of(self.url):
            import fsspec  # noqa: PLC0415 - with asyncio and ssl it takes a while, and most places are local

            # fsspec keeps its file systems, apart for each process, and for threads where they can't be shared.
            files, top = fsspec.core.url_to_fs(self.url[: self.typed_length], use_listings_cache=False)
            names = self.url[self.typed_length :]
            yield files, top.rstrip("/") + names if names else top


class RemoteFile:
    """A remote file open for reading."""

    def __init__(self, url: str, file: Any) -> None:
        self._url = url
        self._file = file
        # Files of file systems that keep copies here don't know their size.
        with _os_errors_of(url):
            self.size = int(file.seek(0, os.SEEK_END))
            file.seek(0)

    def read(self, size: int) -> bytes:
        """The next bytes; fewer only where the file ends."""
        with _os_errors_of(self._url):
            return bytes(self._file.read(size))

    def read_at(self, offset: int, size: int) -> bytes:
        """Bytes from anywhere; fewer only where the file ends."""
        with _os_errors_of(self._url):
            self._file.seek(offset)
            return bytes(self._file.read(size))


@contextmanager
def _os_errors_of(url: str) -> Iterator[None]:
    """Turn whatever a file system raises into an `OSError` that names the file."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(errno.ENOENT, "No such file", url) from None
    except OSError as error:
        if error.filename == url:
            raise
        number = next((code for kind, code in _ERRNO.items() if isinstance(error, kind)), error.errno or errno.EIO)
        raise OSError(number, one_line(error.strerror or error), url) from error
    except Exception as error:
        # Clients of object stores have exceptions of their own for networks that fail.
        raise OSError(errno.EIO, f"{type(error).__name__}: {one_line(error)}", url) from error


def _status(info: Mapping[str, Any]) -> RemoteStatus:
    kinds = {"file": stat_modes.S_IFREG, "directory": stat_modes.S_IFDIR}
    return RemoteStatus(int(info.get("size") or 0), kinds.get(info["type"], 0))


def _make_folder(files: Any, path: str) -> None:
    """Object stores have no folders; making one there would make a bucket."""
    if not _protocols(files) & _OBJECT_STORES:
        files.makedirs(posixpath.dirname(path), exist_ok=True)


def _protocols(files: Any) -> set[str]:
    return {files.protocol} if isinstance(files.protocol, str) else set(files.protocol)
