"""The classes of one's own data: names that mean one thing joined, classes without a box left out."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.errors import RichSemError, SourceError
from richsem_schemas.io.words import JOINERS
from richsem_schemas.vocabularies.frequencies import Frequency
from richsem_schemas.vocabularies.vocabulary import NONE_NAME
from richsem_train.own_data.own_pictures import OwnData, OwnPicture
from richsem_train.own_data.records import Export, Problems

_MAX_NAME = 300


def joined_classes(export: Export, problems: Problems) -> tuple[NDArray[np.int64], list[str]]:
    """The row of each of the export's classes, int64 [K], and the names of the rows; the frequent spelling counts.

    Args:
        export: whose names and boxes these are.
        problems: is told of names that are joined.

    Raises:
        SourceError: a name can't be one.
    """
    counts = np.zeros(len(export.class_names), np.int64)
    for record in export.pictures:
        np.add.at(counts, record.labels, 1)
    rows = np.zeros(len(export.class_names), np.int64)
    spellings: dict[str, list[int]] = {}
    for position, name in enumerate(export.class_names):
        if counts[position]:
            _require_name(name, export)
        spellings.setdefault(" ".join(name.split()).casefold(), []).append(position)
    names = []
    for row, positions in enumerate(spellings.values()):
        rows[positions] = row
        best = max(positions, key=lambda position: (counts[position], -position))
        names.append(" ".join(export.class_names[best].split()))
        if len({export.class_names[position] for position in positions}) > 1 or len(positions) > 1:
            told = " = ".join(f"{export.class_names[position]!r} ({counts[position]:,})" for position in positions)
            problems.add("names that stand twice, or differ by case or blanks, joined into one class", told)
    return rows, names


def _require_name(name: str, export: Export) -> None:
    where = ", ".join(str(path) for path in export.annotations[:1])
    if name.strip().casefold() == NONE_NAME:
        raise SourceError(f"{where}: a class is called {name!r}, as what is nothing is called here; rename it")
    if not name.strip() or len(name) > _MAX_NAME or not all(x.isprintable() or x in JOINERS for x in name.strip()):
        raise SourceError(
            f"{where}: {name[:80]!r} can't name a class; names have 1 to {_MAX_NAME} printable characters: rename it"
        )


def with_used_classes(
    export: Export, names: Sequence[str], pictures: Sequence[OwnPicture], copies: int, near: int | None
) -> OwnData:
    """Leave out classes without a box, and number the others anew.

    Args:
        export: what was read.
        names: of the classes that `pictures` count.
        pictures: with their boxes.
        copies: sets of identical pictures.
        near: of near copies; None where they weren't looked for.

    Raises:
        RichSemError: not one box is left.
    """
    counts = np.zeros(len(names), np.int64)
    for picture in pictures:
        np.add.at(counts, picture.labels, 1)
    used = np.flatnonzero(counts).tolist()
    if not len(used):
        raise RichSemError(
            f"{export.annotations[0]}: not one box is left of {len(pictures):,} pictures; see what was left out: "
            + ("; ".join(f"{count:,} {what} ({where})" for what, count, where in export.problems) or "nothing")
        )
    if unused := [names[row] for row in np.flatnonzero(counts == 0).tolist()]:
        export.problems.add("classes without a box, left out", ", ".join(unused[:5]), len(unused))
    new = np.full(len(names), -1, np.int64)
    new[used] = np.arange(len(used))

    def renumbered(rows: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted({int(new[row]) for row in rows if new[row] >= 0}))

    return OwnData(
        export,
        tuple(names[row] for row in used),
        tuple(
            replace(
                picture,
                labels=new[picture.labels],
                negatives=renumbered(picture.negatives),
                not_exhaustive=renumbered(picture.not_exhaustive),
            )
            for picture in pictures
        ),
        _given_frequencies(export, [names[row] for row in used]),
        copies,
        near,
        any(picture.negatives or picture.not_exhaustive for picture in pictures),
    )


def _given_frequencies(export: Export, names: Sequence[str]) -> tuple[Frequency, ...] | None:
    if export.frequencies is None:
        return None
    by_name = {
        " ".join(name.split()): letter for name, letter in zip(export.class_names, export.frequencies, strict=True)
    }
    return tuple(by_name[name] for name in names) if set(names) <= by_name.keys() else None
