"""Pictures by the names that exports have for them, which may be paths of another machine."""

import os
import re
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from richsem_schemas.pictures.names import is_called_picture
from richsem_train.own_data.listing import Listing

_UPLOAD = re.compile(r"[0-9a-f]{8}-")
"""What Label Studio puts before the names of files that were uploaded to it."""


class PictureIndex:
    """Finds files of a listing by the ends of names, so that no name leads out of it."""

    def __init__(self, listing: Listing) -> None:
        self._root = listing.picture_root
        self._by_stem: dict[str, list[Path]] = {}
        for path in listing.pictures:
            self._by_stem.setdefault(path.stem.lower(), []).append(path)

    def find(self, name: str, *, near: Path) -> Path | None:
        """The picture that most parts of the name lead to, counted from its end; None where there is none, or no best.

        Of several that do, the one nearest to the annotations counts. The last part must agree, its case and its ending
        aside where no other picture fits better.

        Args:
            name: as an export has it.
            near: the annotations' file.
        """
        parts = _parts(name)
        found = self._find(parts, near) if parts else None
        if found is None and parts and (upload := _UPLOAD.match(parts[-1])):
            found = self._find([*parts[:-1], parts[-1][upload.end() :]], near)
        return found

    def _find(self, parts: list[str], near: Path) -> Path | None:
        last = parts[-1]
        stem = os.path.splitext(last)[0] if is_called_picture(last) else last
        candidates = self._by_stem.get(stem.lower(), [])
        ranked = sorted(((self._rank(path, parts, near), path) for path in candidates), reverse=True)
        if not ranked or (len(ranked) > 1 and ranked[0][0] == ranked[1][0]):
            return None
        return ranked[0][1]

    def is_ambiguous(self, name: str) -> bool:
        """Whether there are pictures of that name, so that `find` found too many."""
        parts = _parts(name)
        return bool(parts) and os.path.splitext(parts[-1])[0].lower() in self._by_stem

    def _rank(self, path: Path, parts: list[str], near: Path) -> tuple[bool, bool, int, int]:
        here = path.relative_to(self._root).parts
        return (
            here[-1] == parts[-1],
            here[-1].lower() == parts[-1].lower(),
            _common(here[::-1], parts[::-1]),
            _common(path.parts, near.parts),
        )


def _common(one: tuple[str, ...] | list[str], other: tuple[str, ...] | list[str]) -> int:
    """How many parts agree from the start on."""
    count = 0
    for ours, theirs in zip(one, other, strict=False):
        if ours != theirs:
            break
        count += 1
    return count


def _parts(name: str) -> list[str]:
    """The parts of a path of any system, or of an address, whose query may hold the path (Label Studio's `?d=`)."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", name) or name.startswith("/data/"):
        address = urlsplit(name)
        given = parse_qs(address.query).get("d")
        name = given[0] if given else unquote(address.path)
    return [part for part in name.replace("\\", "/").split("/") if part not in {"", ".", ".."} and "\0" not in part]
