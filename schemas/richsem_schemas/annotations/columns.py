"""Columns of a list of JSON records as arrays, with an error that names the first record that doesn't fit."""

import sys
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from richsem_schemas.errors import SourceError

_MISSING = object()
_LARGEST_INTEGER = 2**63 - 1


class RecordList(list[Any]):
    """Records of one list of a file: the list's name, and where in it the first of them stands.

    Args:
        name: of the list.
        records: objects as JSON has them, or all of them decoded into one type of `msgspec.Struct`.
        path: of the file, for messages.
        start: place of the first one in the list.

    Raises:
        SourceError: something else than objects is among them.
    """

    def __init__(self, name: str, records: list[Any], path: Path, *, start: int = 0):
        super().__init__(records)
        self.name = name
        self.start = start
        self._are_typed = bool(records) and isinstance(records[0], Struct)
        for position, record in enumerate(() if self._are_typed else records, start):
            if type(record) is not dict:
                raise SourceError(
                    f"{path}: {name}[{position}] is of type {type(record).__name__}; it must be an object"
                )

    def values(self, key: str, default: object = None) -> list[Any]:
        """The values under `key`; `default` where there is no such key."""
        if self._are_typed:
            return list(map(attrgetter(key), self))
        return [record.get(key, default) for record in self]

    def place(self, position: int) -> str:
        """A record by its place in the file."""
        return f"{self.name}[{self.start + position}]"


def integer_column(records: RecordList, key: str, path: Path, *, default: int | None = None) -> NDArray[np.int64]:
    """The integers under `key`, int64 [N]; `default`, where it is given, for records without.

    Raises:
        SourceError: a record has none, or one of more than 64 bits.
    """
    return _column(records, key, path, np.int64, _is_integer, default=default)


def number_column(records: RecordList, key: str, path: Path, *, default: float) -> NDArray[np.float64]:
    """The numbers under `key`, float64 [N]; `default` for records without, or with null.

    Raises:
        SourceError: something else than a number stands there.
    """
    return _column(records, key, path, np.float64, _is_number, default=default)


def integer_lists(records: RecordList, key: str, path: Path) -> list[NDArray[np.int64]]:
    """The lists of integers under `key`, one a record.

    Raises:
        SourceError: a record has none.
    """
    return [
        np.array(value, np.int64)
        for value in _valid_values(
            records,
            key,
            path,
            lambda value: isinstance(value, list) and all(map(_is_integer, value)),
            what="a list of integers",
        )
    ]


def number_rows(records: RecordList, key: str, width: int, path: Path) -> NDArray[np.float64]:
    """The lists of `width` numbers under `key`, float64 [N, width].

    Raises:
        SourceError: a record has none.
    """

    def is_row(value: object) -> bool:
        return isinstance(value, list | tuple) and len(value) == width and all(map(_is_number, value))

    return _column(
        records, key, path, np.float64, is_row, shape=(width,), what=f"a list of {width} numbers that floats can hold"
    )


def _column(
    records: RecordList,
    key: str,
    path: Path,
    dtype: type[np.generic],
    is_valid: Callable[[object], bool],
    *,
    default: float | None = None,
    shape: tuple[int, ...] = (),
    what: str = "",
) -> NDArray[Any]:
    """Try all values at once, since a dataset has millions; look for the culprit only where that fails."""
    values = records.values(key, _MISSING)
    if default is not None:
        values = [default if value is None or value is _MISSING else value for value in values]
    if not values:
        return np.zeros((0, *shape), dtype)
    try:
        column = np.array(values)
    except (ValueError, OverflowError):
        column = np.array(None)
    kinds = "i" if np.issubdtype(dtype, np.integer) else "iufb"
    if column.dtype.kind in kinds and column.shape[1:] == shape and column.ndim == 1 + len(shape):
        return column.astype(dtype)
    what = what or ("an integer" if kinds == "i" else "a number")
    return np.array(_valid_values(records, key, path, is_valid, what=what, values=values), dtype=dtype)


def _valid_values(
    records: RecordList,
    key: str,
    path: Path,
    is_valid: Callable[[object], bool],
    *,
    what: str,
    values: list[Any] | None = None,
) -> list[Any]:
    values = records.values(key, _MISSING) if values is None else values
    for position, value in enumerate(values):
        if not is_valid(value):
            found = "none" if value is _MISSING else repr(value)[:80]
            held = f"{what} {_RANGES[is_valid]}" if type(value) is int and is_valid in _RANGES else what
            raise SourceError(f"{path}: `{key}` of {records.place(position)} must be {held}; it is {found}")
    return values


def _is_integer(value: object) -> bool:
    return type(value) is int and -_LARGEST_INTEGER - 1 <= value <= _LARGEST_INTEGER


def _is_number(value: object) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and abs(value) <= sys.float_info.max)


_RANGES: dict[Callable[[object], bool], str] = {
    _is_integer: "from -2^63 to 2^63 - 1",
    _is_number: "of at most 1.8e308",
}


def picture_sizes(records: RecordList, path: Path) -> NDArray[np.int32]:
    """Heights and widths of records, int32 [N, 2].

    Raises:
        SourceError: a record has none, or an impossible one.
    """
    sizes = np.stack([integer_column(records, "height", path), integer_column(records, "width", path)], axis=1)
    wrong = np.flatnonzero(((sizes < 1) | (sizes > np.iinfo(np.int32).max)).any(axis=1))
    if len(wrong):
        height, width = sizes[wrong[0]]
        raise SourceError(
            f"{path}: {records.place(int(wrong[0]))} has height {height} and width {width}; both are pixels from 1"
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
