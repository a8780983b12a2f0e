"""Where each sample and view lies in its shard: one parquet file a shard, in memory one structured array of rows."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from richsem_schemas.cache.field_types import MAX_SAMPLES_PER_SHARD
from richsem_schemas.cache.layout import sample_key
from richsem_schemas.cache.view import VIEW_KINDS
from richsem_schemas.errors import CorruptCacheError
from richsem_schemas.io.files import FileHash, hash_bytes, read_file
from richsem_schemas.io.places import Place, RemotePath
from richsem_schemas.io.words import one_line
from richsem_schemas.pictures.decode import MAX_PICTURE_BYTES
from richsem_schemas.pictures.limits import MAX_PICTURE_SIDE

MAX_INDEX_BYTES = 2**28
"""Largest index that is read; that of a hundred thousand views has some megabytes."""

Rows: TypeAlias = NDArray[np.void]
"""A structured array of `PICTURE_ROW` or `VIEW_ROW`, in the order of the shard's tar; fields are parquet's columns."""

PICTURE_ROW = np.dtype(
    [
        ("key", object),
        ("sample", "<i4"),
        ("category_id", "<i4"),
        ("name", object),
        ("extension", object),
        ("height", "<i4"),
        ("width", "<i4"),
        ("offset", "<i8"),
        ("size", "<i8"),
        ("json_offset", "<i8"),
        ("json_size", "<i8"),
    ]
)
"""A row a picture; objects are strings. Offsets count bytes from the start of the tar to the member's data; where the
cache refers to originals, `offset` is -1 and KEY.json says where the picture lies. Sizes in bytes, sides in pixels
after rotation."""

VIEW_ROW = np.dtype(
    [
        ("key", object),
        ("sample", "<i4"),
        ("kind", object),
        ("pass", "<i4"),
        ("tiles", "<i4"),
        ("regions", "<i4"),
        ("offset", "<i8"),
        ("size", "<i8"),
    ]
)
"""A row a view; `key` and `sample` are those of its first tile."""


def index_schema(row_dtype: np.dtype) -> pa.Schema:
    """The parquet columns of an index."""
    return pa.schema(
        [
            (name, pa.string() if row_dtype[name].hasobject else pa.from_numpy_dtype(row_dtype[name]))
            for name in row_dtype.names or ()
        ]
    )


_REMEDY = "`richsem-prep verify` says how to make the shard anew"

_SAMPLES = (0, MAX_SAMPLES_PER_SHARD - 1)

_PLACES = (0, 2**60)
"""Of anything in a tar, bytes: far from where sums overflow."""

_MOST = 2**31 - 1
_BOUNDS: dict[np.dtype, dict[str, tuple[int, int]]] = {
    PICTURE_ROW: {
        "sample": _SAMPLES,
        "category_id": (0, _MOST),
        "height": (1, MAX_PICTURE_SIDE),
        "width": (1, MAX_PICTURE_SIDE),
        "offset": (-1, 2**60),
        "size": (0, MAX_PICTURE_BYTES),
        "json_offset": _PLACES,
        "json_size": _PLACES,
    },
    VIEW_ROW: {
        "sample": _SAMPLES,
        "pass": (0, _MOST),
        "tiles": (0, _MOST),
        "regions": (0, _MOST),
        "offset": _PLACES,
        "size": _PLACES,
    },
}


def index_bytes(rows: Rows) -> bytes:
    """The content of an index file."""
    schema = index_schema(rows.dtype)
    arrays = [pa.array(rows[field.name].tolist(), field.type) for field in schema]
    sink = BytesIO()
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), sink, compression="zstd", store_schema=False)
    return sink.getvalue()


def read_index(path: Place, row_dtype: np.dtype, expected: FileHash | None = None) -> Rows:
    """The rows of a shard's index, checked: numbers in their bounds, keys of one shard, no row twice.

    Size and hash of the file are checked where they are known.

    Raises:
        FileNotFoundError: it isn't there.
        CorruptCacheError: it is no such index, not the expected one, or a cell of it can't be right.
    """
    with _readable(path):
        rows = _read_rows(path, row_dtype, expected)
        _require_sound(rows)
        return rows


def read_raw_index(path: Place, row_dtype: np.dtype) -> Rows:
    """The rows of a shard's index as they are, for a reader that names each cell that is wrong.

    Raises:
        FileNotFoundError: it isn't there.
        CorruptCacheError: it is no such index.
    """
    with _readable(path):
        return _read_rows(path, row_dtype, None)


def member_names(rows: Rows) -> list[str]:
    """The extension in the tar of each of some views, such as `mosaic-0.npy`."""
    return [f"{kind}-{number}.npy" for kind, number in zip(rows["kind"].tolist(), rows["pass"].tolist(), strict=True)]


def view_names(rows: Rows) -> list[str]:
    """The member in the tar of each of some views, such as `000000-00012.mosaic-0.npy`."""
    return [f"{key}.{member}" for key, member in zip(rows["key"].tolist(), member_names(rows), strict=True)]


def parquet_source(path: Place) -> BytesIO:
    """An index as pyarrow reads it.

    Raises:
        CorruptCacheError: it is no regular file, or larger than any index.
    """
    # At a URL by the one call that the trainer's local copy answers.
    return BytesIO(read_file(path, limit=None if isinstance(path, RemotePath) else MAX_INDEX_BYTES))


def _require_sound(rows: Rows) -> None:
    for name, (least, most) in _BOUNDS[rows.dtype].items():
        values = rows[name]
        wrong = np.flatnonzero((values < least) | (values > most))
        if len(wrong):
            raise ValueError(f"row {wrong[0]}: {name} is {values[wrong[0]]}; it must lie in {least}..{most}")
    if not len(rows):
        return
    _require_keys(rows)
    is_view = rows.dtype == VIEW_ROW
    if is_view and (unknown := sorted(set(rows["kind"].tolist()).difference(VIEW_KINDS))):
        raise ValueError(f"{unknown[0]!r} is no kind of view")
    _require_distinct(view_names(rows) if is_view else rows["key"].tolist())


def _require_keys(rows: Rows) -> None:
    keys, samples = rows["key"].tolist(), rows["sample"].tolist()
    shard = keys[0].partition("-")[0]
    if not (shard.isascii() and shard.isdigit() and len(shard) < 10):
        raise ValueError(f"row 0: {keys[0]!r} is no key")
    for row, (key, sample) in enumerate(zip(keys, samples, strict=True)):
        if key != sample_key(int(shard), sample):
            raise ValueError(f"row {row}: {key!r} is not the key of sample {sample} of its shard")


def _require_distinct(names: list[str]) -> None:
    if len(set(names)) == len(names):
        return
    first: dict[str, int] = {}
    for row, name in enumerate(names):
        if first.setdefault(name, row) != row:
            raise ValueError(f"row {row} repeats an earlier one: {name}")


@contextmanager
def _readable(path: Place) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(path, RemotePath) and isinstance(error, OSError):
            raise  # The network failed, which says nothing about the file.
        reason = one_line(error, longest=200)
        raise CorruptCacheError(f"{path}: not a readable index ({reason}); {_REMEDY}") from None


def _read_rows(path: Place, row_dtype: np.dtype, expected: FileHash | None) -> Rows:
    source = parquet_source(path)
    if expected is not None and hash_bytes(source.getvalue()) != expected:
        raise CorruptCacheError(f"{path}: its bytes don't match its receipt; {_REMEDY}")
    # `read_table` loads Arrow's datasets, two seconds for a process that reads nothing else.
    with pq.ParquetFile(source) as file:
        table = file.read()
    schema = index_schema(row_dtype)
    if table.schema.names != schema.names or table.schema.types != schema.types:
        raise ValueError("its columns are not those of a version 1 index")
    if any(column.null_count for column in table.columns):
        raise ValueError("it has empty cells")
    rows: Rows = np.empty(len(table), row_dtype)
    for name in schema.names:
        rows[name] = table[name].to_numpy()
    return rows
