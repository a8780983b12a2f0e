import io
import tarfile

import numpy as np
import pytest

from richsem_prep.verify.cache import verify_cache
from tests.caches import LABELS
from tests.pipeline.verify.forging import (
    labels_of,
    messages_of,
    only_on,
    paths_of,
    pictures_of,
    problems_of,
    reseal,
    rewrite_pictures,
    rewrite_tar,
    rewrite_views,
    with_field,
)


def append_member(shard, name, data=b"", **fields):
    """Put one more member into a tar and make all hashes right."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    with tarfile.open(shard.tar, mode="a") as tar:
        tar.addfile(info, io.BytesIO(data))
    reseal(shard)


def test_a_member_that_the_index_has_not_is_found(cache):
    append_member(pictures_of(cache), "999999-00000.pth", b"abc")
    assert messages_of(cache) == ["it goes on with '999999-00000.pth', which the index has not"]


def test_a_link_in_a_tar_is_found(cache):
    append_member(labels_of(cache), "evil", type=tarfile.SYMTYPE, linkname="/etc/passwd")
    assert messages_of(cache) == ["'evil' is no plain file"]


def test_bytes_behind_the_end_are_found_even_where_the_hashes_fit(cache):
    shard = labels_of(cache)
    shard.tar.write_bytes(shard.tar.read_bytes() + bytes(511) + b"x")
    reseal(shard)
    assert messages_of(cache) == ["something stands behind the end of the archive"]


def test_a_tar_cut_at_a_member_is_found_even_where_the_hashes_fit(cache):
    shard = pictures_of(cache)
    row = shard.rows()[8]
    shard.tar.write_bytes(shard.tar.read_bytes()[: min(row["offset"], row["json_offset"]) - 512])
    reseal(shard)
    (message,) = messages_of(cache)
    assert "no tar header" in message


def other_mtime(header):
    return with_field(header, 136, b"00000000007\0")


def spaces_around_the_size(header):
    return with_field(header, 124, b"%11o " % int(header[124:135], 8))


@pytest.mark.parametrize("only", [None, 0, 5])
@pytest.mark.parametrize("chunk_bytes", [1, 2**21])
@pytest.mark.parametrize("change", [other_mtime, spaces_around_the_size])
def test_headers_may_be_spelled_otherwise_all_or_one(cache, monkeypatch, change, chunk_bytes, only):
    monkeypatch.setattr("richsem_prep.verify.tar.CHUNK_BYTES", chunk_bytes)
    for shard in (pictures_of(cache), labels_of(cache)):
        rewrite_tar(shard, change, only=only)
    assert problems_of(cache) == ()


@pytest.mark.parametrize("only", [None, 5])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: with_field(header, 0, b"9"), "stands where the index has"),
        (lambda header: with_field(header, 11, b"\xff"), "stands where the index has"),
        (lambda header: with_field(header, 345, b"folder"), "stands where the index has"),
        (lambda header: with_field(header, 124, b"77777777777"), "more than there are"),
        (lambda header: with_field(header, 124, b"00000000001"), "stands where the index has"),
        (lambda header: with_field(header, 156, b"2"), "is no plain file"),
        (lambda header: header[:148] + b"000000\0 " + header[156:], "no tar header"),
    ],
    ids=["name", "no ASCII", "prefix", "large", "small", "link", "checksum"],
)
def test_a_header_that_is_not_what_the_index_has_is_found_even_where_the_hashes_fit(cache, change, message, only):
    for shard in (pictures_of(cache), labels_of(cache)):
        rewrite_tar(shard, change, only=only)
    problems = problems_of(cache)
    assert paths_of(problems) == {"pictures/folder-000000.tar", f"labels/{LABELS}/folder-000000.tar"}
    assert all(message in problem.message for problem in problems), problems


def test_chunks_of_any_size_find_the_same(cache, monkeypatch):
    whole = verify_cache(cache.layout.out)
    monkeypatch.setattr("richsem_prep.verify.tar.CHUNK_BYTES", 1)
    assert verify_cache(cache.layout.out) == whole

    def change(labelled):
        labelled.embeddings[0] = np.roll(labelled.embeddings[0], 1)

    rewrite_views(cache, only_on("mosaic", change))
    rewrite_pictures(cache, change_sidecar=lambda sidecar: sidecar | {"height": 1}, shard=2)
    assert paths_of(problems_of(cache)) == {f"labels/{LABELS}/folder-000000.tar", "pictures/folder-000002.tar"}
