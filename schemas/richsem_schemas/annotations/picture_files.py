"""Where the pictures of an annotation file lie below their folder."""

import errno
from collections.abc import Mapping, Sequence
from pathlib import Path

from richsem_schemas.annotations.annotation_file import NameRule
from richsem_schemas.errors import SourceError
from richsem_schemas.places import Place, each_of

_PROBES = 8
"""How many pictures, spread over the file, must exist for a rule to count."""

_FORGIVING_PROBES = 64
"""How many are looked for where some may be missing: the rule that finds most of them counts."""


def locate_pictures(
    count: int, rules: Mapping[str, NameRule], root: Place, path: Path, *, may_miss: bool = False
) -> tuple[str, ...]:
    """Name all pictures by the first rule under which the probed ones exist.

    Args:
        count: how many pictures there are.
        rules: where they may lie, in the order of preference.
        root: folder of the pictures.
        path: of the annotation file, for messages.
        may_miss: take the rule that finds most of the probed pictures, at least one; else all must exist.

    Returns:
        Names relative to `root`, in the order of the file.

    Raises:
        SourceError: pictures are missing under every rule, or a name leads out of `root`.
    """
    if not root.is_dir():
        raise SourceError(f"{root}: no such folder of pictures for {path}")
    probes = _FORGIVING_PROBES if may_miss else _PROBES
    positions = sorted({position * count // probes for position in range(probes)})
    tried: list[str] = []
    best: tuple[int, tuple[str, ...]] = (0, ())
    for description, rule in rules.items():
        names = [rule(position) for position in range(count)]
        known = tuple(name for name in names if name is not None)
        if len(known) < count:
            continue
        probed = [known[position] for position in positions]
        are_there = each_of(root, lambda name: _is_file(root / name), probed)
        missing = [name for name, is_there in zip(probed, are_there, strict=True) if not is_there]
        if not missing:
            return known
        best = max(best, (len(positions) - len(missing), known), key=lambda found: found[0])
        tried.append(f"{missing[0]} ({description})")
    if may_miss and best[0]:
        return best[1]
    if not tried:
        raise SourceError(
            f"{path}: not every entry of `images` has a `file_name` or a `coco_url`; one of them must name the picture"
        )
    raise SourceError(
        f"{path}: its pictures are not below {root}; missing: {'; '.join(dict.fromkeys(tried))}. "
        "Give the folder that these names start from"
    )


def _is_file(path: Place) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise


def _is_utf8(name: str) -> bool:
    """Not so where JSON escapes a half of a surrogate pair."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def end_of_name(name: object, key: str, path: Path, *, parts: int = 0) -> str | None:
    """The last parts (0: all) of a picture's name or address; None where there is none.

    Raises:
        SourceError: it would lead out of the folder of the pictures.
    """
    if name is None:
        return None
    found: Sequence[str] = name.split("/")[-parts:] if isinstance(name, str) else []
    if not found or any(part in {"", ".", ".."} or "\0" in part or not _is_utf8(part) for part in found):
        raise SourceError(
            f"{path}: a picture has the {key} {str(name)[:200]!r}; a relative name without `..` is needed, so that it "
            "stays in the folder of the pictures"
        )
    return "/".join(found)
