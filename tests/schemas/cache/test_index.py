import os
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from richsem_schemas.cache.index import (
    PICTURE_ROW,
    VIEW_ROW,
    index_bytes,
    member_names,
    read_index,
    read_raw_index,
    view_names,
)
from richsem_schemas.errors import CorruptCacheError
from richsem_schemas.io.files import hash_bytes

PICTURES = np.array(
    [
        (f"000003-{sample:05d}", sample, 7, f"größe/a b.{sample}.JPEG", "jpg", 480, 640, 512 + 2**33, 1_000, 99, 55)
        for sample in range(5)
    ],
    PICTURE_ROW,
)
VIEWS = np.array(
    [
        (f"000003-{sample:05d}", sample, kind, pass_index, 4, 3, 2**40 + sample, 9_000)
        for sample in range(4)
        for kind, pass_index in (("crop", 0), ("mosaic", 2))
    ],
    VIEW_ROW,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.parquet"


def test_picture_rows_read_back_in_order(path):
    path.write_bytes(index_bytes(PICTURES))
    rows = read_index(path, PICTURE_ROW)
    assert (rows.dtype, rows.tolist()) == (PICTURE_ROW, PICTURES.tolist())
    assert rows[2]["name"] == "größe/a b.2.JPEG"
    assert rows[0]["offset"] == 512 + 2**33


def test_view_rows_read_back_in_order(path):
    path.write_bytes(index_bytes(VIEWS))
    rows = read_index(path, VIEW_ROW)
    assert (rows.dtype, rows.tolist()) == (VIEW_ROW, VIEWS.tolist())
    assert member_names(rows[:2]) == ["crop-0.npy", "mosaic-2.npy"]
    assert view_names(rows[1:2]) == ["000003-00000.mosaic-2.npy"]


def test_a_nul_at_the_end_of_a_name_is_kept(path):
    rows = PICTURES.copy()
    rows["name"][0] = "a\0"
    path.write_bytes(index_bytes(rows))
    assert read_index(path, PICTURE_ROW)["name"][0] == "a\0"


@pytest.mark.parametrize("row_dtype", [PICTURE_ROW, VIEW_ROW])
def test_a_shard_without_rows_has_an_index(path, row_dtype):
    path.write_bytes(index_bytes(np.empty(0, row_dtype)))
    assert len(read_index(path, row_dtype)) == 0


def test_plain_parquet_readers_see_the_columns(path):
    path.write_bytes(index_bytes(VIEWS))
    table = pq.read_table(path)
    assert table.schema.names == list(VIEW_ROW.names)
    assert [str(kind) for kind in table.schema.types] == ["string", "int32", "string", *["int32"] * 3, *["int64"] * 2]
    assert table.column("pass").to_pylist() == VIEWS["pass"].tolist()


def test_the_same_rows_give_the_same_bytes():
    assert index_bytes(PICTURES) == index_bytes(PICTURES.copy())


def test_the_other_index_is_refused(path):
    for rows, other in ((VIEWS, PICTURE_ROW), (PICTURES, VIEW_ROW)):
        path.write_bytes(index_bytes(rows))
        with pytest.raises(CorruptCacheError, match="columns are not those"):
            read_index(path, other)


def test_an_index_that_is_not_the_expected_one_is_refused(path):
    path.write_bytes(index_bytes(VIEWS))
    assert len(read_index(path, VIEW_ROW, hash_bytes(index_bytes(VIEWS)))) == len(VIEWS)
    with pytest.raises(CorruptCacheError, match=r"a\.parquet: its bytes don't match its receipt"):
        read_index(path, VIEW_ROW, hash_bytes(index_bytes(VIEWS[:-1])))


@pytest.mark.parametrize(
    ("rows", "column", "value", "message"),
    [
        (VIEWS, "kind", "brop", "'brop' is no kind of view"),
        (VIEWS, "offset", -1, "row 1: offset is -1; it must lie in 0.."),
        (VIEWS, "size", 2**62, "row 1: size is"),
        (VIEWS, "key", "x", "row 1: 'x' is not the key of sample 0"),
        (VIEWS, "sample", 1, "row 1: '000003-00000' is not the key of sample 1"),
        (PICTURES, "offset", -2, "row 1: offset is -2; it must lie in -1.."),
        (PICTURES, "height", 0, "row 1: height is 0"),
    ],
)
def test_a_cell_that_cant_be_right_is_refused_but_read_raw(path, rows, column, value, message):
    broken = rows.copy()
    broken[column][1] = value
    path.write_bytes(index_bytes(broken))
    with pytest.raises(CorruptCacheError, match=message.replace(".", r"\.")):
        read_index(path, rows.dtype)
    assert read_raw_index(path, rows.dtype)[column][1] == value


@pytest.mark.parametrize("rows", [VIEWS, PICTURES])
def test_a_row_that_stands_twice_is_refused(path, rows):
    path.write_bytes(index_bytes(rows[[0, 1, 0]]))
    with pytest.raises(CorruptCacheError, match="row 2 repeats an earlier one: 000003-00000"):
        read_index(path, rows.dtype)


def test_other_types_other_orders_and_empty_cells_are_refused(path):
    path.write_bytes(index_bytes(VIEWS))
    table = pq.read_table(path)
    wrong = {
        "another type": table.set_column(1, "sample", pa.array(range(8), pa.int64())),
        "another order": table.select([1, 0, *range(2, 8)]),
        "a column more": table.append_column("more", pa.array(range(8))),
        "a column less": table.drop_columns(["size"]),
        "another name": table.rename_columns([*VIEW_ROW.names[:-1], "bytes"]),
    }
    for broken in wrong.values():
        pq.write_table(broken, path)
        with pytest.raises(CorruptCacheError, match="columns are not those"):
            read_index(path, VIEW_ROW)
    pq.write_table(table.set_column(1, "sample", pa.array([None] * 8, pa.int32())), path)
    with pytest.raises(CorruptCacheError, match="empty cells"):
        read_index(path, VIEW_ROW)


def test_every_truncation_is_found(path):
    data = index_bytes(VIEWS)
    path.write_bytes(data)
    for length in reversed(range(len(data))):
        os.truncate(path, length)
        with pytest.raises(CorruptCacheError):
            read_index(path, VIEW_ROW)


def test_damaged_bytes_raise_nothing_but_a_corrupt_cache(path):
    # Parquet has no checksum of its own: receipts tell changed values, a reader must only not break.
    data = index_bytes(PICTURES)
    rng = random.Random(0)
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= rng.randrange(1, 256)
        path.write_bytes(damaged)
        try:
            read_index(path, PICTURE_ROW)
        except CorruptCacheError:
            continue


def test_names_that_are_no_text_are_a_corrupt_cache(path):
    path.write_bytes(index_bytes(PICTURES))
    no_text = pa.array([b"\xff\xfe"] * 5, pa.binary()).view(pa.string())
    pq.write_table(pq.read_table(path).set_column(3, "name", no_text), path, store_schema=False)
    with pytest.raises(CorruptCacheError):
        read_index(path, PICTURE_ROW)


def test_no_parquet_file_is_a_corrupt_cache(path):
    for content in (b"", b"PAR1", b"PAR1PAR1", bytes(1_000), b"PAR1" + bytes(100) + b"\xff\xff\xff\x7fPAR1"):
        path.write_bytes(content)
        with pytest.raises(CorruptCacheError, match=r"a\.parquet"):
            read_index(path, VIEW_ROW)


def test_a_missing_index_is_told_from_a_damaged_one(path):
    with pytest.raises(FileNotFoundError):
        read_index(path, VIEW_ROW)


def test_names_with_equal_signs_in_the_path_add_no_columns(tmp_path):
    # Parquet readers take `key=value` folders for partitions.
    path = tmp_path / "set=RN50" / "a.parquet"
    path.parent.mkdir()
    path.write_bytes(index_bytes(VIEWS))
    assert len(read_index(path, VIEW_ROW)) == len(VIEWS)
