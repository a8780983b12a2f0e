"""Where each sample and view lies in its shard: one parquet file a shard, read lazily."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from richsem_schemas.errors import CorruptCacheError
from richsem_schemas.places import Place, RemotePath

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
    """Rows of a shard's picture index, in the order of its tar."""
    return [PictureRow(*row) for row in _read(path, PICTURE_COLUMNS)]


def read_view_index(path: Place) -> list[ViewRow]:
    """Rows of a shard's view index, in the order of its tar."""
    return [ViewRow(*row) for row in _read(path, VIEW_COLUMNS)]


def read_picture_columns(path: Place) -> PictureColumns:
    """The columns of a shard's picture index."""
    return PictureColumns(*_read_columns(path, PICTURE_COLUMNS))


def read_view_columns(path: Place) -> ViewColumns:
    """The columns of a shard's view index."""
    return ViewColumns(*_read_columns(path, VIEW_COLUMNS))


def parquet_source(path: Place) -> Path | BytesIO:
    """What pyarrow reads an index from."""
    return BytesIO(path.read_bytes()) if isinstance(path, RemotePath) else path


def _read(path: Place, schema: pa.Schema) -> list[tuple]:
    with _readable(path):
        return list(zip(*(column.to_pylist() for column in _read_table(path, schema).columns), strict=True))


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
        raise CorruptCacheError(f"{path}: not a readable index ({error})") from None


def _read_table(path: Place, schema: pa.Schema) -> pa.Table:
    # `read_table` loads Arrow's datasets, two seconds for a process that reads nothing else.
    with pq.ParquetFile(parquet_source(path)) as file:
        table = file.read()
    if table.schema.names != schema.names or table.schema.types != schema.types:
        raise ValueError("its columns are not those of a version 1 index")
    if any(column.null_count for column in table.columns):
        raise ValueError("it has empty cells")
    return table
