"""The golden cache against the program that writes and verifies caches; see also tests/schemas/test_golden.py."""

import tarfile
from pathlib import Path

import numpy as np
import pytest

from richsem_prep.shard.plan import planned_entries
from richsem_prep.verify.cache import verify_cache
from richsem_schemas.cache.index import PICTURE_ROW, index_bytes, member_names
from richsem_schemas.cache.layout import CacheLayout
from richsem_schemas.cache.reader import open_cache
from richsem_schemas.cache.recipes import AnnotatedPicture, block_views
from richsem_schemas.cache.shard import PictureShard
from richsem_schemas.cache.shard_writer import ShardWriter

CACHE = Path(__file__).parents[1] / "golden" / "cache"


@pytest.fixture(scope="module")
def golden():
    return open_cache(CACHE)


def test_verify_finds_nothing_wrong_in_the_golden_cache():
    found = verify_cache(CACHE, threads=1)
    assert (found.problems, found.notes) == ((), ())
    assert (found.pictures, found.views, found.regions) == (8, 126, 300)


def test_the_golden_plan_still_gives_the_same_pictures_in_the_same_order(golden):
    plan = golden.manifest.plan
    names = [[entry.name for entry in planned_entries(golden.layout, plan, shard)] for shard in range(plan.shards)]
    assert names == [
        ["blue/flat.png", "green/a.jpg", "red/broken.jpg", "yellow/rotated.jpg", "white/a.jpg"],
        ["unlabelled.jpg", "green/b.jpg", "red/a.jpg", "red/with space.jpg"],
    ]


@pytest.mark.parametrize("labels", ["float16", "int8"])
@pytest.mark.parametrize("shard", [0, 1])
def test_the_same_seed_still_draws_the_golden_views(golden, labels, shard):
    stored = golden.label_shard(labels, shard)
    rows = stored.rows()
    places = zip(rows["sample"].tolist(), member_names(rows), strict=True)
    written = dict(zip(places, (labelled.view for labelled in stored.views(rows)), strict=True))
    boxes = [entry.boxes for entry in planned_entries(golden.layout, golden.manifest.plan, shard)]
    samples = [
        AnnotatedPicture(sample, (height, width), category_id, boxes[sample].boxes_xyxy, boxes[sample].rows)
        for sample, height, width, category_id in golden.picture_shard(shard)
        .rows()[["sample", "height", "width", "category_id"]]
        .tolist()
    ]
    views = golden.label_sets[labels].spec.views
    drawn = list(block_views(samples, views, seed=golden.manifest.plan.seed, shard=shard, first_sample=0))
    assert len(drawn) == len(written)
    for view in drawn:
        expected = written[int(view.tiles["sample"][0]), view.member]
        assert view.canvas_hw == expected.canvas_hw
        assert view.tiles.tobytes() == expected.tiles.tobytes()
        assert view.regions.tobytes() == expected.regions.tobytes()


@pytest.mark.parametrize("folder", ["pictures", "labels/float16", "labels/int8", "labels/none"])
def test_todays_tar_writer_writes_the_golden_tars_byte_for_byte(folder, tmp_path):
    golden_tar = CACHE / folder / "golden-000000.tar"
    samples = {}
    with tarfile.open(golden_tar) as tar:
        for member in tar:
            key, _, extension = member.name.partition(".")
            samples.setdefault(key, {})[extension] = tar.extractfile(member).read()
    shard = PictureShard(CacheLayout(tmp_path, "again"), 0)
    with ShardWriter(shard) as writer:
        for key, members in samples.items():
            writer.add(key, members)
        writer.finish(np.empty(0, PICTURE_ROW), samples=0)
    assert shard.tar.read_bytes() == golden_tar.read_bytes()


def test_todays_writer_writes_the_golden_indexes_byte_for_byte(golden):
    for number in range(2):
        for shard in (golden.picture_shard(number), *(golden.label_shard(name, number) for name in golden.label_sets)):
            assert index_bytes(shard.rows()) == shard.index.read_bytes()
