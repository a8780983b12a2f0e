import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from richsem_schemas.annotations import DetectionData
from richsem_schemas.cache.listed_boxes import ListedBoxes
from richsem_schemas.errors import ManifestMismatchError
from richsem_train.data.cache.alignment import joined_by_name, require_same_boxes
from richsem_train.data.cache.nearest import ABSENT


def names(*files):
    return pa.chunked_array([pa.array([file.encode() for file in files], pa.binary())])


def test_whole_names_join_first():
    assert joined_by_name(["a/1.jpg", "b/1.jpg", "c/1.jpg"], names("b/1.jpg", "a/1.jpg")).tolist() == [1, 0, ABSENT]


def test_last_parts_join_where_folders_differ_and_names_tell_pictures_apart():
    assert joined_by_name(["1.jpg", "3.jpg"], names("train/2.jpg", "val/1.jpg")).tolist() == [1, ABSENT]
    assert joined_by_name(["x/1.jpg", "x/2.jpg"], names("train/1.jpg", "val/1.jpg")).tolist() == [ABSENT, ABSENT]


def many(pictures, boxes):
    """A dataset and its listing, which is in another order."""
    rng = np.random.default_rng(0)
    counts = rng.multinomial(boxes, np.ones(pictures) / pictures)
    offsets = np.concatenate([[0], counts.cumsum()])
    xywh = np.concatenate([rng.uniform(0, 300, (boxes, 2)), rng.uniform(1, 200, (boxes, 2))], 1).astype(np.float32)
    rows = rng.integers(1, 1204, boxes)
    files = tuple(f"train2017/{index:012d}.jpg" for index in range(pictures))
    hws = np.full((pictures, 2), 640, np.int32)
    data = DetectionData(Path(), files, np.arange(pictures), hws, offsets, xywh, rows, (), {})
    order = rng.permutation(pictures)
    moved = np.concatenate([np.arange(offsets[index], offsets[index + 1]) for index in order])
    xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)[moved]
    listed = ListedBoxes(
        names(*(files[index] for index in order)),
        np.concatenate([[0], counts[order].cumsum()]),
        xyxy,
        rows[moved].astype(np.int32),
        hws,
        np.arange(pictures),
    )
    return data, listed, order


def test_lvis_is_compared_in_bounded_memory():
    data, listed, order = many(100_000, 1_270_000)
    rows = np.arange(1204)
    tracemalloc.start()
    joined = joined_by_name(data.files, listed.files)
    require_same_boxes(data, listed, joined, rows, where="caches/lvis")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * 2**20
    np.testing.assert_array_equal(order[joined], np.arange(100_000))
    listed.boxes_xyxy[777_777, 2] += 0.5
    with pytest.raises(ManifestMismatchError, match=r"caches/lvis has other annotations .* 1 of 100,000 pictures"):
        require_same_boxes(data, listed, joined, rows, where="caches/lvis")


def test_rows_outside_of_the_caches_vocabulary_differ():
    data, listed, _ = many(10, 40)
    joined = joined_by_name(data.files, listed.files)
    with pytest.raises(ManifestMismatchError, match=r"of row -1 there, .* of row \d+ here"):
        require_same_boxes(data, listed, joined, np.arange(2), where="x")


def test_boxes_in_another_order_are_found_where_they_are_listed():
    data, listed, order = many(50, 400)
    joined = joined_by_name(data.files, listed.files)
    rng = np.random.default_rng(1)
    for there in range(0, 50, 2):
        part = slice(listed.offsets[there], listed.offsets[there + 1])
        turned = rng.permutation(part.stop - part.start)
        listed.boxes_xyxy[part], listed.rows[part] = listed.boxes_xyxy[part][turned], listed.rows[part][turned]
    found = require_same_boxes(data, listed, joined, np.arange(1204), where="x")
    corners = data.boxes_xywh_px.copy()
    corners[:, 2:] += corners[:, :2]
    for picture in range(50):
        part = slice(data.offsets[picture], data.offsets[picture + 1])
        first = listed.offsets[joined[picture]]
        np.testing.assert_array_equal(listed.boxes_xyxy[first + found[part]], corners[part])
        if joined[picture] % 2:
            assert found[part].tolist() == list(range(part.stop - part.start))
    assert order.tolist() != sorted(order)
