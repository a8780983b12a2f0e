from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from richsem_schemas.cache.render import render_view
from richsem_schemas.cache.shard import LabelShard
from richsem_schemas.errors import RichSemError
from richsem_schemas.pictures.decode import decode_picture
from richsem_train.data.cache.windows import WindowReader
from richsem_train.data.damage import DamagedViewError
from tests.caches import SAMPLES_PER_SHARD, WindowsCache
from tests.trainer.data.datasets import (
    OF_WINDOWS,
    PICTURES,
    WINDOWS,
    aligned,
    corners_px,
    pixels_of,
    rewritten,
    stored_of,
    stored_views,
)


@pytest.mark.parametrize("index_bytes", [2**20, 1])
def test_a_showing_shows_its_pass_of_a_picture_as_the_teacher_saw_it(windows, data, index_bytes):
    dataset = stored_of(windows, data, labels="topk")
    dataset.reader = WindowReader(dataset.reader.source, index_bytes=index_bytes)
    stored = [stored_views(windows, "window", number) for number in range(WINDOWS)]
    positions = dataset.windows.positions.tolist()
    assert sorted(positions) == list(range(PICTURES))
    for epoch in range(WINDOWS + 1):
        for index in np.random.default_rng(epoch).permutation(PICTURES)[:16].tolist():
            sample = dataset[epoch, 0, index]
            shard, number = divmod(positions[index], SAMPLES_PER_SHARD)
            name = f"{shard:06d}-{number:05d}.window-{epoch % WINDOWS}.npy"
            labelled, _ = stored[epoch % WINDOWS][name]
            picture = decode_picture(data.path(index).read_bytes())
            np.testing.assert_array_equal(pixels_of(sample), render_view(labelled.view, {number: picture}))
            target = sample.target
            assert (sample.name, target.image_id) == (data.files[index], data.image_ids[index])
            assert (target.image_hw, target.original_hw) == (labelled.view.canvas_hw, (picture.height, picture.width))
            assert (target.supervision, target.is_hard) == ("labelled", False)
            assert target.labels.tolist() == labelled.view.regions["category_id"].tolist()
            assert set(target.labels.tolist()) <= set(data.objects(index)[1].tolist())
            np.testing.assert_array_equal(target.soft_labels.class_ids, labelled.labels.class_ids)
            np.testing.assert_allclose(corners_px(target), labelled.view.regions["box_xyxy_px"], atol=1e-3)


def test_embeddings_are_the_stored_ones_with_unit_norm(windows, data):
    sample = stored_of(windows, data)[0, 0, 3]
    embeddings = sample.target.soft_labels.embeddings
    assert embeddings.shape == (len(sample.target.labels), 16)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(len(embeddings)))


def test_pictures_in_the_cache_show_the_same_as_those_that_it_refers_to(windows, data, tmp_path):
    copied = stored_of(WindowsCache(data, tmp_path / "out", windows=WINDOWS, pictures="copy").make(), data)
    referred = stored_of(windows, data)
    for index in range(0, PICTURES, 7):
        assert torch.equal(copied[1, 0, index].pixels, referred[1, 0, index].pixels)


def test_stored_passes_take_turns_over_repeats_and_epochs(windows, data):
    def epoch_list(epoch):
        return np.array([3, 3, 3]) if epoch else np.array([7, 3, 3])

    dataset, plain = stored_of(windows, data, epoch_list=epoch_list), stored_of(windows, data)
    for number, (epoch, position) in enumerate([(0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]):
        assert torch.equal(dataset[epoch, position, 3].pixels, plain[number % WINDOWS, 0, 3].pixels)


@pytest.mark.parametrize("views", OF_WINDOWS)
def test_repeats_within_an_epoch_show_other_views(windows, data, views):
    options = {"epoch_list": lambda _: np.array([3, 7, 3, 3, 7, 3])} if views == "stored" else {}
    dataset = OF_WINDOWS[views](windows, data, **options)
    samples = [dataset[0, position, 3] for position in (0, 2, 3, 5)]
    assert len({sample.pixels.numpy().tobytes() for sample in samples}) == 4
    assert len({sample.name for sample in samples}) == 1


def partial(content):
    """All boxes of picture 4, and every third of the others, are missing."""
    content["annotations"] = [
        each for number, each in enumerate(content["annotations"]) if each["image_id"] != 4 and number % 3
    ]


@pytest.mark.parametrize("views", OF_WINDOWS)
def test_boxes_that_the_annotations_lack_are_no_targets_and_all_else_is_as_it_was(
    windows, folder, data, tmp_path, views
):
    fewer = rewritten(folder, tmp_path, partial)
    whole, part = OF_WINDOWS[views](windows, data), OF_WINDOWS[views](windows, fewer)
    lost = 0
    for index in range(PICTURES):
        one, other = whole[2, index, index], part[2, index, index]
        assert torch.equal(one.pixels, other.pixels)
        # A category stands in a picture once at most.
        kept = torch.isin(one.target.labels, torch.from_numpy(fewer.objects(index)[1]))
        lost += int((~kept).sum())
        assert torch.equal(one.target.labels[kept], other.target.labels)
        assert torch.equal(one.target.boxes_cxcywh_norm[kept], other.target.boxes_cxcywh_norm)
        soft, fewer_soft = one.target.soft_labels, other.target.soft_labels
        is_known = torch.ones(len(kept), dtype=torch.bool) if soft.is_known is None else soft.is_known
        still_known = is_known[kept] if fewer_soft.is_known is None else fewer_soft.is_known
        assert torch.equal(is_known[kept], still_known)
        assert torch.equal(soft.embeddings[kept][still_known], fewer_soft.embeddings[still_known])
        assert (other.target.supervision, other.target.is_hard) == (one.target.supervision, one.target.is_hard)
    assert lost > 20
    assert len(part[0, 0, 3].target.labels) == 0


def test_a_region_of_no_listed_box_is_damage_with_partial_annotations_too(windows, folder, tmp_path):
    dataset = stored_of(windows, rewritten(folder, tmp_path, partial))
    dataset.windows.listed_boxes[:] = 1
    with pytest.raises(DamagedViewError, match=r"annotations are not boxes of its picture, which has 1"):
        [dataset[0, 0, index] for index in range(PICTURES)]


def moved_to(folder, data):
    """The same annotations, of copies of the pictures."""
    folder.mkdir(exist_ok=True)
    for index, name in enumerate(data.files):
        (folder / name).write_bytes(data.path(index).read_bytes())
    return replace(data, root=folder)


def test_pictures_that_were_left_out_stop_the_run_or_are_skipped(data, tmp_path):
    moved = moved_to(tmp_path, data)
    moved.path(7).write_bytes(b"\xff\xd8\xff no picture")
    cache = WindowsCache(moved, tmp_path / "out", without=(data.files[20],)).make()
    with pytest.raises(RichSemError, match=rf"left out 2 of 40 pictures .* first {data.files[7]}.*on_damage=skip"):
        aligned(cache, moved)
    dataset = stored_of(cache, moved, on_damage="skip")
    for missing in (7, 20):
        sample = dataset[0, 0, missing]
        assert sample.name == data.files[missing + 1]
        assert f"{data.files[missing]} was left out" in sample.damage[0]


def break_picture(cache, data, index):
    path = data.path(index)
    path.write_bytes(path.read_bytes()[:-40] + b"\0" * 40)


def break_label(cache, data, index):
    shard, sample = divmod(int(aligned(cache, data)[1].positions[index]), SAMPLES_PER_SHARD)
    labels = LabelShard(cache.label_set, shard)
    rows = labels.rows()
    (row,) = rows[(rows["sample"] == sample) & (rows["pass"] == 0)]
    content = bytearray(labels.tar.read_bytes())
    content[row["offset"] + row["size"] - 64 : row["offset"] + row["size"]] = b"\x7f" * 64
    labels.tar.write_bytes(content)


@pytest.mark.parametrize("views", OF_WINDOWS)
@pytest.mark.parametrize("harm", [break_picture, break_label])
def test_a_damaged_picture_or_label_stops_the_run_or_the_next_takes_its_place(data, tmp_path, harm, views):
    moved = moved_to(tmp_path / "pictures", data)
    cache = WindowsCache(moved, tmp_path / "out").make()
    harm(cache, moved, 9)
    with pytest.raises(DamagedViewError, match=r"shard lvis-0.* is damaged: .*detection\.on_damage=skip"):
        OF_WINDOWS[views](cache, moved)[0, 0, 9]
    sample = OF_WINDOWS[views](cache, moved, on_damage="skip")[0, 0, 9]
    assert sample.name == data.files[10]
    assert len(sample.damage) == 1


def test_pictures_that_moved_are_found_by_root(folder, data, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    cache = WindowsCache(data, tmp_path / "out").make()
    elsewhere.symlink_to(folder / "train")
    sample = stored_of(cache, data, root=elsewhere)[0, 0, 0]
    assert torch.equal(sample.pixels, stored_of(cache, data)[0, 0, 0].pixels)
    with pytest.raises(RichSemError, match=r"nowhere is no folder; say where they lie with detection\.root"):
        aligned(cache, data, root=Path("nowhere"))
