"""Columns of a list of JSON records as arrays, with an error that names the first record that doesn't fit."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.errors import SourceError

Records = Sequence[dict[str, Any]]
"""Entries of one list of the file."""


class RecordList(list[dict[str, Any]]):
    """Records of one list of a file: the list's name, and where in it the first of them stands.

    Raises:
        SourceError: something else than objects is among them.
    """

    def __init__(self, name: str, records: list[Any], path: Path, *, start: int = 0):
        super().__init__(records)
        self.name = name
        self.start = start
        for position, record in enumerate(records, start):
            if type(record) is not dict:
                raise SourceError(
                    f"{path}: {name}[{position}] is of type {type(record).__name__}; it must be an object"
                )


def integer_column(records: Records, key: str, path: Path) -> NDArray[np.int64]:
    """The integers under `key`, int64 [N].

    Raises:
        SourceError: a record has none.
    """
    column = _column(records, key, path, np.int64, lambda value: type(value) is int and abs(value) < 2**63)
    return column.astype(np.int64).reshape(-1)


def number_column(records: Records, key: str, path: Path, *, default: float) -> NDArray[np.float64]:
    """The numbers under `key`, float64 [N]; `default` where there is no such key.

    Raises:
        SourceError: something else than a number stands there.
    """
    column = _column(records, key, path, np.float64, _is_number, default=default)
    return column.reshape(-1)


def number_rows(records: Records, key: str, width: int, path: Path) -> NDArray[np.float64]:
    """The lists of `width` numbers under `key`, float64 [N, width].

    Raises:
        SourceError: a record has none.
    """

    def is_row(value: object) -> bool:
        return isinstance(value, list) and len(value) == width and all(_is_number(number) for number in value)

    return _column(records, key, path, np.float64, is_row, shape=(width,), what=f"a list of {width} numbers")


_MISSING = object()


def _column(
    records: Records,
    key: str,
    path: Path,
    dtype: type[np.generic],
    is_valid: Callable[[object], bool],
    *,
    shape: tuple[int, ...] = (),
    default: object = _MISSING,
    what: str = "",
) -> NDArray[Any]:
    """Try all values at once, since a dataset has millions; look for the culprit only where that fails."""
    values = [record.get(key, default) for record in records]
    if not values:
        return np.zeros((0, *shape), dtype)
    try:
        column = np.array(values)
    except (ValueError, OverflowError):
        column = np.array(None)
    kinds = "i" if np.issubdtype(dtype, np.integer) else "iufb"
    if column.dtype.kind in kinds and column.shape[1:] == shape and column.ndim == 1 + len(shape):
        return column.astype(dtype)
    for position, value in enumerate(values):
        if not is_valid(value):
            what = what or ("an integer" if kinds == "i" else "a number")
            found = "none" if value is _MISSING else repr(value)[:80]
            raise SourceError(f"{path}: `{key}` of {_place(records, position)} must be {what}; it is {found}")
    return np.array(values, dtype=dtype)


def _place(records: Records, position: int) -> str:
    if isinstance(records, RecordList):
        return f"{records.name}[{records.start + position}]"
    return f"records[{position}]"


def _is_number(value: object) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)


def picture_sizes(records: Records, path: Path) -> NDArray[np.int32]:
    """Heights and widths of records, int32 [N, 2].

    Raises:
        SourceError: a record has none, or an impossible one.
    """
    sizes = np.stack([integer_column(records, "height", path), integer_column(records, "width", path)], axis=1)
    wrong = np.flatnonzero(((sizes < 1) | (sizes > np.iinfo(np.int32).max)).any(axis=1))
    if len(wrong):
        height, width = sizes[wrong[0]]
        raise SourceError(
            f"{path}: {_place(records, int(wrong[0]))} has height {height} and width {width}; both are pixels from 1"
        )
    return sizes.astype(np.int32)


def check_unique(ids: NDArray[np.int64], what: str, path: Path) -> None:
    """Check that no id stands there twice.

    Raises:
        SourceError: one does.
    """
    values, counts = np.unique(ids, return_counts=True)
    if len(values) < len(ids):
        raise SourceError(f"{path}: {what} id {values[counts > 1][0]} stands there more than once; ids are unique")
