"""Whether all pictures of the annotations are there, before the first step: a look at each, in threads."""

import os
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from richsem_schemas.io.places import Place
from richsem_schemas.io.words import printable
from richsem_train.console import Reporter
from richsem_train.data.damage import MAX_DAMAGED_IN_A_ROW
from richsem_train.run.distributed import Ranks

_THREADS = 16
"""A network disk answers many at a time; a local one needs none of them."""

_AT_A_TIME = 256
_OR_SKIP = ", or go on without them by detection.on_damage=skip"
_SHOWN = 3


class Pictures(Protocol):
    """Files below a local folder; `DetectionData` and the originals of a cache are such."""

    @property
    def root(self) -> Place:
        """The folder."""

    @property
    def files(self) -> Sequence[str]:
        """Names below it."""


@dataclass(frozen=True)
class Missing:
    """A picture that can't be read: its index among the pictures, and the reason in the system's words or ours."""

    index: int
    reason: str


def require_pictures(
    splits: Mapping[str, Pictures], *, skipping: Collection[str] = (), ranks: Ranks, reporter: Reporter
) -> None:
    """Look at every picture of some splits by name; the first rank does it for all, which all call this.

    Sizes and kinds are asked for, nothing is read: a broken picture shows only when it is decoded. Of splits in
    `skipping` missing pictures are replaced by others, which is said.

    Raises:
        RichSemError: on all ranks; pictures are missing that may not be, or so many that none is left to replace them.
    """
    refusals: list[str] = []
    if ranks.is_first:
        reporter.begin("looking at the pictures", sum(len(pictures.files) for pictures in splits.values()))
        done = 0
        for name, pictures in splits.items():
            missing: list[Missing] = []
            for count, found in look_at_all(pictures):
                missing += found
                done += count
                reporter.move(done)
            if missing:
                told = _description(name, pictures, missing)
                if refusal := _refusal(name, pictures, missing, may_skip=name in skipping):
                    refusals.append(told + refusal)
                else:
                    reporter.say(f"{told}; the next ones take their place")
        reporter.end()
    ranks.stop_all(refusals)


def _refusal(name: str, pictures: Pictures, missing: Sequence[Missing], *, may_skip: bool) -> str | None:
    """Why a run can't do without some pictures, as the end of a message; None where others replace them."""
    if not may_skip:
        return "; restore them, or take them out of its annotations" + (_OR_SKIP if name == "train" else "")
    if _longest_row(missing, len(pictures.files)) >= MAX_DAMAGED_IN_A_ROW:
        return (
            f"; {MAX_DAMAGED_IN_A_ROW} or more of them follow each other, which is no accident; check the folder of "
            "the pictures"
        )
    return None


def look_at_all(pictures: Pictures) -> Iterator[tuple[int, list[Missing]]]:
    """Look at pictures, some at a time, in their order: how many were looked at, and which of them are missing."""
    count = len(pictures.files)
    with ThreadPoolExecutor(_THREADS) as pool:
        parts = (range(start, min(start + _AT_A_TIME, count)) for start in range(0, count, _AT_A_TIME))
        yield from pool.map(partial(_look_at, str(pictures.root), pictures.files), parts)


def _look_at(root: str, files: Sequence[str], indexes: range) -> tuple[int, list[Missing]]:
    found = [(index, _reason(os.path.join(root, files[index]))) for index in indexes]
    return len(indexes), [Missing(index, reason) for index, reason in found if reason is not None]


def _reason(path: str) -> str | None:
    """Why a file is no picture; None where it may be one."""
    try:
        status = os.stat(path)
    except OSError as error:
        return error.strerror or str(error)
    # A name with a NUL, which no file has.
    except ValueError as error:
        return str(error)
    if not stat.S_ISREG(status.st_mode):
        return "a folder or a device, no file"
    return None if status.st_size else "empty"


def _description(name: str, pictures: Pictures, missing: Sequence[Missing]) -> str:
    shown = ", ".join(
        f"{printable(os.fsencode(pictures.files[each.index]))} ({each.reason})" for each in missing[:_SHOWN]
    )
    return (
        f"{name}: {len(missing):,} of {len(pictures.files):,} pictures can't be read below {pictures.root}: {shown}"
        f"{', ...' if len(missing) > _SHOWN else ''}"
    )


def _longest_row(missing: Sequence[Missing], count: int) -> int:
    """The most that follow each other; behind the last picture comes the first."""
    gone = {each.index for each in missing}
    if len(gone) == count:
        return count
    longest = row = 0
    for index in range(2 * count):
        row = row + 1 if index % count in gone else 0
        longest = max(longest, row)
    return longest
