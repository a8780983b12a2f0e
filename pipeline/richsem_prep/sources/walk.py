"""Walk the folders of a source in one order on every machine: by the bytes of the names, folder by folder."""

import errno
import os
import stat as stat_modes
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from richsem_prep.sources.entry import Rejected, SourceEntry
from richsem_schemas.errors import SourceError
from richsem_schemas.io.places import Place, RemotePath, RemoteStatus
from richsem_schemas.io.words import printable
from richsem_schemas.pictures.originals import WHOLE_FILE

_DANGLING = {errno.ENOENT, errno.ELOOP, errno.ENOTDIR}
_HIDDEN = b"."
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class _RemoteEntry:
    """A file or a folder of a listing at a URL, with those of `os.DirEntry`'s methods that are needed."""

    name: bytes
    path: RemotePath
    status: RemoteStatus

    def is_dir(self) -> bool:
        return stat_modes.S_ISDIR(self.status.st_mode)

    def is_file(self) -> bool:
        return stat_modes.S_ISREG(self.status.st_mode)

    def is_symlink(self) -> bool:
        # Listings at URLs don't tell.
        return False

    def stat(self) -> RemoteStatus:
        return self.status


Entry: TypeAlias = os.DirEntry[bytes] | _RemoteEntry


def scan_root(root: Place, *, layout: str) -> list[Entry]:
    """List the top level of a source, sorted, without hidden names.

    `layout` says in errors what is expected.

    Raises:
        SourceError: `root` is missing, no folder, or empty.
    """
    if not root.exists():
        raise SourceError(f"{root} doesn't exist; expected {layout}. Point --root at it")
    if not root.is_dir():
        raise SourceError(f"{root} is no folder; expected {layout}. Point --root at it")
    entries = _scan(root if isinstance(root, RemotePath) else os.fsencode(root))
    if not entries:
        raise SourceError(f"{root} is empty; expected {layout}. Point --root at it")
    return entries


def walk_files(root: Place, folder: bytes, category_id: int) -> Iterator[SourceEntry | Rejected]:
    """List the files below a folder as pictures of one class, deeper folders included.

    Links to folders are followed, each real folder once; hidden files are skipped; what is neither a file nor a folder
    is rejected. One `stat` a file, memory for the names of the folders on the way.

    Raises:
        SourceError: a folder can't be listed.
    """
    visited = {_folder_identity(_below(root, b""))}
    pending: list[tuple[bytes, Iterator[Entry]]] = []

    def enter(path: bytes | RemotePath, folder: bytes) -> Iterator[Rejected]:
        identity = _folder_identity(path)
        if identity in visited:
            yield Rejected(printable(folder), "a link to a folder that is already listed")
            return
        visited.add(identity)
        pending.append((folder, iter(_scan(path))))

    yield from enter(_below(root, folder), folder)
    while pending:
        parent, entries = pending[-1]
        entry = next(entries, None)
        if entry is None:
            pending.pop()
        elif is_folder(entry):
            yield from enter(entry.path, parent + b"/" + entry.name)
        else:
            yield file_entry(entry, parent + b"/" + entry.name, category_id)


def is_folder(entry: Entry) -> bool:
    """Tell whether an entry is a folder or a link to one; a link to nowhere is not."""
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno in _DANGLING:
            return False
        raise _unreadable(entry.path, error) from error


def file_entry(entry: Entry, file: bytes, category_id: int) -> SourceEntry | Rejected:
    """Make the entry of a file, by its path relative to ROOT; or reject what is no regular file.

    Raises:
        SourceError: its size can't be read.
    """
    try:
        if not entry.is_file():
            return Rejected(printable(file), "a broken link" if entry.is_symlink() else "not a regular file")
        size = entry.stat().st_size
    except OSError as error:
        if error.errno not in _DANGLING:
            raise _unreadable(entry.path, error) from error
        return Rejected(printable(file), "a broken link" if entry.is_symlink() else "vanished while it was listed")
    return SourceEntry(printable(file), file, WHOLE_FILE, size, category_id)


def first_names(entries: list[Entry]) -> str:
    """The first few names of a listing, for an error message."""
    shown = ", ".join(printable(entry.name) for entry in entries[:_SHOWN])
    return shown + (", ..." if len(entries) > _SHOWN else "")


def _below(root: Place, folder: bytes) -> bytes | RemotePath:
    if isinstance(root, RemotePath):
        return root / os.fsdecode(folder) if folder else root
    return os.path.join(os.fsencode(root), folder) if folder else os.fsencode(root)


def _scan(path: bytes | RemotePath) -> list[Entry]:
    try:
        if isinstance(path, RemotePath):
            found: list[Entry] = [_RemoteEntry(os.fsencode(item.name), item, status) for item, status in path.scan()]
        else:
            with os.scandir(path) as entries:
                found = list(entries)
    except OSError as error:
        raise _unreadable(path, error) from error
    return sorted((entry for entry in found if not entry.name.startswith(_HIDDEN)), key=lambda entry: entry.name)


def _folder_identity(path: bytes | RemotePath) -> tuple[int, int] | str:
    if isinstance(path, RemotePath):
        return path.url
    try:
        status = os.stat(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    return status.st_dev, status.st_ino


def _unreadable(path: bytes | RemotePath, error: OSError) -> SourceError:
    shown = str(path) if isinstance(path, RemotePath) else printable(path)
    return SourceError(f"{shown} can't be listed: {error.strerror}; make it readable or move it out of ROOT")
