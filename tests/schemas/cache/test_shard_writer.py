import errno
import gc
import hashlib
import tarfile

import numpy as np
import pytest
import webdataset

from richsem_schemas.cache.index import VIEW_ROW
from richsem_schemas.cache.layout import CacheLayout, sample_key
from richsem_schemas.cache.shard import LabelShard
from richsem_schemas.cache.shard_writer import ShardWriter
from richsem_schemas.io.output_files import FullDiskError

GOLDEN = "72530388ceea10f3ac3dc9c9b7c5a2ed44149bf89da74933513084183ea6e892"
SIZES = [0, 1, 511, 512, 513, 10_240, 100_000]
SAMPLES = {
    sample_key(3, index): {"jpg": bytes([index]) * size, "json": b'{"size": %d}' % size}
    for index, size in enumerate(SIZES)
}


NO_ROWS = np.empty(0, VIEW_ROW)


def shard_of(out):
    return LabelShard(CacheLayout(out, "a").label_set("set"), 3)


def write(shard, samples=SAMPLES):
    with ShardWriter(shard) as writer:
        offsets = {key: writer.add(key, members) for key, members in samples.items()}
        return offsets, writer.finish(NO_ROWS, samples=len(samples)).tar


@pytest.fixture
def shard(tmp_path):
    return shard_of(tmp_path)


def test_plain_tarfile_reads_every_member_in_order(shard):
    write(shard)
    with tarfile.open(shard.tar) as archive:
        found = [(info.name, archive.extractfile(info).read()) for info in archive]
    assert found == [
        (f"{key}.{extension}", content) for key, members in SAMPLES.items() for extension, content in members.items()
    ]


def test_plain_webdataset_reads_every_sample(shard):
    write(shard)
    found = list(webdataset.WebDataset(str(shard.tar), shardshuffle=False, empty_check=False))
    assert [sample["__key__"] for sample in found] == list(SAMPLES)
    for sample in found:
        assert {name: sample[name] for name in ("jpg", "json")} == SAMPLES[sample["__key__"]]


def test_offsets_point_at_the_members_bytes(shard):
    members = {"mosaic-10.npy": b"c", "crop-0.npy": b"a", "mosaic-2.npy": b"d" * 600, "crop-1.npy": b"b"}
    samples = SAMPLES | {"000003-00099": members}
    offsets, _ = write(shard, samples)
    data = shard.tar.read_bytes()
    for key, contents in samples.items():
        for extension, content in contents.items():
            assert data[offsets[key][extension] :][: len(content)] == content
    with tarfile.open(shard.tar) as archive:
        found = [(info.name, info.offset_data) for info in archive]
    assert found == [(f"{key}.{name}", offsets[key][name]) for key in samples for name in sorted(samples[key])]


def test_the_order_in_which_members_are_given_does_not_count(tmp_path):
    backwards = {key: dict(reversed(members.items())) for key, members in SAMPLES.items()}
    assert write(shard_of(tmp_path / "a"))[1] == write(shard_of(tmp_path / "b"), backwards)[1]


def test_bytes_are_the_same_at_any_time_for_any_user(tmp_path, monkeypatch):
    a, b = shard_of(tmp_path / "a"), shard_of(tmp_path / "b")
    write(a)
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.5)
    monkeypatch.setenv("USER", "somebody")
    write(b)
    assert a.tar.read_bytes() == b.tar.read_bytes()
    with tarfile.open(a.tar) as archive:
        facts = {(info.mtime, info.uid, info.gid, info.uname, info.gname, info.mode, info.type) for info in archive}
        assert not archive.pax_headers
    assert facts == {(0, 0, 0, "richsem", "richsem", 0o444, tarfile.REGTYPE)}


def test_bytes_never_change(shard):
    # Another value means that finished shards of one cache would differ with the version of richsem or webdataset.
    _, found = write(shard)
    assert found.sha256 == GOLDEN


def test_a_tar_without_samples_is_a_whole_tar(shard):
    write(shard, {})
    with tarfile.open(shard.tar) as archive:
        assert archive.getnames() == []


def test_the_summary_has_counts_and_the_hashes_of_whole_files(shard):
    rows = np.array(
        [("000003-00000", 0, "crop", 0, 1, 1, 512, 100), ("000003-00000", 0, "mosaic", 0, 4, 3, 2048, 9)], VIEW_ROW
    )
    with ShardWriter(shard) as writer:
        writer.add("000003-00000", {"crop-0.npy": bytes(100)})
        summary = writer.finish(rows, samples=5, quarantined=2)
    counts = (summary.shard, summary.samples, summary.views, summary.regions, summary.quarantined)
    assert counts == (3, 5, 2, 4, 2)
    for path, found in ((shard.tar, summary.tar), (shard.index, summary.index)):
        data = path.read_bytes()
        assert (found.bytes, found.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert shard.tar.read_bytes().endswith(bytes(1_024))
    assert shard.rows(summary.index).tolist() == rows.tolist()
    assert not shard.receipt.exists()


def fail_midway(shard):
    with pytest.raises(OSError, match="disk"), ShardWriter(shard) as writer:  # noqa: PT012
        writer.add("000000-00000", {"jpg": bytes(100_000)})
        raise OSError("disk")


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_an_exception_leaves_nothing_and_says_nothing_more(shard):
    fail_midway(shard)
    assert list(shard.tar.parent.iterdir()) == []
    assert not shard.index.exists()
    gc.collect()


def test_an_exception_leaves_the_shard_that_was_there(shard):
    write(shard)
    before = shard.tar.read_bytes(), shard.index.read_bytes()
    fail_midway(shard)
    assert (shard.tar.read_bytes(), shard.index.read_bytes()) == before
    assert [path.name for path in shard.tar.parent.iterdir()] == [shard.tar.name]


def test_a_full_disk_is_named(shard):
    with pytest.raises(FullDiskError, match="a-000003"), ShardWriter(shard):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_neither_tar_nor_index_is_visible_before_the_tar_is_whole(shard):
    with ShardWriter(shard) as writer:
        writer.add("000000-00000", {"jpg": b"x"})
        assert not shard.tar.exists()
        assert not shard.index.exists()
        assert all(path.suffix == ".tmp" and path.name.startswith(".") for path in shard.tar.parent.iterdir())
        writer.finish(NO_ROWS, samples=1)
    assert shard.tar.exists()


def test_content_that_is_no_bytes_is_refused(shard):
    with pytest.raises(ValueError, match="bytes"), ShardWriter(shard) as writer:
        writer.add("000000-00000", {"jpg": "text"})
    assert list(shard.tar.parent.iterdir()) == []
