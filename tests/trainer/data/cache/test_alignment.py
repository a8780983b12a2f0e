import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from richsem_schemas.annotations import DetectionData
from richsem_schemas.cache.listed_boxes import ListedBoxes
from richsem_schemas.errors import CorruptCacheError, ManifestMismatchError
from richsem_schemas.pictures.boxes import xywh_to_xyxy
from richsem_train.data.cache.alignment import joined_by_name, require_listed_boxes
from richsem_train.data.cache.nearest import ABSENT
from richsem_train.data.cache.source import DETECTION
from tests.caches import WindowsCache
from tests.trainer.data.datasets import aligned, opened, rewritten, stored_of


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
    listed = ListedBoxes(
        names(*(files[index] for index in order)),
        np.concatenate([[0], counts[order].cumsum()]),
        xywh_to_xyxy(xywh)[moved],
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
    require_listed_boxes(data, listed, joined, rows, where="caches/lvis")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * 2**20
    np.testing.assert_array_equal(order[joined], np.arange(100_000))
    listed.boxes_xyxy[777_777, 2] += 0.5
    with pytest.raises(ManifestMismatchError, match=r"caches/lvis has other annotations .* 1 of 100,000 pictures"):
        require_listed_boxes(data, listed, joined, rows, where="caches/lvis")


def test_rows_outside_of_the_caches_vocabulary_differ():
    data, listed, _ = many(10, 40)
    joined = joined_by_name(data.files, listed.files)
    with pytest.raises(ManifestMismatchError, match=r"of row -1 there, .* of row \d+ here"):
        require_listed_boxes(data, listed, joined, np.arange(2), where="x")


def test_boxes_in_another_order_are_found_where_they_are_listed():
    data, listed, order = many(50, 400)
    joined = joined_by_name(data.files, listed.files)
    rng = np.random.default_rng(1)
    for there in range(0, 50, 2):
        part = slice(listed.offsets[there], listed.offsets[there + 1])
        turned = rng.permutation(part.stop - part.start)
        listed.boxes_xyxy[part], listed.rows[part] = listed.boxes_xyxy[part][turned], listed.rows[part][turned]
    found = require_listed_boxes(data, listed, joined, np.arange(1204), where="x")
    for picture in range(50):
        part = slice(data.offsets[picture], data.offsets[picture + 1])
        first = listed.offsets[joined[picture]]
        np.testing.assert_array_equal(listed.boxes_xyxy[first + found[part]], data.boxes_xyxy(picture))
        if joined[picture] % 2:
            assert found[part].tolist() == list(range(part.stop - part.start))
    assert order.tolist() != sorted(order)


def test_boxes_that_the_annotations_lack_are_passed_over():
    data, listed, _ = many(200, 1_600)
    joined = joined_by_name(data.files, listed.files)
    kept = np.random.default_rng(2).random(1_600) < 0.6
    owners = np.repeat(np.arange(200), np.diff(data.offsets))[kept]
    partial = replace(
        data,
        offsets=np.searchsorted(owners, np.arange(201)),
        boxes_xywh_px=data.boxes_xywh_px[kept],
        category_ids=data.category_ids[kept],
    )
    everything = require_listed_boxes(data, listed, joined, np.arange(1204), where="x")
    found = require_listed_boxes(partial, listed, joined, np.arange(1204), where="x")
    np.testing.assert_array_equal(found, everything[kept])


def alike(*boxes):
    """One picture with boxes [x, row], each 10 px wide and high, listed as given or annotated so."""
    xywh = np.array([[x, 5, 10, 10] for x, _ in boxes], np.float32).reshape(-1, 4)
    rows = np.array([row for _, row in boxes], np.int64)
    return xywh, rows


@pytest.mark.parametrize(
    ("here", "found"),
    [
        ([(7.0, 1), (7.0, 1)], {0, 1}),
        ([(7.004, 1)], {0, 1, 2}),
        ([(7.008, 1), (7.0, 1)], {0, 1, 2}),
        ([(7.0, 2)], {3}),
        ([], set()),
    ],
    ids=["two of three", "rounded", "each its own", "another category", "none"],
)
def test_boxes_of_one_place_are_each_found_once(here, found):
    there, listed_rows = alike((7.0, 1), (7.0, 1), (7.004, 1), (7.0, 2))
    xywh, rows = alike(*here)
    size = np.full((1, 2), 64, np.int32)
    listed = ListedBoxes(names("a"), np.array([0, 4]), xywh_to_xyxy(there), listed_rows, size, np.array([0]))
    data = DetectionData(Path(), ("a",), np.array([1]), size, np.array([0, len(xywh)]), xywh, rows, (), {})
    places = require_listed_boxes(data, listed, np.array([0]), np.arange(9), where="x").tolist()
    assert len(set(places)) == len(here)
    assert set(places) <= found
    assert [listed_rows[place] for place in places] == rows.tolist()


def test_folders_on_the_way_to_a_picture_may_differ(windows, folder, data):
    above = replace(data, root=folder, files=tuple(f"train/{name}" for name in data.files))
    one, other = stored_of(windows, data), stored_of(windows, above)
    np.testing.assert_array_equal(one.windows.positions, other.windows.positions)
    assert other[0, 0, 5].name == f"train/{data.files[5]}"


def move_a_box(content):
    content["annotations"][5]["bbox"][0] += 1


def change_a_category(content):
    first = content["annotations"][0]
    first["category_id"] = first["category_id"] % 6 + 1


def add_a_box(content):
    first = content["annotations"][0]
    content["annotations"].append(first | {"id": 10_000, "bbox": [0, 0, 3, 3]})


def move_a_box_and_drop_another(content):
    move_a_box(content)
    del content["annotations"][4]


def give_a_box_twice(content):
    """In the place of another one, so that their number is the same."""
    annotations = content["annotations"]
    number = next(n for n, each in enumerate(annotations) if each["image_id"] == annotations[n + 1]["image_id"] > 1)
    annotations[number + 1] = annotations[number] | {"id": 10_000}


def change_a_size(content):
    content["images"][2]["height"] += 4


def add_a_picture(content):
    content["images"].append(content["images"][0] | {"id": 99, "file_name": "new.png"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (move_a_box, r"1 of 40 pictures differ, first .*: box \[.*\] of row \d there, \[.*\] of row \d here"),
        (change_a_category, r"first 000000000001\.png: box .* of row \d there"),
        (add_a_box, r"first 000000000001\.png: \d boxes there, \d here"),
        (move_a_box_and_drop_another, r"1 of 40 pictures differ, first .*: box \[.*\] of row \d there, \[.*\] of row"),
        (give_a_box_twice, r"1 of 40 pictures differ, first .*: box \[.*\] of row \d there, \[.*\] of row \d here"),
        (change_a_size, r"first 000000000003\.png: size is \d+ x \d+ there, \d+ x \d+ here"),
        (add_a_picture, r"lacks 1 of 41 pictures of the annotations: new\.png"),
    ],
)
def test_other_annotations_are_refused_by_what_differs(windows, folder, tmp_path, change, message):
    with pytest.raises(ManifestMismatchError, match=message):
        aligned(windows, rewritten(folder, tmp_path, change))


def test_boxes_may_stand_in_another_order_and_pictures_may_be_fewer(windows, folder, tmp_path):
    def shuffle(content):
        content["annotations"].reverse()
        content["images"] = content["images"][::-1][:30]
        kept = {image["id"] for image in content["images"]}
        content["annotations"] = [each for each in content["annotations"] if each["image_id"] in kept]

    data = rewritten(folder, tmp_path, shuffle)
    dataset = stored_of(windows, data)
    assert len(dataset) == 30
    assert dataset[0, 0, 0].target.image_id == 40


def test_categories_are_joined_by_name(windows, folder, data, tmp_path):
    """COCO's ids have gaps; rows of a cache have none."""

    def spread(content):
        for each in content["annotations"]:
            each["category_id"] *= 10
        for each in content["categories"]:
            each["id"] *= 10

    gaps = rewritten(folder, tmp_path, spread, file_format="coco")
    one, other = stored_of(windows, data)[0, 0, 3], stored_of(windows, gaps)[0, 0, 3]
    assert one.target.labels.tolist() == other.target.labels.tolist()


def test_a_cache_of_other_pictures_says_so(windows, data):
    renamed = replace(data, files=tuple(f"{number + 1000}.png" for number in range(len(data))))
    with pytest.raises(ManifestMismatchError, match=r"lacks 40 of 40 pictures"):
        aligned(windows, renamed)


def test_a_cache_without_windows_or_boxes_is_refused(finished_cache, data):
    with pytest.raises(ManifestMismatchError, match=r"views\.windows is 0 there, detection\.labels=cache needs"):
        opened(finished_cache, section=DETECTION, views="windows")


def test_a_limited_cache_is_refused(data, tmp_path):
    cache = WindowsCache(data, tmp_path / "out", limit=16).make()
    with pytest.raises(ManifestMismatchError, match=r"lacks 24 of 40 .* \(it was made with --limit 16\)"):
        aligned(cache, data)


def test_a_changed_listing_is_refused(data, tmp_path):
    cache = WindowsCache(data, tmp_path / "out").make()
    listing = cache.layout.listing
    content = bytearray(listing.read_bytes())
    content[len(content) // 2] ^= 1
    listing.write_bytes(content)
    with pytest.raises(CorruptCacheError, match=r"not the listing that the plan was made from"):
        aligned(cache, data)
