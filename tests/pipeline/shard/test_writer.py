import gc
import hashlib
import tarfile

import pytest
import webdataset

from richsem_prep.shard.writer import open_tar, write_index
from richsem_schemas.cache.index import VIEW_COLUMNS, read_view_index
from richsem_schemas.cache.layout import sample_key

GOLDEN = "72530388ceea10f3ac3dc9c9b7c5a2ed44149bf89da74933513084183ea6e892"
SIZES = [0, 1, 511, 512, 513, 10_240, 100_000]
SAMPLES = {
    sample_key(3, index): {"jpg": bytes([index]) * size, "json": b'{"size": %d}' % size}
    for index, size in enumerate(SIZES)
}


def write(path, samples=SAMPLES):
    offsets = {}
    with open_tar(path) as (tar, file):
        for key, members in samples.items():
            offsets[key] = tar.add(key, members)
    return offsets, file.hash()


def test_plain_tarfile_reads_every_member_in_order(tmp_path):
    write(tmp_path / "a.tar")
    with tarfile.open(tmp_path / "a.tar") as archive:
        found = [(info.name, archive.extractfile(info).read()) for info in archive]
    assert found == [
        (f"{key}.{extension}", content) for key, members in SAMPLES.items() for extension, content in members.items()
    ]


def test_plain_webdataset_reads_every_sample(tmp_path):
    write(tmp_path / "a.tar")
    found = list(webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False, empty_check=False))
    assert [sample["__key__"] for sample in found] == list(SAMPLES)
    for sample in found:
        assert {name: sample[name] for name in ("jpg", "json")} == SAMPLES[sample["__key__"]]


def test_offsets_point_at_the_members_bytes(tmp_path):
    offsets, _ = write(tmp_path / "a.tar")
    data = (tmp_path / "a.tar").read_bytes()
    for key, members in SAMPLES.items():
        for extension, content in members.items():
            start = offsets[key][extension]
            assert data[start : start + len(content)] == content
    with tarfile.open(tmp_path / "a.tar") as archive:
        for info in archive:
            key, extension = info.name.split(".")
            assert info.offset_data == offsets[key][extension]


def test_several_views_of_a_sample_are_members_of_it(tmp_path):
    members = {"mosaic-10.npy": b"c", "crop-0.npy": b"a", "mosaic-2.npy": b"d" * 600, "crop-1.npy": b"b"}
    offsets, _ = write(tmp_path / "a.tar", {sample_key(0, 0): members})
    data = (tmp_path / "a.tar").read_bytes()
    for extension, content in members.items():
        assert data[offsets["000000-00000"][extension] :][: len(content)] == content
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert archive.getnames() == [f"000000-00000.{extension}" for extension in sorted(members)]


def test_the_order_in_which_members_are_given_does_not_count(tmp_path):
    backwards = {key: dict(reversed(members.items())) for key, members in SAMPLES.items()}
    assert write(tmp_path / "a.tar")[1] == write(tmp_path / "b.tar", backwards)[1]


def test_bytes_are_the_same_at_any_time_for_any_user(tmp_path, monkeypatch):
    write(tmp_path / "a.tar")
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.5)
    monkeypatch.setenv("USER", "somebody")
    write(tmp_path / "b.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as archive:
        facts = {(info.mtime, info.uid, info.gid, info.uname, info.gname, info.mode, info.type) for info in archive}
        assert not archive.pax_headers
    assert facts == {(0, 0, 0, "richsem", "richsem", 0o444, tarfile.REGTYPE)}


def test_bytes_never_change(tmp_path):
    # Another value means that finished shards of one cache would differ with the version of richsem or webdataset.
    _, found = write(tmp_path / "a.tar")
    assert found.sha256 == GOLDEN


def test_the_hash_is_that_of_the_whole_file(tmp_path):
    _, found = write(tmp_path / "a.tar")
    data = (tmp_path / "a.tar").read_bytes()
    assert (found.bytes, found.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert data.endswith(bytes(1_024))


def test_a_tar_without_samples_is_a_whole_tar(tmp_path):
    write(tmp_path / "a.tar", {})
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert archive.getnames() == []


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_an_exception_leaves_nothing_and_says_nothing_more(tmp_path):
    with pytest.raises(OSError, match="disk"), open_tar(tmp_path / "a.tar") as (tar, _):  # noqa: PT012
        tar.add("000000-00000", {"jpg": bytes(100_000)})
        raise OSError("disk")
    assert list(tmp_path.iterdir()) == []
    del tar
    gc.collect()


def test_an_exception_leaves_the_shard_that_was_there(tmp_path):
    write(tmp_path / "a.tar")
    before = (tmp_path / "a.tar").read_bytes()
    with pytest.raises(OSError, match="disk"), open_tar(tmp_path / "a.tar") as (tar, _):  # noqa: PT012
        tar.add("000000-00000", {"jpg": b"new"})
        raise OSError("disk")
    assert (tmp_path / "a.tar").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_a_tar_is_not_visible_before_it_is_whole(tmp_path):
    with open_tar(tmp_path / "a.tar") as (tar, _):
        tar.add("000000-00000", {"jpg": b"x"})
        assert not (tmp_path / "a.tar").exists()
        assert all(path.suffix == ".tmp" and path.name.startswith(".") for path in tmp_path.iterdir())
    assert (tmp_path / "a.tar").exists()


def test_content_that_is_no_bytes_is_refused(tmp_path):
    with pytest.raises(Exception, match="bytes"), open_tar(tmp_path / "a.tar") as (tar, _):
        tar.add("000000-00000", {"jpg": "text"})
    assert list(tmp_path.iterdir()) == []


def test_an_index_is_written_with_its_hash(tmp_path):
    rows = [("000000-00000", 0, "crop", 0, 1, 1, 512, 100)]
    found = write_index(tmp_path / "x" / "a.parquet", rows, VIEW_COLUMNS)
    data = (tmp_path / "x" / "a.parquet").read_bytes()
    assert (found.bytes, found.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert read_view_index(tmp_path / "x" / "a.parquet")[0].size == 100
