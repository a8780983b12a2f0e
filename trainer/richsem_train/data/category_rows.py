"""Categories of annotations as rows of a vocabulary, and back: joined by their names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.annotations import DetectionData
from richsem_schemas.errors import SourceError

NO_CATEGORY = -1
_SHOWN = 5
_SPARSE_ROWS = 2_048
"""A classifier may have so many rows for the sake of row = id: published ones of COCO and LVIS have."""

_ADVICE = "Names are equal, letter by letter: use a cache or text (text.folder) made for these categories"


def default_rows(data: DetectionData) -> NDArray[np.int64]:
    """The row of each category in a vocabulary that a dataset makes by itself, where no text bank gives one.

    Row = `category_id`, as in published classifiers, or where ids begin at 0 or have large gaps the place in the order
    of ids, from 1: row 0 is "none", and a row costs weights whether a category has it or not.

    Returns:
        int64 [K].
    """
    ids = np.array([each.id for each in data.categories], np.int64)
    fit = ids[0] > 0 and ids[-1] <= max(_SPARSE_ROWS, 2 * len(ids))
    return ids if fit else np.arange(1, len(ids) + 1)


def rows_of_categories(data: DetectionData, class_names: Sequence[str]) -> NDArray[np.int64]:
    """The row of each category of a dataset, in the order of its categories.

    Row = `category_id` where the names agree there (LVIS); otherwise the row of the same name, since ids may have gaps
    (COCO). A vocabulary may hold more classes than the dataset.

    Args:
        data: K categories.
        class_names: of the rows, row 0 for "none"; empty for rows that are no class.

    Returns:
        int64 [K].

    Raises:
        SourceError: some category has no row, or one of several of its name; the first few are named.
    """
    if all(0 < each.id < len(class_names) and class_names[each.id] == each.name for each in data.categories):
        return np.array([each.id for each in data.categories], np.int64)
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(class_names):
        if row:
            rows.setdefault(name, []).append(row)
    _require_one_row(data, rows, len(class_names))
    found = np.array([rows[each.name][0] for each in data.categories], np.int64)
    if len(np.unique(found)) < len(found):
        raise SourceError(f"several of the {len(found):,} categories have one name, so names don't tell their rows")
    return found


def _require_one_row(data: DetectionData, rows: Mapping[str, list[int]], classes: int) -> None:
    wrong = [
        f"{each.name!r} (category_id {each.id}) has {'several rows' if each.name in rows else 'no row'}"
        for each in data.categories
        if len(rows.get(each.name, ())) != 1
    ]
    if wrong:
        is_lost = any(each.name not in rows for each in data.categories)
        raise SourceError(
            f"{len(wrong):,} of {len(data.categories):,} categories don't fit the vocabulary of {classes:,} rows: "
            f"{'; '.join(wrong[:_SHOWN])}{'; ...' if len(wrong) > _SHOWN else ''}. "
            f"{_ADVICE if is_lost else 'Give each category a name of its own'}"
        )


def with_rows(data: DetectionData, rows: NDArray[np.int64]) -> DetectionData:
    """The same pictures and boxes, with the rows of `rows_of_categories` in the place of category ids."""
    ids = np.array([each.id for each in data.categories], np.int64)
    categories = [replace(each, id=row) for each, row in zip(data.categories, rows.tolist(), strict=True)]
    return replace(
        data,
        category_ids=rows[np.searchsorted(ids, data.category_ids)],
        categories=tuple(sorted(categories, key=lambda each: each.id)),
    )


def ids_of_rows(data: DetectionData, rows: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """The `category_id` of each of C rows of a vocabulary, given the rows [K] of `rows_of_categories`.

    Returns:
        int64 [C]. A row that the dataset has not is its own id where ids are rows, `NO_CATEGORY` otherwise.
    """
    known = np.array([each.id for each in data.categories], np.int64)
    ids = np.arange(classes) if np.array_equal(known, rows) else np.full(classes, NO_CATEGORY, np.int64)
    ids[rows] = known
    return ids


@dataclass(frozen=True, eq=False)
class ScoredSplit:
    """Pictures that a detector is scored on.

    Attributes:
        data: with the ids of the annotations.
        category_ids: int64 [C], of `ids_of_rows` for the detector's vocabulary.
    """

    data: DetectionData
    category_ids: NDArray[np.int64]


def scored_split(data: DetectionData, class_names: Sequence[str]) -> ScoredSplit:
    """A split to be scored on by a detector of these classes.

    Raises:
        SourceError: some category of it is none of the classes.
    """
    return ScoredSplit(data, ids_of_rows(data, rows_of_categories(data, class_names), len(class_names)))
