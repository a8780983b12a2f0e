"""Where each sample and view lies in its shard: one parquet file a shard, read lazily."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from richsem_schemas.cache.layout import sample_key
from richsem_schemas.cache.view import VIEW_KINDS
from richsem_schemas.errors import CorruptCacheError
from richsem_schemas.io.files import read_file
from richsem_schemas.io.places import Place, RemotePath
from richsem_schemas.pictures.decode import MAX_PICTURE_BYTES
from richsem_schemas.pictures.limits import MAX_PICTURE_SIDE

MAX_INDEX_BYTES = 2**28
"""Largest index that is read; that of a hundred thousand views has some megabytes."""

PICTURE_COLUMNS = pa.schema(
    [
        ("key", pa.string()),
        ("sample", pa.int32()),
        ("category_id", pa.int32()),
        ("name", pa.string()),
        ("extension", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("json_offset", pa.int64()),
        ("json_size", pa.int64()),
    ]
)
"""A row a picture. Offsets count bytes from the start of the tar to the member's data; where the cache refers to
originals, `offset` is -1 and KEY.json says where the picture lies. Sizes in bytes, sides in pixels after rotation."""

VIEW_COLUMNS = pa.schema(
    [
        ("key", pa.string()),
        ("sample", pa.int32()),
        ("kind", pa.string()),
        ("pass", pa.int32()),
        ("tiles", pa.int32()),
        ("regions", pa.int32()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
    ]
)
"""A row a view, in the order of the tar."""


_REMEDY = "`richsem-prep verify` says how to make the shard anew"

_SAMPLES = (0, 99_999)
"""As many as a key's five digits can count."""

_PLACES = (0, 2**60)
"""Of anything in a tar, bytes: far from where sums overflow."""

_MOST = 2**31 - 1
_PICTURE_BOUNDS = {
    "sample": _SAMPLES,
    "category_id": (0, _MOST),
    "height": (1, MAX_PICTURE_SIDE),
    "width": (1, MAX_PICTURE_SIDE),
    "offset": (-1, 2**60),
    "size": (0, MAX_PICTURE_BYTES),
    "json_offset": _PLACES,
    "json_size": _PLACES,
}
_VIEW_BOUNDS = {
    "sample": _SAMPLES,
    "pass": (0, _MOST),
    "tiles": (0, _MOST),
    "regions": (0, _MOST),
    "offset": _PLACES,
    "size": _PLACES,
}


@dataclass(frozen=True, slots=True)
class PictureRow:
    """One row of `PICTURE_COLUMNS`."""

    key: str
    sample: int
    category_id: int
    name: str
    extension: str
    height: int
    width: int
    offset: int
    size: int
    json_offset: int
    json_size: int


@dataclass(frozen=True, slots=True)
class ViewRow:
    """One row of `VIEW_COLUMNS`."""

    key: str
    sample: int
    kind: str
    pass_index: int
    tiles: int
    regions: int
    offset: int
    size: int

    @property
    def member(self) -> str:
        """The view's extension in the tar."""
        return f"{self.kind}-{self.pass_index}.npy"


@dataclass(frozen=True, eq=False)
class PictureColumns:
    """A shard's picture index by column, N rows: `PICTURE_COLUMNS` for checks of many rows at once."""

    key: list[str]
    sample: NDArray[np.int32]
    category_id: NDArray[np.int32]
    name: list[str]
    extension: list[str]
    height: NDArray[np.int32]
    width: NDArray[np.int32]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    json_offset: NDArray[np.int64]
    json_size: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.key)


@dataclass(frozen=True, eq=False)
class ViewColumns:
    """A shard's view index by column, N rows: `VIEW_COLUMNS` for checks of many rows at once."""

    key: list[str]
    sample: NDArray[np.int32]
    kind: list[str]
    pass_index: NDArray[np.int32]
    tiles: NDArray[np.int32]
    regions: NDArray[np.int32]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.key)


def index_bytes(rows: list[tuple], schema: pa.Schema) -> bytes:
    """An index file for rows in the order of the schema's columns."""
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(schema)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    sink = BytesIO()
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), sink, compression="zstd", store_schema=False)
    return sink.getvalue()


def read_picture_index(path: Place) -> list[PictureRow]:
    """Rows of a shard's picture index, in the order of its tar.

    Raises:
        FileNotFoundError: it isn't there.
        CorruptCacheError: it is no such index, or a cell of it can't be right.
    """
    with _readable(path):
        table = _read_table(path, PICTURE_COLUMNS)
        _require_sound(table, _PICTURE_BOUNDS)
        _require_distinct(table["key"].to_pylist())
        return [PictureRow(*row) for row in _rows(table)]


def read_view_index(path: Place) -> list[ViewRow]:
    """Rows of a shard's view index, in the order of its tar.

    Raises:
        FileNotFoundError: it isn't there.
        CorruptCacheError: it is no such index, or a cell of it can't be right.
    """
    with _readable(path):
        table = _read_table(path, VIEW_COLUMNS)
        _require_sound(table, _VIEW_BOUNDS)
        rows = [ViewRow(*row) for row in _rows(table)]
        if wrong := sorted({row.kind for row in rows}.difference(VIEW_KINDS)):
            raise ValueError(f"{wrong[0]!r} is no kind of view")
        _require_distinct([(row.key, row.kind, row.pass_index) for row in rows])
        return rows


def read_picture_columns(path: Place) -> PictureColumns:
    """The columns of a shard's picture index, as they are: for `verify`, which names each cell that is wrong."""
    return PictureColumns(*_read_columns(path, PICTURE_COLUMNS))


def read_view_columns(path: Place) -> ViewColumns:
    """The columns of a shard's view index, likewise."""
    return ViewColumns(*_read_columns(path, VIEW_COLUMNS))


def parquet_source(path: Place) -> BytesIO:
    """What pyarrow reads an index from.

    Raises:
        CorruptCacheError: it is no regular file, or larger than any index.
    """
    # At a URL by the one call that the trainer's local copy answers.
    return BytesIO(read_file(path, limit=None if isinstance(path, RemotePath) else MAX_INDEX_BYTES))


def _rows(table: pa.Table) -> Iterator[tuple]:
    return zip(*(column.to_pylist() for column in table.columns), strict=True)


def _require_sound(table: pa.Table, bounds: Mapping[str, tuple[int, int]]) -> None:
    """Check that numbers lie in their bounds, and that keys are those of one shard and of their samples.

    Raises:
        ValueError: names the first row that is wrong.
    """
    for name, (least, most) in bounds.items():
        values = table[name].to_numpy()
        wrong = np.flatnonzero((values < least) | (values > most))
        if len(wrong):
            raise ValueError(f"row {wrong[0]}: {name} is {values[wrong[0]]}; it must lie in {least}..{most}")
    keys = table["key"].to_pylist()
    shard = keys[0].partition("-")[0] if keys else ""
    if not (shard.isascii() and shard.isdigit() and len(shard) < 10) and keys:
        raise ValueError(f"row 0: {keys[0]!r} is no key")
    for row, (key, sample) in enumerate(zip(keys, table["sample"].to_pylist(), strict=True)):
        if key != sample_key(int(shard), sample):
            raise ValueError(f"row {row}: {key!r} is not the key of sample {sample} of its shard")


def _require_distinct(rows: list[Any]) -> None:
    seen = set()
    for number, row in enumerate(rows):
        if row in seen:
            raise ValueError(f"row {number} repeats an earlier one: {row}")
        seen.add(row)


def _read_columns(path: Place, schema: pa.Schema) -> list[Any]:
    """Strings as lists, numbers as arrays."""
    with _readable(path):
        columns = _read_table(path, schema).columns
        return [column.to_pylist() if pa.types.is_string(column.type) else column.to_numpy() for column in columns]


@contextmanager
def _readable(path: Place) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(path, RemotePath) and isinstance(error, OSError):
            raise  # The network failed, which says nothing about the file.
        raise CorruptCacheError(f"{path}: not a readable index ({_one_line(error)}); {_REMEDY}") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _read_table(path: Place, schema: pa.Schema) -> pa.Table:
    # `read_table` loads Arrow's datasets, two seconds for a process that reads nothing else.
    with pq.ParquetFile(parquet_source(path)) as file:
        table = file.read()
    if table.schema.names != schema.names or table.schema.types != schema.types:
        raise ValueError("its columns are not those of a version 1 index")
    if any(column.null_count for column in table.columns):
        raise ValueError("it has empty cells")
    return table
