"""The picture files that a user means by files, folders and patterns."""

import glob
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from richsem_schemas.errors import RichSemError
from richsem_schemas.io.places import local_path
from richsem_schemas.io.words import os_error_text
from richsem_schemas.pictures.names import PICTURE_ENDINGS, is_called_picture

_ENDINGS = f"ends in {', '.join(PICTURE_ENDINGS[:-1])} or {PICTURE_ENDINGS[-1]}"


def picture_files(*places: str | os.PathLike[str], leave_out: str | os.PathLike[str] | None = None) -> list[Path]:
    """The files of pictures by name, each once: of a place after the other, in natural order within one (2 before 10).

    Of folders, whatever their depth, and of patterns those count that are called like pictures, in small or large
    letters, and aren't hidden; links to folders aren't followed. A file that is named itself counts as it is.

    Args:
        places: files, folders, or patterns such as `photos/*.jpg` or `photos/**/cat*`. What exists by its name is no
            pattern.
        leave_out: a folder whose files don't count where it lies in another one, such as that of earlier results.

    Raises:
        RichSemError: a folder can't be read or has no picture, or a pattern matches none.
    """
    skipped = None if leave_out is None else os.path.realpath(leave_out)
    found: dict[str, Path] = {}
    for place in map(local_path, places):
        for path in _files_of(place, skipped):
            found.setdefault(os.path.abspath(path), path)
    return list(found.values())


def _files_of(place: Path, skipped: str | None) -> list[Path]:
    if place.is_dir():
        return _files_below(place, skipped)
    if glob.has_magic(str(place)) and not os.path.lexists(place):
        return _files_like(place, skipped)
    return [place]


def _files_below(folder: Path, skipped: str | None) -> list[Path]:
    others = 0
    found = []
    for path in _walk(folder, skipped):
        if is_called_picture(path.name):
            found.append(path)
        else:
            others += 1
    if not found:
        what = f"none of its {others:,} files {_ENDINGS}" if others else "it holds no file"
        raise RichSemError(f"{folder}: a folder without pictures: {what}; name a folder with pictures, or the files")
    return sorted(found, key=_natural)


def _walk(folder: Path, skipped: str | None) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise RichSemError(
            f"{error.filename}: the folder can't be read ({os_error_text(error)}); make it readable, or name others"
        )

    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(os.path.join(parent, name)) != skipped
        ]
        # Hidden ones are a system's own, such as macOS's `._cat.jpg`.
        yield from (Path(parent, name) for name in files if not name.startswith("."))


def _files_like(pattern: Path, skipped: str | None) -> list[Path]:
    matched = [Path(name) for name in glob.iglob(str(pattern), recursive=True)]
    files = [path for path in matched if path.is_file() and not _is_below(path, skipped)]
    found = [path for path in files if is_called_picture(path.name)]
    if not found:
        what = f"none of the {len(files):,} files {_ENDINGS}" if files else "no file is called so"
        raise RichSemError(
            f"{pattern}: the pattern matches no picture: {what}; * stands for letters within a name, ** for folders of "
            "any depth"
        )
    return sorted(found, key=_natural)


def _is_below(path: Path, skipped: str | None) -> bool:
    return skipped is not None and os.path.realpath(path).startswith(os.path.join(skipped, ""))


def _natural(path: Path) -> tuple[tuple[tuple[str | int, ...], ...], str]:
    """Numbers by their value, letters whatever their case; what is then alike, letter by letter."""
    return tuple(_numbers_and_letters(part) for part in path.parts), str(path)


def _numbers_and_letters(name: str) -> tuple[str | int, ...]:
    # Letters stand at even places, empty where a name begins with a number, so that like meets like.
    parts: Iterable[str] = re.split(r"(\d+)", name.casefold())
    return tuple(int(part) if place % 2 else part for place, part in enumerate(parts))
