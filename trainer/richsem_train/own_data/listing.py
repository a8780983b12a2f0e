"""The files of a folder by kind, each seen once; nothing is opened."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from richsem_schemas.errors import RichSemError
from richsem_schemas.pictures.names import is_called_picture
from richsem_train.console import Reporter

MAX_FILES = 10_000_000
"""Of a folder; names are held in memory."""

ANNOTATION_ENDINGS = frozenset({".json", ".xml", ".txt", ".yaml", ".yml", ".names", ".data"})
_OTHERS = frozenset({".zip", ".csv"})
_NOT_LOOKED_INTO = frozenset({"__MACOSX", "__pycache__", "@eaDir"})


@dataclass(frozen=True)
class Listing:
    """Files below a folder, in the order of their names; paths start with the folder.

    Attributes:
        root: the folder of the annotations.
        picture_root: that of the pictures, mostly the same.
        pictures: by their endings.
        others: annotations, archives and tables, by their endings in lower case.
    """

    root: Path
    picture_root: Path
    pictures: tuple[Path, ...]
    others: dict[str, tuple[Path, ...]]

    def ending(self, *endings: str) -> list[Path]:
        """The files of some endings."""
        return [path for ending in endings for path in self.others.get(ending, ())]

    def relative(self, path: Path) -> str:
        """A file as messages name it."""
        return _below(path, self.root) or str(path)

    def folders(self, path: Path) -> tuple[str, ...]:
        """The folders of a file, below that of the annotations or of the pictures."""
        return tuple((_below(path, self.root) or _below(path, self.picture_root)).split(os.sep)[:-1])


def _below(path: Path, root: Path) -> str:
    """A file's path from a folder on, empty where it doesn't lie there; by text: pathlib takes long."""
    text, start = str(path), str(root).rstrip(os.sep) + os.sep
    return text[len(start) :] if text.startswith(start) else ""


def list_files(root: Path, reporter: Reporter) -> Listing:
    """Go through a folder, links to folders included, each folder once; hidden ones are left alone.

    Raises:
        RichSemError: it holds more files than can be looked through.
    """
    pictures: list[Path] = []
    others: dict[str, list[Path]] = {}
    reporter.begin(f"listing {root}", 0)
    for count, path in enumerate(_files(root), 1):
        if count > MAX_FILES:
            raise RichSemError(f"{root}: more than {MAX_FILES:,} files; name the folder of one dataset")
        ending = os.path.splitext(path)[1].lower()
        if is_called_picture(path):
            pictures.append(Path(path))
        elif ending in ANNOTATION_ENDINGS or ending in _OTHERS:
            others.setdefault(ending, []).append(Path(path))
    reporter.end()
    return Listing(root, root, tuple(pictures), {ending: tuple(paths) for ending, paths in others.items()})


def _files(root: Path) -> Iterator[str]:
    seen: set[tuple[int, int]] = set()
    for folder, inner, names in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            inner.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        inner[:] = sorted(name for name in inner if not name.startswith(".") and name not in _NOT_LOOKED_INTO)
        for name in sorted(names):
            if not name.startswith("."):
                yield os.path.join(folder, name)
