"""Whether all pictures of the annotations are there, before the first step: a look at each, in threads."""

import os
import stat
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from richsem_schemas.annotations import DetectionData
from richsem_schemas.errors import PictureError
from richsem_train.console import Reporter
from richsem_train.data.detection import MAX_DAMAGED_IN_A_ROW
from richsem_train.distributed import Ranks

_THREADS = 16
"""A network disk answers many at a time; a local one needs none of them."""

_AT_A_TIME = 256
_SHOWN = 3


@dataclass(frozen=True)
class Missing:
    """A picture that can't be read.

    Attributes:
        index: in the annotations.
        reason: in the system's words, or that it is empty or no file.
    """

    index: int
    reason: str


def require_pictures(
    splits: Mapping[str, DetectionData], *, skipping: Collection[str] = (), ranks: Ranks, reporter: Reporter
) -> None:
    """Look at every picture of some splits; the first rank does it for all.

    Sizes and kinds are asked for, nothing is read: a broken picture shows only when it is decoded.

    Args:
        splits: by name.
        skipping: splits whose missing pictures are replaced by others, which is said.
        ranks: all of them call this.
        reporter: told how far it is, and what will be replaced.

    Raises:
        PictureError: on all ranks; pictures are missing that may not be, or so many that none is left to replace them.
    """
    refusals = []
    if ranks.is_first:
        reporter.begin("looking at the pictures", sum(map(len, splits.values())))
        done = 0
        for name, data in splits.items():
            missing = find_missing(data, on_progress=lambda looked, before=done: reporter.move(before + looked))
            done += len(data)
            if not missing:
                continue
            told = _told(name, data, missing)
            if name not in skipping:
                remedy = "restore them, or take them out of its annotations"
                refusals.append(told + f"; {remedy}" + (_OR_SKIP if name == "train" else ""))
            elif _longest_row(missing, len(data)) >= MAX_DAMAGED_IN_A_ROW:
                refusals.append(
                    f"{told}; {MAX_DAMAGED_IN_A_ROW} or more of them follow each other, which is no accident; check "
                    "the folder of the pictures"
                )
            else:
                reporter.say(f"{told}; the next ones take their place")
        reporter.end()
    if refusals := ranks.messages(refusals):
        raise PictureError(". ".join(refusals))


_OR_SKIP = ", or go on without them by detection.on_damage=skip"


def find_missing(data: DetectionData, *, on_progress: Callable[[int], None] = lambda _: None) -> list[Missing]:
    """The pictures that are not there, are empty, or are no files; in the order of the annotations.

    Args:
        data: the annotations, whose pictures lie in a local folder.
        on_progress: called with how many were looked at.
    """
    root = str(data.root)
    missing: list[Missing] = []
    looked = 0
    with ThreadPoolExecutor(_THREADS) as pool:
        for part in pool.map(lambda indexes: _look_at(root, data.files, indexes), _parts(len(data))):
            missing += part.missing
            looked += part.looked
            on_progress(looked)
    return missing


@dataclass(frozen=True)
class _Part:
    looked: int
    missing: list[Missing]


def _parts(count: int) -> Iterator[range]:
    return (range(first, min(first + _AT_A_TIME, count)) for first in range(0, count, _AT_A_TIME))


def _look_at(root: str, files: Sequence[str], indexes: range) -> _Part:
    found = [(index, _reason(os.path.join(root, files[index]))) for index in indexes]
    return _Part(len(indexes), [Missing(index, reason) for index, reason in found if reason is not None])


def _reason(path: str) -> str | None:
    """Why a file is no picture; None where it may be one."""
    try:
        status = os.stat(path)
    except OSError as error:
        return error.strerror or str(error)
    if not stat.S_ISREG(status.st_mode):
        return "a folder or a device, no file"
    return None if status.st_size else "empty"


def _told(name: str, data: DetectionData, missing: Sequence[Missing]) -> str:
    shown = ", ".join(f"{data.files[each.index]} ({each.reason})" for each in missing[:_SHOWN])
    return (
        f"{name}: {len(missing):,} of {len(data):,} pictures can't be read below {data.root}: {shown}"
        f"{', ...' if len(missing) > _SHOWN else ''}"
    )


def _longest_row(missing: Sequence[Missing], count: int) -> int:
    """How many follow each other at most; behind the last picture comes the first."""
    gone = {each.index for each in missing}
    if len(gone) == count:
        return count
    longest = row = 0
    for index in range(2 * count):
        row = row + 1 if index % count in gone else 0
        longest = max(longest, row)
    return longest
