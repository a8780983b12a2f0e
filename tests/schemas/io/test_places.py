"""Where caches lie: what a URL keeps of what a local path promises."""

import errno
import os
import pickle
import re
import uuid
from pathlib import Path

import fsspec
import numpy as np
import pytest

from richsem_schemas.cache.index import VIEW_ROW, index_bytes, read_index
from richsem_schemas.cache.layout import CacheLayout
from richsem_schemas.cache.reader import find_layout
from richsem_schemas.cache.span import read_span
from richsem_schemas.errors import CorruptCacheError, IrregularFileError, PictureError, RichSemError, SourceError
from richsem_schemas.io.files import (
    hash_file,
    open_regular,
    read_at,
    read_file,
    size_of,
    temporaries,
    write_atomically,
)
from richsem_schemas.io.places import RemotePath, map_small_files, name_below, open_place
from richsem_schemas.io.sealed_json import read_sealed_json, write_sealed_json
from richsem_schemas.io.words import os_error_text
from richsem_schemas.pictures.originals import WHOLE_FILE, Original, open_below, read_original
from tests.s3_server import new_bucket, s3_server


@pytest.fixture(scope="module")
def s3():
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture(params=["memory", "s3"])
def place(request):
    """An empty remote folder."""
    if request.param == "memory":
        return open_place(f"memory://{uuid.uuid4().hex}/caches")
    return open_place(new_bucket(request.getfixturevalue("s3")) + "/caches")


@pytest.mark.parametrize("text", ["caches/lvis", "/caches/lvis", "s3:caches", "memory:", "a:b/c", "~x", "file:///a/b"])
def test_what_is_no_url_is_a_local_path(text):
    assert open_place(text) == Path(text.removeprefix("file://"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nosuch://bucket/x", "no protocol 'nosuch'"),
        ("ftp://me:hidden@host/x", "password"),
        ("simplecache::nosuch://bucket/x", "no protocol 'nosuch'"),
    ],
)
def test_urls_that_cant_be_used_are_refused_with_the_reason(text, reason):
    with pytest.raises(RichSemError, match=reason) as error:
        open_place(text)
    assert "hidden" not in str(error.value)


def test_a_missing_package_is_named_with_its_remedy(monkeypatch):
    def missing(protocol):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(RichSemError, match=r"pip install 'richsem\[s3\]'"):
        open_place("s3://bucket/x")


def test_names_are_joined_and_taken_apart_as_those_of_paths():
    place = open_place("s3://bucket/caches/")
    file = place / "index" / "a.b.parquet"
    assert str(file) == "s3://bucket/caches/index/a.b.parquet"
    assert (file.name, file.stem, file.suffix) == ("a.b.parquet", "a.b", ".parquet")
    assert file.parent == place / "index" == open_place("s3://bucket/caches/index")
    assert name_below(file, place) == "index/a.b.parquet"
    assert open_place("s3://bucket").parent == open_place("s3://bucket")
    assert open_place("memory://") / "x" == open_place("memory://x")
    with pytest.raises(ValueError, match="does not lie in"):
        name_below(file, open_place("s3://bucket/cache"))


def test_a_place_travels_to_other_processes(place):
    write_atomically(place / "a", b"1")
    copy = pickle.loads(pickle.dumps(CacheLayout(place, "x")))
    assert copy == CacheLayout(place, "x")
    assert (copy.out / "a").read_bytes() == b"1"


def test_a_file_is_written_read_listed_and_removed(place):
    file = place / "labels" / "set" / "spec.json"
    assert not file.exists()
    assert not file.is_file()
    with pytest.raises(FileNotFoundError) as error:
        file.read_bytes()
    assert error.value.filename == str(file)
    write_atomically(file, b"content")
    assert file.is_file()
    assert not file.is_dir()
    assert (place / "labels").is_dir()
    assert file.stat().st_size == 7
    assert (file.read_bytes(), file.read_range(3, 2), file.read_range(5, 9), file.read_range(2, 0)) == (
        b"content", b"te", b"nt", b""
    )  # fmt: skip
    write_atomically(place / "labels" / "x", b"")
    assert [item.name for item in (place / "labels").iterdir()] == ["set", "x"]
    assert place.sizes_below() == {"labels/set/spec.json": 7, "labels/x": 0}
    assert CacheLayout(place, "any").label_sets() == ["set"]
    file.unlink()
    assert not file.is_file()
    file.unlink(missing_ok=True)
    assert place.sizes_below() == {"labels/x": 0}
    assert (place / "nothing").sizes_below() == {}
    assert temporaries(place / "labels") == []


def test_what_another_process_wrote_is_seen_at_once(place):
    assert list_names(place) == []
    raw, path = fsspec.core.url_to_fs(str(place))
    raw.pipe_file(path + "/a", b"1")
    assert list_names(place) == ["a"]
    raw.pipe_file(path + "/b", b"22")
    assert list_names(place) == ["a", "b"]
    assert (place / "b").stat().st_size == 2


def list_names(place):
    return list(place.sizes_below())


def test_a_span_behind_the_end_is_a_file_cut_short(place):
    write_atomically(place / "a.tar", bytes(range(100)))
    assert read_span(place / "a.tar", 90, 10) == bytes(range(90, 100))
    for offset, size in ((95, 10), (100, 1), (500, 10)):
        with pytest.raises(CorruptCacheError, match="cut short"):
            read_span(place / "a.tar", offset, size)


def test_sealed_files_and_indexes_are_those_of_local_caches(place, tmp_path):
    for folder in (place, tmp_path):
        write_sealed_json(folder / "plan" / "x.json", {"a": 1, "b": [1, 2]})
        row = ("000000-00000", 0, "crop", 0, 1, 1, 512, 100)
        write_atomically(folder / "x.parquet", index_bytes(np.array([row], VIEW_ROW)))
    assert (place / "plan" / "x.json").read_bytes() == (tmp_path / "plan" / "x.json").read_bytes()
    assert read_sealed_json(place / "plan" / "x.json") == {"a": 1, "b": [1, 2]}
    assert read_index(place / "x.parquet", VIEW_ROW).tolist() == read_index(tmp_path / "x.parquet", VIEW_ROW).tolist()
    assert hash_file(place / "x.parquet") == hash_file(tmp_path / "x.parquet")
    write_atomically(place / "x.parquet", b"nonsense")
    with pytest.raises(CorruptCacheError, match="not a readable index"):
        read_index(place / "x.parquet", VIEW_ROW)
    write_atomically(place / "plan" / "x.json", b"")
    with pytest.raises(CorruptCacheError, match="damaged"):
        read_sealed_json(place / "plan" / "x.json")
    with pytest.raises(RichSemError, match="holds no cache"):
        find_layout(place)


def test_originals_are_read_whole_and_in_part(place):
    write_atomically(place / "n1" / "a::b ?#%20.jpg", b"0123456789")
    name = b"n1/a::b ?#%20.jpg"
    assert read_original(place, Original(name, WHOLE_FILE, 10)) == b"0123456789"
    assert read_original(place, Original(name, 3, 4)) == b"3456"
    with open_below(place, name) as file:
        assert (size_of(file), read_at(file, 8, 10), read_at(file, 1, 2)) == (10, b"89", b"12")
    with pytest.raises(PictureError, match="truncated"):
        read_original(place, Original(name, 8, 4))
    with pytest.raises(FileNotFoundError):
        read_original(place, Original(b"n1/no.jpg", WHOLE_FILE, 1))
    for outside in (b"../x", b"/x", b"n1/../../x", b""):
        with pytest.raises(SourceError, match="no path below"):
            read_original(place, Original(outside, WHOLE_FILE, 1))


@pytest.mark.slow
def test_large_files_are_uploaded_in_parts_and_read_in_parts(s3, tmp_path, monkeypatch):
    """More than s3fs puts at once: 100 MiB."""
    place = open_place(new_bucket(s3)) / "a.tar"
    data = np.random.default_rng(0).bytes(101 * 2**20)
    (tmp_path / "a").write_bytes(data)
    place.upload(tmp_path / "a")
    assert place.stat().st_size == len(data)
    assert read_span(place, len(data) - 7, 7) == data[-7:]
    assert hash_file(place) == hash_file(tmp_path / "a")


class Unreachable(Exception):
    """What clients of object stores raise is no OSError."""


@pytest.mark.parametrize("raised", [Unreachable("no route\nto host"), PermissionError("Forbidden"), TimeoutError()])
def test_a_network_that_fails_is_an_os_error_that_names_the_file_and_no_answer(place, monkeypatch, raised):
    def fail(*args, **kwargs):
        raise raised

    files, _ = fsspec.core.url_to_fs(str(place), use_listings_cache=False)
    for name in ("info", "cat_file", "pipe_file", "ls", "find", "rm_file", "open"):
        monkeypatch.setattr(files, name, fail, raising=False)
    file = place / "a"
    for call in (file.exists, file.is_file, file.read_bytes, place.scan, place.sizes_below, file.unlink,
                 lambda: write_atomically(file, b""), lambda: read_span(file, 0, 1), lambda: hash_file(file),
                 lambda: read_sealed_json(file)):  # fmt: skip
        with pytest.raises(OSError, match=re.escape(str(place))) as error:
            call()
        assert "\n" not in str(error.value)
        assert isinstance(error.value, type(raised)) or "no route to host" in str(error.value)


def test_several_round_trips_go_at_once_and_their_answers_stay_in_order(place, tmp_path):
    assert map_small_files(place, lambda number: number * 2, range(40)) == list(range(0, 80, 2))
    assert map_small_files(tmp_path, lambda number: number * 2, range(4)) == [0, 2, 4, 6]


def test_a_dead_server_is_an_error_within_seconds(monkeypatch):
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": "http://127.0.0.1:9", "key": "a", "secret": "b"})
    place = RemotePath("s3://bucket/caches")
    with pytest.raises(OSError, match="s3://bucket/caches"):
        place.exists()


def test_only_regular_files_are_opened_and_links_to_them(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("file", "link"):
        assert read_file(tmp_path / name) == b"abc"
        with open_regular(os.fsencode(tmp_path / name)) as file:
            assert file.read(2) == b"ab"
    for path in (tmp_path / "pipe", tmp_path / "device", tmp_path):
        with pytest.raises(IrregularFileError, match="not a regular file, and only those are read"):
            open_regular(path)
        with pytest.raises(IrregularFileError):
            hash_file(path)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "absent")


def test_a_file_larger_than_any_of_its_kind_is_not_read_whole(place):
    write_atomically(place / "a", bytes(100))
    assert read_file(place / "a", limit=100) == bytes(100)
    with pytest.raises(CorruptCacheError, match="more than 99 bytes"):
        read_file(place / "a", limit=99)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file", b"a/\xff.jpg"), "a/\\xff.jpg: No such file"),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), "/x: No space left on device"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (OSError("a library's own words"), "a library's own words"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_what_the_system_says_is_told_with_the_file_and_without_its_number(error, text):
    assert os_error_text(error) == text
