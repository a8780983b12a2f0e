"""Where caches and datasets lie: in a folder, or at a URL that fsspec knows.

A local place is a plain `pathlib.Path`. A remote one is a `RemotePath`, which has those of a path's methods that every
file system can keep: a file is written whole, by one call, and whatever goes wrong is an `OSError` that names the file.
"""

import errno
import os
import posixpath
import re
import stat as stat_modes
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Self, TypeAlias, TypeVar
from urllib.parse import urlsplit

import fsspec
from pydantic import BeforeValidator, PlainSerializer

from richsem_schemas.errors import RichSemError, SourceError

READ_AHEAD_BYTES = 4 * 2**20
"""What one request fetches where a file is read from start to end."""

ROUND_TRIPS_AT_ONCE = 16
"""Requests under way at a time where many small files are looked at."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]*://")
_ERRNO = {PermissionError: errno.EACCES, TimeoutError: errno.ETIMEDOUT}
_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "memory"})
_LOCAL = ("file://", "local://")
_PACKAGES = {"s3": "richsem[s3]", "s3a": "richsem[s3]"}

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class RemoteStatus:
    """What there is to know of a remote file or folder, named as in `os.stat_result`."""

    st_size: int
    st_mode: int


@dataclass(frozen=True, order=True)
class RemotePath:
    """A file or a folder at a URL; travels to other processes as its text.

    Folders need not be made, and there are none without files in object stores. Listings are never remembered: other
    processes write, too.

    Attributes:
        url: as fsspec takes it, without a slash at its end.
        named: how many of its letters the user named; what follows are names of files, which may hold anything.
    """

    url: str
    named: int = field(default=-1, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.url.endswith("://"):
            object.__setattr__(self, "url", self.url.rstrip("/"))
        if not 0 <= self.named <= len(self.url):
            object.__setattr__(self, "named", len(self.url))

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
        """What lies in the folder, sorted by name."""
        with self._file_system() as (files, path):
            # Some stores list a folder in itself.
            found = {info["name"].rstrip("/"): info for info in files.ls(path, detail=True)}
        found.pop(path.rstrip("/"), None)
        return [(self / posixpath.basename(name), _status(found[name])) for name in sorted(found)]

    def iterdir(self) -> Iterator[Self]:
        """What lies in the folder, sorted by name."""
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
        with _naming(self.url):
            # fsspec keeps its file systems, apart for each process, and for threads where they can't be shared.
            files, top = fsspec.core.url_to_fs(self.url[: self.named], use_listings_cache=False)
            names = self.url[self.named :]
            yield files, top.rstrip("/") + names if names else top


class RemoteFile:
    """A remote file open for reading."""

    def __init__(self, url: str, file: Any) -> None:
        self._url = url
        self._file = file
        self.size = int(file.size)

    def read(self, size: int) -> bytes:
        """The next bytes; fewer only where the file ends."""
        with _naming(self._url):
            return bytes(self._file.read(size))

    def read_at(self, offset: int, size: int) -> bytes:
        """Bytes from anywhere; fewer only where the file ends."""
        with _naming(self._url):
            self._file.seek(offset)
            return bytes(self._file.read(size))


@contextmanager
def _naming(url: str) -> Iterator[None]:
    """Turn whatever a file system raises into an `OSError` that names the file."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(errno.ENOENT, "No such file", url) from None
    except OSError as error:
        if error.filename == url:
            raise
        number = next((code for kind, code in _ERRNO.items() if isinstance(error, kind)), error.errno or errno.EIO)
        raise OSError(number, _one_line(error.strerror or error), url) from error
    except Exception as error:
        # Clients of object stores have exceptions of their own for networks that fail.
        raise OSError(errno.EIO, f"{type(error).__name__}: {_one_line(error)}", url) from error


Place: TypeAlias = Path | RemotePath
"""A file or a folder, here or elsewhere."""


def open_place(text: "str | os.PathLike[str] | RemotePath") -> Place:
    """The place that a user names: a URL such as `s3://bucket/caches/lvis`, or a local path.

    Raises:
        RichSemError: the URL's protocol is unknown, its package is not installed, or it holds a password.
    """
    if isinstance(text, RemotePath):
        return text
    text = _without_nul(os.fspath(text))
    if not _URL.match(text):
        return Path(text)
    if text.startswith(_LOCAL):
        return Path(text.partition("://")[2])
    if urlsplit(text).password:
        hidden = text.replace(f":{urlsplit(text).password}@", ":…@")
        raise RichSemError(
            f"{hidden} holds a password, which would be written into the cache; give it by fsspec's configuration "
            "instead (docs/places.md)"
        )
    place = RemotePath(text)
    _require_protocol(place)
    return place


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise RichSemError(f"{text!r} holds a NUL character, which no path has; leave it out")
    return text


def _require_protocol(place: RemotePath) -> None:
    protocols = [part.partition("://")[0] for part in place.url.split("::")]
    for protocol in protocols:
        try:
            fsspec.get_filesystem_class(protocol)
        except ImportError as error:
            package = _PACKAGES.get(protocol)
            remedy = f"pip install '{package}'" if package else _one_line(error)
            raise RichSemError(f"{place}: the package for {protocol}:// is not installed; {remedy}") from None
        except ValueError:
            raise RichSemError(
                f"{place}: fsspec knows no protocol {protocol!r}; use a local path or a URL such as s3://BUCKET/FOLDER"
            ) from None


def require_local(place: Place, what: str) -> Path:
    """The path of something that is only read from this machine's file systems.

    Args:
        place: where it lies.
        what: for the error, such as "the demo".

    Raises:
        SourceError: it lies at a URL.
    """
    if isinstance(place, RemotePath):
        raise SourceError(f"{place}: {what} must lie in a local folder; copy or mount it, and name that")
    return place


def local_path(text: "str | os.PathLike[str]") -> Path:
    """The path that a user names where only this machine's file systems will do.

    Raises:
        RichSemError: it is a URL, which a plain path would take for folders of these names; or it is empty, as
            variables of a shell are that were never set.
    """
    text = _without_nul(os.fspath(text))
    if not text:
        raise RichSemError("a path is empty; name a file or a folder, such as . for the present one")
    if _URL.match(text) and not text.startswith(_LOCAL):
        raise RichSemError(
            f"{text} is a URL, and a local path is needed here; fetch or mount it first, such as by `curl -LO URL`, "
            "and name the copy"
        )
    return Path(text.partition("://")[2] if text.startswith(_LOCAL) else text)


def is_local(place: Place) -> bool:
    """Whether a place is a path of this machine."""
    return isinstance(place, Path)


def lives_in_this_process(place: Place) -> bool:
    """Whether a place is memory that no other process sees."""
    return isinstance(place, RemotePath) and place.url.startswith("memory://")


def each_of(place: Place, function: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """Apply a function that looks at small files; where each look is a round trip, several at a time."""
    if is_local(place):
        return [function(item) for item in items]
    with ThreadPoolExecutor(ROUND_TRIPS_AT_ONCE) as pool:
        return list(pool.map(function, items))


def _to_place(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return open_place(value)
    except RichSemError as error:
        raise ValueError(str(error)) from None


PlaceField = Annotated[Path | RemotePath, BeforeValidator(_to_place), PlainSerializer(str)]
"""A place as a field of a config: text in, text out."""


def name_below(path: Place, folder: Place) -> str:
    """The names that lead from a folder to a file below it, slashes between them.

    Raises:
        ValueError: it doesn't lie there.
    """
    if isinstance(path, RemotePath):
        if not path.url.startswith(f"{folder}/"):
            raise ValueError(f"{path} does not lie in {folder}")
        return path.url[len(str(folder)) + 1 :]
    return path.relative_to(str(folder)).as_posix()


def _status(info: Mapping[str, Any]) -> RemoteStatus:
    kinds = {"file": stat_modes.S_IFREG, "directory": stat_modes.S_IFDIR}
    return RemoteStatus(int(info.get("size") or 0), kinds.get(info["type"], 0))


def _make_folder(files: Any, path: str) -> None:
    """Object stores have no folders; making one there would make a bucket."""
    if not _protocols(files) & _OBJECT_STORES:
        files.makedirs(posixpath.dirname(path), exist_ok=True)


def _protocols(files: Any) -> set[str]:
    return {files.protocol} if isinstance(files.protocol, str) else set(files.protocol)


def _one_line(error: object) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]}…"
