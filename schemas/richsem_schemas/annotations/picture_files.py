"""Where the pictures of an annotation file lie below their folder."""

import errno
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.annotations.annotation_file import NameRule
from richsem_schemas.errors import SourceError
from richsem_schemas.io.places import Place, map_small_files

_PROBES = 8
"""How many pictures, spread over the file, must exist for a rule to count."""

_SHOWN = 5
"""How many culprits a message names."""

_FORGIVING_PROBES = 64
"""How many are looked for where some may be missing: the rule that finds most of them counts."""


def locate_pictures(
    count: int, rules: Mapping[str, NameRule], root: Place, path: Path, *, may_miss: bool = False
) -> tuple[str, ...]:
    """Name all pictures by the first rule under which the probed ones exist.

    Where some may miss, the rule that finds most of the probed ones, at least one, counts.

    Raises:
        SourceError: pictures are missing under every rule, or a name leads out of `root`.
    """
    if not root.is_dir():
        raise SourceError(f"{root}: no such folder of pictures for {path}")
    probes = _FORGIVING_PROBES if may_miss else _PROBES
    positions = sorted({position * count // probes for position in range(probes)})
    tried: dict[str, str] = {}
    best: tuple[int, tuple[str, ...]] = (0, ())
    for description, rule in rules.items():
        names = _names_by(rule, count, root)
        if names is None:
            continue
        probed = [names[position] for position in positions]
        are_there = map_small_files(root, lambda name: _is_file(root / name), probed)
        if all(are_there):
            return names
        best = max(best, (sum(are_there), names), key=lambda found: found[0])
        tried.setdefault(probed[are_there.index(False)], description)
    if may_miss and best[0]:
        return best[1]
    if not tried:
        raise SourceError(
            f"{path}: not every entry of `images` has a `file_name` or a `coco_url`; one of them must name the picture"
        )
    strange = next((name for name in tried if "\\" in name), None)
    missing = "; ".join(f"{name} ({description})" for name, description in tried.items())
    remedy = ". Give the folder that these names start from" if strange is None else _remedy(strange, root)
    raise SourceError(f"{path}: its pictures are not below {root}; missing: {missing}{remedy}")


def _names_by(rule: NameRule, count: int, root: Place) -> tuple[str, ...] | None:
    """The names of all pictures by a rule; None where it can't tell them all."""
    try:
        names = [rule(position) for position in range(count)]
    except UnusableNameError as error:
        raise SourceError(f"{error}{_remedy(error.name, root)}") from None
    known = tuple(name for name in names if name is not None)
    return known if len(known) == count else None


def require_names_once(names: Sequence[str], image_ids: NDArray[np.int64], path: Path) -> None:
    """Check that no two pictures are one file: caches, labels and detections belong to files, or to records of them.

    Raises:
        SourceError: two are.
    """
    if len(set(names)) == len(names):
        return
    twice, count = Counter(names).most_common(1)[0]
    ids = [str(image_id) for name, image_id in zip(names, image_ids, strict=True) if name == twice]
    raise SourceError(
        f"{path}: {count} images are called {twice!r} (ids {', '.join(ids[:_SHOWN])}{', ...' * (count > _SHOWN)}); "
        "annotations and caches are joined by names, so list each picture once, with all of its boxes"
    )


def _is_file(path: Place) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise


def is_utf8(name: str) -> bool:
    """Whether a text can be written; not so where JSON escapes a half of a surrogate pair."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


class UnusableNameError(SourceError):
    """A picture's name would lead out of the folder of the pictures, or is none."""

    def __init__(self, name: object, message: str):
        super().__init__(message)
        self.name = name


def end_of_name(name: object, key: str, path: Path, *, parts: int = 0) -> str | None:
    """The last parts (0: all) of a picture's name or address, without `.` and doubled slashes; None without one.

    Raises:
        UnusableNameError: it would lead out of the folder of the pictures.
    """
    if name is None:
        return None
    is_usable = isinstance(name, str) and (parts > 0 or not _ABSOLUTE.match(name))
    found = [part for part in str(name).split("/") if part not in {"", "."}][-parts:] if is_usable else []
    if not found or any(part == ".." or "\0" in part or not is_utf8(part) for part in found):
        raise UnusableNameError(
            name,
            f"{path}: a picture has the {key} {str(name)[:200]!r}; a relative name without `..` is needed, so that it "
            "stays in the folder of the pictures",
        )
    return "/".join(found)


_ABSOLUTE = re.compile(r"/|\\|[A-Za-z]:[/\\]|[A-Za-z][A-Za-z0-9+.-]*://")
"""Absolute names here and on Windows, and addresses."""


def _remedy(name: object, root: Place) -> str:
    """Advice on an absolute name, an address, or one with backslashes; empty for others."""
    if not isinstance(name, str) or not (_ABSOLUTE.match(name) or "\\" in name):
        return ""
    last = re.split(r"[/\\]", name)[-1]
    if last not in {"", ".", ".."} and "\0" not in last and is_utf8(last) and _is_file(root / last):
        return f". Its last part is there: write {last!r} in the place of the whole name, in all pictures"
    return f". Write names as they are below {root}, with `/` between folders"
