import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from richsem_schemas.annotations import read_annotations
from richsem_schemas.cache.reader import read_views, view_rows
from richsem_schemas.cache.render import render_view
from richsem_schemas.errors import CorruptCacheError, ManifestMismatchError, RichSemError
from richsem_schemas.pictures.decode import decode_picture
from richsem_train.data.cache.source import DETECTION, ExpectedCache, open_training_cache
from richsem_train.data.cache.views import DamagedViewError
from richsem_train.data.category_rows import in_rows, rows_of_categories
from richsem_train.data.showings import Showings
from richsem_train.data.windows import WindowDataset, align_windows
from tests.trainer.tiny import write_split
from tests.trainer.windows import LABELS, WindowsCache

PICTURES = 40


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Annotations and pictures of a split; for reading only."""
    folder = tmp_path_factory.mktemp("split")
    write_split(folder, "train", PICTURES, seed=1)
    return folder


@pytest.fixture(scope="session")
def data(folder):
    return read_annotations(folder / "train.json", folder / "train")


@pytest.fixture(scope="session")
def windows(data, tmp_path_factory):
    """Three shards of two passes of windows, of pictures where they lie; for reading only."""
    return WindowsCache(data, tmp_path_factory.mktemp("windows") / "out").make()


def opened(cache, root=None, **expected):
    wanted = ExpectedCache(section=DETECTION, views="windows", **expected)
    return open_training_cache(cache.layout.out, expected=wanted, root=root)


def each_once(data):
    """Epochs that show every picture once."""
    return Showings(lambda _: np.arange(len(data)), epoch_length=len(data), pictures=len(data))


def dataset_of(cache, data, *, on_damage="stop", root=None, index_bytes=2**20, **expected):
    training_cache = opened(cache, root, **expected)
    data = in_rows(data, rows_of_categories(data, training_cache.text.class_names))
    aligned = align_windows(training_cache, data, on_damage=on_damage)
    return WindowDataset(data, aligned, each_once(data), on_damage=on_damage, index_bytes=index_bytes)


def stored_windows(cache):
    """Windows by (sample key, pass), read by the schemas' own functions."""
    found = {}
    for shard in range(-(-PICTURES // 16)):
        rows = view_rows(cache.layout, cache.labels, shard)
        for row, labelled in zip(rows, read_views(cache.layout, cache.labels, shard, rows), strict=True):
            found[row.key, row.pass_index] = labelled
    return found


@pytest.mark.parametrize("index_bytes", [2**20, 1])
def test_a_showing_shows_its_pass_of_a_picture_as_the_teacher_saw_it(windows, data, index_bytes):
    dataset = dataset_of(windows, data, labels="topk", index_bytes=index_bytes)
    stored = stored_windows(windows)
    positions = dataset.windows.positions.tolist()
    assert sorted(positions) == list(range(PICTURES))
    for epoch in range(3):
        for index in np.random.default_rng(epoch).permutation(PICTURES)[:16].tolist():
            sample = dataset[epoch, 0, index]
            shard, number = divmod(positions[index], 16)
            labelled = stored[f"{shard:06d}-{number:05d}", epoch % 2]
            picture = decode_picture(data.path(index).read_bytes())
            shown = np.asarray(render_view(labelled.view, {number: picture}))
            np.testing.assert_array_equal(sample.pixels.permute(1, 2, 0).numpy(), shown)
            target = sample.target
            assert (sample.name, target.image_id) == (data.files[index], data.image_ids[index])
            assert (target.image_hw, target.original_hw) == (labelled.view.canvas_hw, (picture.height, picture.width))
            assert (target.supervision, target.is_hard) == ("labelled", False)
            assert target.labels.tolist() == labelled.view.regions["category_id"].tolist()
            assert set(target.labels.tolist()) <= set(data.objects(index)[1].tolist())
            np.testing.assert_array_equal(target.soft_labels.class_ids, labelled.labels.class_ids)
            height, width = labelled.view.canvas_hw
            cx, cy, w, h = target.boxes_cxcywh_norm.double().T
            boxes = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 1) * torch.tensor([width, height] * 2)
            np.testing.assert_allclose(boxes, labelled.view.regions["box_xyxy_px"], atol=1e-3)


def test_embeddings_are_the_stored_ones_with_unit_norm(windows, data):
    sample = dataset_of(windows, data)[0, 0, 3]
    embeddings = sample.target.soft_labels.embeddings
    assert embeddings.shape == (len(sample.target.labels), 16)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(len(embeddings)))


def test_pictures_in_the_cache_show_the_same_as_those_that_it_refers_to(windows, data, tmp_path):
    copied = dataset_of(WindowsCache(data, tmp_path / "out", pictures="copy").make(), data)
    referred = dataset_of(windows, data)
    for index in range(0, PICTURES, 7):
        assert torch.equal(copied[1, 0, index].pixels, referred[1, 0, index].pixels)


def test_folders_on_the_way_to_a_picture_may_differ(windows, folder):
    data = read_annotations(folder / "train.json", folder / "train")
    above = replace(data, root=folder, files=tuple(f"train/{name}" for name in data.files))
    one, other = dataset_of(windows, data), dataset_of(windows, above)
    np.testing.assert_array_equal(one.windows.positions, other.windows.positions)
    assert other[0, 0, 5].name == f"train/{data.files[5]}"


def rewritten(folder, tmp_path, change):
    content = json.loads((folder / "train.json").read_text())
    change(content)
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(content))
    return read_annotations(path, folder / "train")


def move_a_box(content):
    content["annotations"][5]["bbox"][0] += 1


def change_a_category(content):
    first = content["annotations"][0]
    first["category_id"] = first["category_id"] % 6 + 1


def drop_a_box(content):
    del content["annotations"][0]


def change_a_size(content):
    content["images"][2]["height"] += 4


def add_a_picture(content):
    content["images"].append(content["images"][0] | {"id": 99, "file_name": "new.png"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (move_a_box, r"1 of 40 pictures differ, first .*: box \[.*\] of row \d there, \[.*\] of row \d here"),
        (change_a_category, r"first 000000000001\.png: box .* of row \d there"),
        (drop_a_box, r"first 000000000001\.png: \d boxes there, \d here"),
        (change_a_size, r"first 000000000003\.png: size is \d+ x \d+ there, \d+ x \d+ here"),
        (add_a_picture, r"lacks 1 of 41 pictures of the annotations: new\.png"),
    ],
)
def test_other_annotations_are_refused_by_what_differs(windows, folder, tmp_path, change, message):
    with pytest.raises(ManifestMismatchError, match=message):
        dataset_of(windows, rewritten(folder, tmp_path, change))


def test_boxes_may_stand_in_another_order_and_pictures_may_be_fewer(windows, folder, tmp_path):
    def shuffle(content):
        content["annotations"].reverse()
        content["images"] = content["images"][::-1][:30]
        kept = {image["id"] for image in content["images"]}
        content["annotations"] = [each for each in content["annotations"] if each["image_id"] in kept]

    data = rewritten(folder, tmp_path, shuffle)
    dataset = dataset_of(windows, data)
    assert len(dataset) == 30
    assert dataset[0, 0, 0].target.image_id == 40


def test_categories_are_joined_by_name(folder, data, tmp_path):
    """COCO's ids have gaps; rows of a cache have none."""
    content = json.loads((folder / "train.json").read_text())
    for each in content["annotations"]:
        each["category_id"] *= 10
    for each in content["categories"]:
        each["id"] *= 10
    path = tmp_path / "gaps.json"
    path.write_text(json.dumps(content))
    gaps = read_annotations(path, folder / "train", file_format="coco")
    cache = WindowsCache(data, tmp_path / "out").make()
    one, other = dataset_of(cache, data)[0, 0, 3], dataset_of(cache, gaps)[0, 0, 3]
    assert one.target.labels.tolist() == other.target.labels.tolist()


def test_a_cache_of_other_pictures_says_so(windows, folder, tmp_path):
    def rename(content):
        for number, image in enumerate(content["images"]):
            image["file_name"] = f"{number + 1000}.png"

    content = json.loads((folder / "train.json").read_text())
    rename(content)
    for number, name in enumerate(sorted(os.listdir(folder / "train"))):
        (tmp_path / f"{number + 1000}.png").symlink_to(folder / "train" / name)
    path = tmp_path / "renamed.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ManifestMismatchError, match=r"lacks 40 of 40 pictures"):
        dataset_of(windows, read_annotations(path, tmp_path))


def test_a_cache_without_windows_or_boxes_is_refused(finished_cache, data):
    with pytest.raises(ManifestMismatchError, match=r"views\.windows is 0 there, detection\.labels=cache needs"):
        opened(finished_cache)


def test_a_limited_cache_is_refused(data, tmp_path):
    cache = WindowsCache(data, tmp_path / "out", limit=16).make()
    with pytest.raises(ManifestMismatchError, match=r"lacks 24 of 40 .* \(it was made with --limit 16\)"):
        dataset_of(cache, data)


def test_pictures_that_were_left_out_stop_the_run_or_are_skipped(folder, data, tmp_path):
    for name in data.files:
        (tmp_path / name).write_bytes((folder / "train" / name).read_bytes())
    (tmp_path / data.files[7]).write_bytes(b"\xff\xd8\xff no picture")
    moved = replace(data, root=tmp_path)
    cache = WindowsCache(moved, tmp_path / "out", without=(data.files[20],)).make()
    with pytest.raises(RichSemError, match=rf"left out 2 of 40 pictures .* first {data.files[7]}.*on_damage=skip"):
        dataset_of(cache, moved)
    dataset = dataset_of(cache, moved, on_damage="skip")
    for missing in (7, 20):
        sample = dataset[0, 0, missing]
        assert sample.name == data.files[missing + 1]
        assert f"{data.files[missing]} was left out" in sample.damage[0]


def broken_picture(cache, tmp_path, data):
    path = data.path(9)
    path.write_bytes(path.read_bytes()[:-40] + b"\0" * 40)
    return 9


def broken_label(cache, tmp_path, data):
    position = int(dataset_of(cache, data).windows.positions[9])
    shard, sample = divmod(position, 16)
    row = next(r for r in view_rows(cache.layout, LABELS, shard) if (r.sample, r.pass_index) == (sample, 0))
    path = cache.label_set.tar(shard)
    content = bytearray(path.read_bytes())
    content[row.offset + row.size - 64 : row.offset + row.size] = b"\x7f" * 64
    path.write_bytes(content)
    return 9


@pytest.mark.parametrize("harm", [broken_picture, broken_label])
def test_a_damaged_picture_or_label_stops_the_run_or_the_next_takes_its_place(folder, data, tmp_path, harm):
    (tmp_path / "pictures").mkdir()
    for name in data.files:
        (tmp_path / "pictures" / name).write_bytes((folder / "train" / name).read_bytes())
    moved = replace(data, root=tmp_path / "pictures")
    cache = WindowsCache(moved, tmp_path / "out").make()
    index = harm(cache, tmp_path, moved)
    with pytest.raises(DamagedViewError, match=r"shard lvis-0.* is damaged: .*detection\.on_damage=skip"):
        dataset_of(cache, moved)[0, 0, index]
    sample = dataset_of(cache, moved, on_damage="skip")[0, 0, index]
    assert sample.name == data.files[index + 1]
    assert len(sample.damage) == 1


def test_a_changed_listing_is_refused(data, tmp_path):
    cache = WindowsCache(data, tmp_path / "out").make()
    listing = cache.layout.listing
    content = bytearray(listing.read_bytes())
    content[len(content) // 2] ^= 1
    listing.write_bytes(content)
    with pytest.raises(CorruptCacheError, match=r"not the listing that the plan was made from"):
        dataset_of(cache, data)


def test_pictures_that_moved_are_found_by_root(folder, data, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    cache = WindowsCache(data, tmp_path / "out").make()
    elsewhere.symlink_to(folder / "train")
    sample = dataset_of(cache, data, root=elsewhere)[0, 0, 0]
    assert torch.equal(sample.pixels, dataset_of(cache, data)[0, 0, 0].pixels)
    with pytest.raises(RichSemError, match=r"nowhere is no folder; say where they lie with detection\.root"):
        dataset_of(cache, data, root=Path("nowhere"))
