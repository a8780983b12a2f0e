"""One look at each picture: its size from the header, and what tells copies apart."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from richsem_schemas.errors import IrregularFileError, PictureError
from richsem_schemas.io.files import hash_file, open_regular
from richsem_schemas.io.ordered_map import default_threads
from richsem_schemas.pictures.decode import MAX_PICTURE_BYTES
from richsem_schemas.pictures.header import picture_hw_of
from richsem_train.console import Reporter

_HEAD_BYTES = 2**16
_TAIL_BYTES = 2**12
_AT_A_TIME = 64


@dataclass(frozen=True, slots=True)
class LookedAt:
    """A picture file.

    Attributes:
        hw: height and width, upright; None where it can't be read.
        problem: why.
        likeness: size in bytes, and a hash of the first and last of them: copies have the same, others hardly ever.
    """

    hw: tuple[int, int] | None
    problem: str
    likeness: tuple[int, bytes]


def look_at_pictures(files: Sequence[Path], reporter: Reporter) -> list[LookedAt]:
    """Look at each of some pictures, in threads; pixels are not decoded."""
    reporter.begin("looking at pictures", len(files))
    found: list[LookedAt] = []
    parts = [files[start : start + _AT_A_TIME] for start in range(0, len(files), _AT_A_TIME)]
    with ThreadPoolExecutor(default_threads()) as pool:
        for part in pool.map(lambda part: [_look_at(path) for path in part], parts):
            found += part
            reporter.move(len(found))
    reporter.end()
    return found


def _look_at(path: Path) -> LookedAt:
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(_HEAD_BYTES)
            digest = hashlib.blake2b(head, digest_size=16)
            digest.update(os.pread(file.fileno(), _TAIL_BYTES, max(size - _TAIL_BYTES, 0)))
            likeness = (size, digest.digest())
            try:
                hw = picture_hw_of(head, lambda: head + file.read(MAX_PICTURE_BYTES + 1 - len(head)))
            except PictureError as error:
                return LookedAt(None, str(error), likeness)
            return LookedAt(hw, "", likeness)
    except (OSError, IrregularFileError) as error:
        return LookedAt(None, getattr(error, "strerror", None) or str(error), (-1, os.fsencode(path)))


def groups_of_copies(files: Sequence[Path], looks: Sequence[LookedAt], reporter: Reporter) -> list[list[int]]:
    """Positions of pictures whose files are the same, a list for each set of two or more.

    Told by their size and a hash of their ends, and then by SHA-256 of all bytes.
    """
    alike: dict[tuple[int, bytes], list[int]] = {}
    for position, look in enumerate(looks):
        alike.setdefault(look.likeness, []).append(position)
    maybe = [positions for positions in alike.values() if len(positions) > 1]
    reporter.begin("comparing pictures of one size", sum(map(len, maybe)))
    done, groups = 0, []
    for positions in maybe:
        by_hash: dict[str, list[int]] = {}
        for position in positions:
            by_hash.setdefault(hash_file(files[position]).sha256, []).append(position)
            done += 1
            reporter.move(done)
        groups += [same for same in by_hash.values() if len(same) > 1]
    reporter.end()
    return groups
