import hashlib
import json
import random
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest

from richsem_prep.shard import plan as plan_module
from richsem_prep.shard.plan import default_samples_per_shard, freeze_listing, planned_entries
from richsem_prep.sources.entry import PictureBoxes, Rejected, SourceEntry
from richsem_schemas.cache.layout import CacheLayout
from richsem_schemas.cache.listed_boxes import boxes_of_samples, read_box_rows
from richsem_schemas.cache.manifest import Plan
from richsem_schemas.cache.permutation import permuted
from richsem_schemas.errors import CorruptCacheError, SourceError
from richsem_schemas.io.files import hashed_file
from richsem_schemas.io.words import printable
from richsem_schemas.pictures.originals import WHOLE_FILE
from richsem_schemas.vocabularies.vocabulary import Vocabulary

ODD_NAMES = [
    b"a b.jpg",
    "größe/日本.jpg".encode(),
    b"inv\xff\xfelid.jpg",
    b"new\nline.jpg",
    b"back\\slash.jpg",
    b"a.b/c.d",
]


@pytest.fixture
def layout(tmp_path):
    return CacheLayout(tmp_path / "out", "demo")


def whole(file, category_id=0, size=10):
    return SourceEntry(printable(file), file, WHOLE_FILE, size, category_id)


def member(tar, path, offset, category_id=0):
    return SourceEntry(f"{printable(tar)}/{printable(path)}", tar, offset, 10, category_id)


def plain(count):
    return [whole(b"c%d/%06d.jpg" % (index % 7, index), index % 7, index) for index in range(count)]


def freeze(layout, found, *, samples=None, samples_per_shard=16, seed=3, **columns):
    listing = freeze_listing(layout, found, on_progress=lambda _: None, **columns)
    return Plan(
        dataset="demo",
        seed=seed,
        listed=listing.listed,
        samples=samples or listing.listed,
        samples_per_shard=samples_per_shard,
        limit=samples,
        pictures="copy",
        max_side=None,
        root=None,
        vocabulary=Vocabulary(name="demo", class_names=("none",)),
        absent_classes=(),
        listing=listing.file,
        rejected=listing.rejected,
        listing_quarantine=listing.quarantine,
    )


def everything(layout, plan):
    return [entry for shard in range(plan.shards) for entry in planned_entries(layout, plan, shard)]


def test_a_listing_reads_back_whatever_the_names_hold(layout):
    entries = [
        *(whole(name, index) for index, name in enumerate(ODD_NAMES)),
        *(member(b"n01.tar", name, 512 * index + 2**33, 5) for index, name in enumerate(ODD_NAMES)),
        member(b"inv\xfflid.tar", b"x\xfe/y.jpg", 512),
        whole(b"n01.tar"),
    ]
    plan = freeze(layout, entries)
    found = everything(layout, plan)
    assert sorted(found, key=lambda e: (e.name, e.offset)) == sorted(entries, key=lambda e: (e.name, e.offset))


def boxed(file, boxes, hw, caption=None):
    boxes_xyxy = np.array([box[:4] for box in boxes], np.float32).reshape(-1, 4)
    rows = np.array([box[4] for box in boxes], np.int32)
    found = PictureBoxes(boxes_xyxy, rows, hw)
    return SourceEntry(printable(file), file, WHOLE_FILE, 10, 0, found, caption)


def test_boxes_and_captions_read_back(layout):
    entries = [
        boxed(b"two.jpg", [(0.1, 2, 30.7, 40, 3), (5, 6, 7, 8, 0)], (480, 640), "größe, \n 日本"),
        boxed(b"none.jpg", [], (48, 64)),
        boxed(b"fractions.jpg", [(0.25, 0.5, 1 / 3, 1, 1)], None, ""),
    ]
    plan = freeze(layout, entries, has_boxes=True, has_captions=True)
    found = sorted(everything(layout, plan), key=lambda entry: entry.name)
    for entry, expected in zip(found, sorted(entries, key=lambda entry: entry.name), strict=True):
        assert (entry.name, entry.caption, entry.boxes.hw) == (expected.name, expected.caption, expected.boxes.hw)
        np.testing.assert_array_equal(entry.boxes.boxes_xyxy, expected.boxes.boxes_xyxy)
        np.testing.assert_array_equal(entry.boxes.rows, expected.boxes.rows)
        assert (entry.boxes.boxes_xyxy.dtype, entry.boxes.rows.dtype) == (np.float32, np.int32)


@pytest.mark.parametrize("batch", [3, 1_024])
def test_classes_of_boxes_read_once_are_those_of_each_shards_entries(layout, monkeypatch, batch):
    monkeypatch.setattr(plan_module, "LISTING_BATCH", batch)
    rng = np.random.default_rng(0)
    boxes = [[(0, 0, 1, 1, row) for row in rng.integers(0, 99, count)] for count in rng.integers(0, 5, 40)]
    entries = [boxed(b"%02d.jpg" % number, found, (9, 9)) for number, found in enumerate(boxes)]
    plan = freeze(layout, entries, samples=35, has_boxes=True)
    listed = read_box_rows(layout, plan)
    for shard in range(plan.shards):
        samples = np.arange(plan.shard_samples(shard))[1::2]
        found = boxes_of_samples(listed, plan, shard, samples)
        expected = [entry.boxes.rows for entry in planned_entries(layout, plan, shard)[1::2]]
        np.testing.assert_array_equal(np.diff(found.offsets), [len(rows) for rows in expected])
        np.testing.assert_array_equal(found.rows, np.concatenate(expected))


def test_a_listing_without_boxes_and_captions_has_the_bytes_it_always_had(layout):
    plan = freeze(layout, plain(100))
    assert plan.listing.sha256 == "55b3b428a1d802e71c732dbdb141bb2e4caebf88416e83121a465a824fd27c06"


@pytest.mark.parametrize(
    ("count", "samples_per_shard"), [(1, 16), (15, 16), (16, 16), (17, 16), (100, 7), (100, 1_000)]
)
def test_planned_entries_are_a_permutation_of_the_whole_listing(layout, count, samples_per_shard):
    entries = plain(count)
    plan = freeze(layout, entries, samples_per_shard=samples_per_shard)
    order = permuted(np.arange(count), size=count, seed=plan.seed)
    assert everything(layout, plan) == [entries[row] for row in order]
    assert [len(planned_entries(layout, plan, s)) for s in range(plan.shards)] == [
        plan.shard_samples(s) for s in range(plan.shards)
    ]


def test_entries_are_found_across_batches_of_the_listing(layout, monkeypatch):
    monkeypatch.setattr(plan_module, "LISTING_BATCH", 8)
    entries = plain(61)
    plan = freeze(layout, iter(entries))
    order = permuted(np.arange(61), size=61, seed=plan.seed)
    assert everything(layout, plan) == [entries[row] for row in order]


def test_some_samples_of_a_shard_are_read_alone_in_the_order_asked_for(layout, monkeypatch):
    monkeypatch.setattr(plan_module, "LISTING_BATCH", 8)
    plan = freeze(layout, iter(plain(61)), samples_per_shard=16)
    for shard in range(plan.shards):
        whole_shard = planned_entries(layout, plan, shard)
        for samples in ([], [3], [9, 0, 5, 5]):
            assert planned_entries(layout, plan, shard, samples) == [whole_shard[sample] for sample in samples]
    for wrong in ([13], [2.5], ["x"]):
        with pytest.raises(LookupError):
            planned_entries(layout, plan, 3, wrong)


def test_a_limit_takes_the_first_of_the_same_permutation(layout, tmp_path):
    entries = plain(100)
    plan = freeze(layout, entries)
    limited = freeze(CacheLayout(tmp_path / "limited", "demo"), entries, samples=20)
    found = everything(CacheLayout(tmp_path / "limited", "demo"), limited)
    assert found == everything(layout, plan)[:20]
    # And so it holds pictures of all the listing, not of its beginning.
    assert max(entry.size for entry in found) > 70


def test_another_seed_is_another_order_of_the_same_pictures(layout, tmp_path):
    entries, other = plain(100), CacheLayout(tmp_path / "other", "demo")
    first, second = everything(layout, freeze(layout, entries)), everything(other, freeze(other, entries, seed=4))
    assert first != second
    assert {entry.file for entry in first} == {entry.file for entry in second}


def test_the_same_source_gives_the_same_file(layout, tmp_path):
    other = CacheLayout(tmp_path / "other", "demo")
    assert freeze(layout, plain(100)).fingerprint == freeze(other, iter(plain(100))).fingerprint
    assert layout.listing.read_bytes() == other.listing.read_bytes()


def test_the_hash_is_that_of_the_file(layout):
    plan = freeze(layout, plain(100))
    data = layout.listing.read_bytes()
    assert plan.listing.bytes == len(data)
    assert plan.listing.sha256 == hashlib.sha256(data).hexdigest()


def test_rejected_things_land_in_the_quarantine_and_are_not_planned(layout):
    entries = plain(5)
    rejected = [Rejected("a/évil\n", "a link"), Rejected("b.zip", "an archive; unpack it")]
    plan = freeze(layout, [entries[0], rejected[0], *entries[1:], rejected[1]])
    lines = layout.listing_quarantine.read_bytes()
    assert [json.loads(line) for line in lines.splitlines()] == [
        {"name": item.name, "reason": item.reason} for item in rejected
    ]
    assert (plan.listed, plan.rejected) == (5, 2)
    assert plan.listing_quarantine.sha256 == hashlib.sha256(lines).hexdigest()
    assert {entry.file for entry in everything(layout, plan)} == {entry.file for entry in entries}


def test_without_rejected_things_there_is_no_quarantine(layout):
    plan = freeze(layout, plain(5))
    assert plan.listing_quarantine is None
    assert not layout.listing_quarantine.exists()


def test_a_listing_without_rejected_things_replaces_one_that_had_some(layout):
    # A first start was killed between its listing and its plan; the source was repaired; a second one lists anew.
    freeze(layout, [*plain(5), Rejected("a", "b")])
    freeze(layout, plain(6))
    assert not layout.listing_quarantine.exists()


@pytest.mark.parametrize("found", [[], [Rejected("a", "b")]])
def test_a_source_without_pictures_is_refused_and_leaves_nothing(layout, found):
    with pytest.raises(SourceError, match="no pictures at all"):
        freeze(layout, found)
    assert [path for path in layout.out.rglob("*") if path.is_file()] == []


def test_a_source_that_fails_midway_leaves_nothing(layout):
    def found():
        yield from plain(10)
        yield Rejected("a", "b")
        raise SourceError("a folder can't be read")

    with pytest.raises(SourceError, match="can't be read"):
        freeze(layout, found())
    assert [path for path in layout.out.rglob("*") if path.is_file()] == []


def test_progress_counts_what_is_listed(layout, monkeypatch):
    monkeypatch.setattr(plan_module, "LISTING_BATCH", 8)
    seen = []
    freeze_listing(layout, [*plain(20), Rejected("a", "b")], on_progress=seen.append)
    assert seen == [8, 16, 20]


def test_every_truncation_of_the_listing_raises(layout):
    plan = freeze(layout, plain(20))
    data = layout.listing.read_bytes()
    for length in range(0, len(data), 7):
        layout.listing.write_bytes(data[:length])
        with pytest.raises(CorruptCacheError, match=r"listing\.arrow"):
            planned_entries(layout, plan, 0)


@pytest.mark.parametrize("replacement", ["zeros", "noise", "another listing", "longer"])
def test_another_file_in_the_listings_place_raises(layout, tmp_path, replacement):
    plan = freeze(layout, plain(20))
    data = layout.listing.read_bytes()
    other = CacheLayout(tmp_path / "other", "demo")
    freeze(other, plain(30_000))
    layout.listing.write_bytes(
        {
            "zeros": bytes(len(data)),
            "noise": random.Random(0).randbytes(len(data)),
            "another listing": other.listing.read_bytes(),
            "longer": data + b"\0",
        }[replacement]
    )
    with pytest.raises(CorruptCacheError, match=r"listing\.arrow"):
        planned_entries(layout, plan, 0)


def test_a_listing_of_other_columns_raises(layout):
    plan = freeze(layout, plain(20))
    batch = pa.record_batch({"file": pa.array([b"a"])})
    with pa.OSFile(str(layout.listing), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    same_size = plan.model_copy(
        update={"listing": plan.listing.model_copy(update={"bytes": layout.listing.stat().st_size})}
    )
    with pytest.raises(CorruptCacheError, match=r"listing\.arrow"):
        planned_entries(layout, same_size, 0)


def test_a_shard_of_three_hundred_thousand_pictures_costs_what_a_shard_does(layout):
    def synthetic(count):
        return (whole(b"n%08d/n%08d_%d.JPEG" % (i // 1_300, i // 1_300, i), i % 997, 100) for i in range(count))

    plan = freeze(layout, synthetic(300_000), samples_per_shard=1_024)
    planned_entries(layout, plan, 0)
    tracemalloc.start()
    arrow_before = pa.total_allocated_bytes()
    entries = planned_entries(layout, plan, 150)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len({entry.file for entry in entries}) == 1_024
    assert peak < 4 * 2**20
    assert pa.total_allocated_bytes() - arrow_before < 2**20


def test_a_source_is_listed_in_the_memory_of_one_batch(layout, monkeypatch):
    monkeypatch.setattr(plan_module, "LISTING_BATCH", 500)
    freeze(layout, (whole(b"a/%06d.jpg" % index) for index in range(1_000)))
    tracemalloc.start()
    freeze(layout, (whole(b"a/%06d.jpg" % index) for index in range(20_000)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20  # all of the entries at once are about 6 MB


def test_a_hashed_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "x" / "a"
    with hashed_file(path) as file:
        file.write(b"abc")
        file.write_line({"b": 1, "a": "é"})
        assert not path.exists()
        assert file.tell() == 3 + file.write(b"") + len(b'{"a":"\\u00e9","b":1}\n')
    assert path.read_bytes() == b'abc{"a":"\\u00e9","b":1}\n'
    assert file.hash().sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (file.hash().bytes, file.lines) == (path.stat().st_size, 1)
    with pytest.raises(OSError, match="disk"), hashed_file(path) as file:  # noqa: PT012
        file.write(b"new")
        raise OSError("disk")
    assert path.read_bytes().startswith(b"abc")
    assert [entry.name for entry in path.parent.iterdir()] == ["a"]


def test_a_discarded_file_does_not_appear(tmp_path):
    with hashed_file(tmp_path / "a") as file:
        file.write(b"abc")
        file.discard()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("pictures", "size", "shards"),
    [
        (1, 64, 1), (64, 64, 1), (960, 64, 15), (1_000, 64, 16), (1_024, 64, 16), (1_921, 128, 16), (1_920, 64, 30),
        (7_681, 512, 16), (7_680, 256, 30), (15_360, 512, 30), (15_361, 1_024, 16), (100_170, 1_024, 98),
        (14_000_000, 1_024, 13_672),
    ],
)  # fmt: skip
def test_small_sets_are_cut_so_that_sixteen_workers_have_something_to_do(pictures, size, shards):
    assert default_samples_per_shard(pictures) == size
    assert -(-pictures // size) == shards
