"""The golden cache against the program that writes and verifies caches; see also tests/schemas/test_golden.py."""

import tarfile
from pathlib import Path

import pytest

from richsem_prep.shard.plan import planned_entries
from richsem_prep.shard.writer import open_tar
from richsem_prep.verify.cache import verify_cache
from richsem_schemas.cache.reader import open_cache, picture_rows, read_views, view_rows
from richsem_schemas.cache.recipes import AnnotatedPicture, block_views

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
    rows = view_rows(golden.layout, labels, shard)
    written = {
        (row.sample, row.member): labelled.view
        for row, labelled in zip(rows, read_views(golden.layout, labels, shard, rows), strict=True)
    }
    boxes = [entry.boxes for entry in planned_entries(golden.layout, golden.manifest.plan, shard)]
    samples = [
        AnnotatedPicture(
            row.sample, (row.height, row.width), row.category_id, boxes[row.sample].boxes_xyxy, boxes[row.sample].rows
        )
        for row in picture_rows(golden.layout, shard)
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
    with open_tar(tmp_path / "again.tar") as (tar, _):
        for key, members in samples.items():
            tar.add(key, members)
    assert (tmp_path / "again.tar").read_bytes() == golden_tar.read_bytes()
