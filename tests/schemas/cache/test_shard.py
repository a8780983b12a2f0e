"""A shard as an object: its files, its receipt, its rows, and what is read of them."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from richsem_schemas.cache.reader import open_cache
from richsem_schemas.cache.view_batch import ShardPictures
from richsem_schemas.errors import CorruptCacheError
from richsem_schemas.io.files import hash_bytes
from tests.damage import flip

CACHE = Path(__file__).parents[2] / "golden" / "cache"


@pytest.fixture
def cache(tmp_path):
    shutil.copytree(CACHE, tmp_path / "c")
    return open_cache(tmp_path / "c")


@pytest.fixture(params=["pictures", "labels"])
def shard(request, cache):
    return cache.picture_shard(1) if request.param == "pictures" else cache.label_shard("float16", 1)


def test_a_finished_shard_is_done_and_intact(shard):
    receipt = shard.read_receipt()
    assert shard.is_done(receipt.fingerprint)
    assert not shard.is_done("0" * 64)
    shard.check_bytes(receipt.summary)
    assert len(shard.rows(receipt.summary.index)) == max(receipt.summary.views, 4)
    assert shard.raw_rows().tolist() == shard.rows().tolist()


@pytest.mark.parametrize("file", ["tar", "index"])
def test_another_length_is_found_without_reading(shard, file):
    receipt = shard.read_receipt()
    path = getattr(shard, file)
    os.truncate(path, path.stat().st_size - 1)
    assert not shard.is_done(receipt.fingerprint)
    with pytest.raises(CorruptCacheError, match=f"{path.name}: has .* its receipt says .*delete {shard.receipt} and"):
        shard.require_sizes(receipt.summary)
    path.unlink()
    assert not shard.is_done(receipt.fingerprint)
    with pytest.raises(CorruptCacheError, match="has 0 bytes"):
        shard.check_bytes(receipt.summary)


def test_a_flipped_byte_is_found_anywhere(shard):
    receipt = shard.read_receipt()
    for path, expected in ((shard.tar, receipt.summary.tar), (shard.index, receipt.summary.index)):
        data = path.read_bytes()
        for position in range(0, len(data), 31):
            damaged = bytearray(data)
            damaged[position] ^= 1
            path.write_bytes(damaged)
            with pytest.raises(CorruptCacheError, match=f"{path.name}: its bytes don't match its receipt; delete"):
                shard.read_intact(path, expected)
        with pytest.raises(CorruptCacheError, match="bytes don't match"):
            shard.check_bytes(receipt.summary)
        path.write_bytes(data)
    assert shard.read_intact(shard.tar, receipt.summary.tar) == shard.tar.read_bytes()


def test_a_damaged_or_missing_receipt_is_no_done_mark(shard):
    fingerprint = shard.read_receipt().fingerprint
    flip(shard.receipt, 30)
    assert not shard.is_done(fingerprint)
    shard.revoke()
    shard.revoke()
    assert not shard.is_done(fingerprint)
    assert shard.tar.exists()


def test_a_block_is_read_at_once(cache):
    pictures, labels = cache.picture_shard(0), cache.label_shard("float16", 0)
    rows, view_rows = pictures.rows()[1:], labels.rows()[2:5]
    span, view_span = pictures.span(rows), labels.span(view_rows)
    assert (view_span.start, len(view_span.data)) == (
        view_rows["offset"][0], view_rows["offset"][-1] + view_rows["size"][-1] - view_rows["offset"][0],
    )  # fmt: skip
    plain = [picture.data for picture in pictures.pictures(rows, root=None)]
    plain_views = [view.view.tiles.tobytes() for view in labels.views(view_rows)]
    for path in (pictures.tar, labels.tar):
        path.unlink()
    assert [picture.data for picture in pictures.pictures(rows, root=None, span=span)] == plain
    assert [view.view.tiles.tobytes() for view in labels.views(view_rows, span=view_span)] == plain_views
    with pytest.raises(CorruptCacheError, match="outside of their block"):
        list(labels.views(labels.rows()[:1], span=view_span))


def test_a_changed_picture_is_named_with_its_remedy(cache):
    shard = cache.picture_shard(0)
    rows = shard.rows()
    flip(shard.tar, int(rows["offset"][2]) + 5)
    stored = shard.pictures(rows, root=None)
    assert [next(stored).row["key"] for _ in range(2)] == rows["key"][:2].tolist()
    with pytest.raises(CorruptCacheError, match=rf"000000-00003 \(yellow.*delete {shard.receipt} and"):
        next(stored)


@pytest.mark.parametrize(("column", "value"), [("json_size", 2**20 + 1), ("size", -1), ("json_offset", 513)])
def test_sizes_beyond_all_limits_and_other_sidecars_are_refused(cache, column, value):
    shard = cache.picture_shard(0)
    rows = shard.rows()[:1]
    rows[column] = value
    with pytest.raises(CorruptCacheError, match=r"golden-000000\.tar: 000000-00000.*anew"):
        list(shard.pictures(rows, root=None))


def test_a_forged_span_asks_for_no_memory(cache):
    pictures, labels = cache.picture_shard(0), cache.label_shard("float16", 0)
    for shard in (pictures, labels):
        rows = shard.rows()
        rows["size"][0] = 2**50
        with pytest.raises(CorruptCacheError, match="its index claims bytes"):
            shard.span(rows)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [("tiles", 2, "other tiles or regions than its index"), ("regions", 2, "other tiles or regions than its index")],
)
def test_views_that_the_index_describes_otherwise_are_refused(cache, column, value, message):
    shard = cache.label_shard("float16", 0)
    rows = shard.rows()[:1]
    pictures = ShardPictures.of_rows(cache.picture_shard(0).rows(), cache.manifest.plan)
    spec = cache.label_sets["float16"].spec
    assert len(shard.sound_views(rows, pictures, spec)) == 1
    assert shard.sound_views(rows[:0], pictures, spec) == []
    rows[column] = value
    with pytest.raises(CorruptCacheError, match=message):
        shard.sound_views(rows, pictures, spec)


@pytest.mark.parametrize(
    ("other", "message"),
    [("none", "embeddings are not those of the spec"), ("int8", "")],
)
def test_views_of_another_spec_are_refused(cache, other, message):
    shard = cache.label_shard("float16", 0)
    pictures = ShardPictures.of_rows(cache.picture_shard(0).rows(), cache.manifest.plan)
    spec = cache.label_sets[other].spec
    rows = shard.rows()[:1]
    if message:
        with pytest.raises(CorruptCacheError, match=message):
            shard.sound_views(rows, pictures, spec)
    with pytest.raises(CorruptCacheError, match="belongs to another spec"):
        shard.views_alike(spec)


def test_the_whole_shard_is_the_same_views_side_by_side(cache):
    spec = cache.label_sets["float16"].spec
    shard = cache.label_shard("float16", 0)
    alike = shard.views_alike(spec)
    views = list(shard.views(shard.rows()))
    assert sorted(np.concatenate([group.numbers for group in alike.groups]).tolist()) == list(range(len(views)))
    boxes = np.concatenate([view.view.regions["box_xyxy_px"] for view in views])
    assert alike.regions()["box_xyxy_px"].tolist() == boxes.tolist()
    assert alike.receipt.summary.tar == hash_bytes(shard.tar.read_bytes())
