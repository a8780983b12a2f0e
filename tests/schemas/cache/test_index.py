import os
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from richsem_schemas.cache.index import (
    PICTURE_COLUMNS,
    VIEW_COLUMNS,
    PictureRow,
    ViewRow,
    index_bytes,
    read_picture_index,
    read_view_index,
)
from richsem_schemas.errors import CorruptCacheError

PICTURES = [
    (f"000003-{sample:05d}", sample, 7, f"größe/a b.{sample}.JPEG", "jpg", 480, 640, 512 + 2**33, 1_000, 99, 55)
    for sample in range(5)
]
VIEWS = [
    (f"000003-{sample:05d}", sample, kind, pass_index, 4, 3, 2**40 + sample, 9_000)
    for sample in range(4)
    for kind, pass_index in (("crop", 0), ("mosaic", 2))
]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.parquet"


def test_picture_rows_read_back_in_order(path):
    path.write_bytes(index_bytes(PICTURES, PICTURE_COLUMNS))
    rows = read_picture_index(path)
    assert rows == [PictureRow(*row) for row in PICTURES]
    assert rows[2].name == "größe/a b.2.JPEG"
    assert rows[0].offset == 512 + 2**33


def test_view_rows_read_back_in_order(path):
    path.write_bytes(index_bytes(VIEWS, VIEW_COLUMNS))
    rows = read_view_index(path)
    assert rows == [ViewRow(*row) for row in VIEWS]
    assert [row.member for row in rows[:2]] == ["crop-0.npy", "mosaic-2.npy"]


@pytest.mark.parametrize("schema", [PICTURE_COLUMNS, VIEW_COLUMNS])
def test_a_shard_without_rows_has_an_index(path, schema):
    path.write_bytes(index_bytes([], schema))
    assert (read_picture_index if schema is PICTURE_COLUMNS else read_view_index)(path) == []


def test_plain_parquet_readers_see_the_columns(path):
    path.write_bytes(index_bytes(VIEWS, VIEW_COLUMNS))
    table = pq.read_table(path)
    assert table.schema.names == VIEW_COLUMNS.names
    assert table.column("pass").to_pylist() == [row[3] for row in VIEWS]


def test_the_same_rows_give_the_same_bytes():
    assert index_bytes(PICTURES, PICTURE_COLUMNS) == index_bytes(list(PICTURES), PICTURE_COLUMNS)


def test_rows_of_another_width_are_refused():
    with pytest.raises(ValueError, match="zip"):
        index_bytes([VIEWS[0][:-1]], VIEW_COLUMNS)


def test_the_other_index_is_refused(path):
    path.write_bytes(index_bytes(VIEWS, VIEW_COLUMNS))
    with pytest.raises(CorruptCacheError, match="columns are not those"):
        read_picture_index(path)
    path.write_bytes(index_bytes(PICTURES, PICTURE_COLUMNS))
    with pytest.raises(CorruptCacheError, match="columns are not those"):
        read_view_index(path)


def test_other_types_other_orders_and_empty_cells_are_refused(path):
    table = pa.Table.from_arrays(
        [pa.array([row[i] for row in VIEWS], VIEW_COLUMNS.field(i).type) for i in range(len(VIEW_COLUMNS))],
        schema=VIEW_COLUMNS,
    )
    wrong = {
        "another type": table.set_column(1, "sample", pa.array(range(8), pa.int64())),
        "another order": table.select([1, 0, *range(2, 8)]),
        "a column more": table.append_column("more", pa.array(range(8))),
        "a column less": table.drop_columns(["size"]),
        "another name": table.rename_columns([*VIEW_COLUMNS.names[:-1], "bytes"]),
    }
    for broken in wrong.values():
        pq.write_table(broken, path)
        with pytest.raises(CorruptCacheError, match="columns are not those"):
            read_view_index(path)
    pq.write_table(table.set_column(1, "sample", pa.array([None] * 8, pa.int32())), path)
    with pytest.raises(CorruptCacheError, match="empty cells"):
        read_view_index(path)


def test_every_truncation_is_found(path):
    data = index_bytes(VIEWS, VIEW_COLUMNS)
    path.write_bytes(data)
    for length in reversed(range(len(data))):
        os.truncate(path, length)
        with pytest.raises(CorruptCacheError):
            read_view_index(path)


def test_damaged_bytes_raise_nothing_but_a_corrupt_cache(path):
    # Parquet has no checksum of its own: receipts tell changed values, a reader must only not break.
    data = index_bytes(PICTURES, PICTURE_COLUMNS)
    rng = random.Random(0)
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= rng.randrange(1, 256)
        path.write_bytes(damaged)
        try:
            read_picture_index(path)
        except CorruptCacheError:
            continue


def test_names_that_are_no_text_are_a_corrupt_cache(path):
    columns = [pa.array([row[i] for row in PICTURES], PICTURE_COLUMNS.field(i).type) for i in range(11)]
    columns[3] = pa.array([b"\xff\xfe"] * 5, pa.binary()).view(pa.string())
    pq.write_table(pa.Table.from_arrays(columns, schema=PICTURE_COLUMNS), path)
    with pytest.raises(CorruptCacheError):
        read_picture_index(path)


def test_no_parquet_file_is_a_corrupt_cache(path):
    for content in (b"", b"PAR1", b"PAR1PAR1", bytes(1_000), b"PAR1" + bytes(100) + b"\xff\xff\xff\x7fPAR1"):
        path.write_bytes(content)
        with pytest.raises(CorruptCacheError, match=r"a\.parquet"):
            read_view_index(path)


def test_a_missing_index_is_told_from_a_damaged_one(path):
    with pytest.raises(FileNotFoundError):
        read_view_index(path)


def test_names_with_equal_signs_in_the_path_add_no_columns(tmp_path):
    # Parquet readers take `key=value` folders for partitions.
    path = tmp_path / "set=RN50" / "a.parquet"
    path.parent.mkdir()
    path.write_bytes(index_bytes(VIEWS, VIEW_COLUMNS))
    assert len(read_view_index(path)) == len(VIEWS)
