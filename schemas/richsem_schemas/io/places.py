"""Where caches and datasets lie: in a folder, or at a URL that fsspec knows.

A local place is a plain `pathlib.Path`, a remote one a `RemotePath`.
"""

import os
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar
from urllib.parse import urlsplit

from pydantic import BeforeValidator, PlainSerializer

from richsem_schemas.errors import RichSemError, SourceError
from richsem_schemas.io.remote import READ_AHEAD_BYTES, RemoteFile, RemotePath, RemoteStatus
from richsem_schemas.io.words import one_line

__all__ = [
    "READ_AHEAD_BYTES",
    "Place",
    "PlaceField",
    "RemoteFile",
    "RemotePath",
    "RemoteStatus",
    "lives_in_this_process",
    "local_path",
    "map_small_files",
    "name_below",
    "open_place",
    "require_local",
]

ROUND_TRIPS_AT_ONCE = 16
"""Requests under way at a time where many small files are looked at."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]*://")
_LOCAL = ("file://", "local://")
_PACKAGES = {"s3": "richsem[s3]", "s3a": "richsem[s3]"}

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


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
    import fsspec  # noqa: PLC0415 - with asyncio and ssl it takes a while, and most places are local

    protocols = [part.partition("://")[0] for part in place.url.split("::")]
    for protocol in protocols:
        try:
            fsspec.get_filesystem_class(protocol)
        except ImportError as error:
            package = _PACKAGES.get(protocol)
            remedy = f"pip install '{package}'" if package else one_line(error)
            raise RichSemError(f"{place}: the package for {protocol}:// is not installed; {remedy}") from None
        except ValueError:
            raise RichSemError(
                f"{place}: fsspec knows no protocol {protocol!r}; use a local path or a URL such as s3://BUCKET/FOLDER"
            ) from None


def require_local(place: Place, what: str) -> Path:
    """The path of something, such as "the demo", that is only read from this machine's file systems.

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


def lives_in_this_process(place: Place) -> bool:
    """Whether a place is memory that no other process sees."""
    return isinstance(place, RemotePath) and place.url.startswith("memory://")


def map_small_files(place: Place, function: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """The results of a function that looks at a small file, in order; at URLs, several round trips go at a time."""
    if isinstance(place, Path):
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
