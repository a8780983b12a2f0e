"""Caches at URLs are read through a bounded folder, which processes share and which survives their deaths."""

import os
import shutil
import subprocess
import sys
import uuid

import fsspec
import pytest

from richsem_schemas.io.places import RemotePath, open_place
from richsem_train.data.cache import local as local_cache
from richsem_train.data.cache.local import KeptPath, Store
from richsem_train.data.cache.source import ExpectedCache, open_training_cache, read_through
from richsem_train.data.damage import DamagedViewError
from richsem_train.data.extra import ExtraDataset
from tests.caches import SyntheticCache
from tests.trainer.data.datasets import assert_same_samples, one_round


def uploaded(folder):
    """The files of a folder at a URL of its own."""
    place = open_place(f"memory://{uuid.uuid4().hex}")
    files, path = fsspec.core.url_to_fs(str(place))
    for file in folder.rglob("*"):
        if file.is_file():
            files.pipe_file(f"{path}/{file.relative_to(folder).as_posix()}", file.read_bytes())
    return place


@pytest.fixture
def remote(finished_cache):
    return uploaded(finished_cache.layout.out)


def dataset_of(out, folder=None, *, gigabytes=1.0, root=None, on_damage="stop"):
    cache = open_training_cache(out, expected=ExpectedCache(labels="topk"), root=root)
    if folder is not None:
        cache = read_through(cache, gigabytes=gigabytes, folder=folder)
    return ExtraDataset(cache, seed=0, lanes=4, on_damage=on_damage, block_bytes=2**24)


def bytes_of(folder):
    return sum(path.stat().st_size for path in folder.glob("??/*"))


def requests_of(monkeypatch):
    """Counts what is read over the network from here on."""
    made = []
    for name in ("read_bytes", "read_range", "open"):
        real = getattr(RemotePath, name)

        def counted(self, *arguments, real=real, name=name):
            made.append((name, str(self)))
            return real(self, *arguments)

        monkeypatch.setattr(RemotePath, name, counted)
    return made


def test_samples_are_those_of_the_local_cache_and_the_second_round_asks_for_nothing(
    finished_cache, remote, tmp_path, monkeypatch
):
    expected = one_round(dataset_of(finished_cache.layout.out))
    first = one_round(dataset_of(remote, tmp_path / "kept"))
    dataset = dataset_of(remote, tmp_path / "kept")
    made = requests_of(monkeypatch)
    second = one_round(dataset)
    assert made == []
    assert_same_samples(first, expected)
    assert_same_samples(second, expected)


def test_a_local_cache_is_read_as_before(finished_cache, tmp_path):
    cache = open_training_cache(finished_cache.layout.out, expected=ExpectedCache(labels="topk"))
    assert read_through(cache, gigabytes=1.0, folder=tmp_path).source.layout == cache.source.layout
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_kept_where_nothing_may_be(remote, tmp_path):
    one_round(dataset_of(remote, tmp_path, gigabytes=0))
    assert list(tmp_path.iterdir()) == []


def test_what_is_kept_stays_within_the_bound(finished_cache, remote, tmp_path):
    expected = [sample.name for sample in one_round(dataset_of(finished_cache.layout.out))]
    whole = tmp_path / "whole"
    one_round(dataset_of(remote, whole))
    limit = bytes_of(whole) // 2
    for _ in range(2):
        samples = one_round(dataset_of(remote, tmp_path / "half", gigabytes=limit / 1e9))
        assert [sample.name for sample in samples] == expected
        assert 0 < bytes_of(tmp_path / "half") <= limit


def test_another_cache_at_the_same_url_is_not_taken_for_the_old_one(finished_cache, remote, tmp_path):
    dataset = dataset_of(remote, tmp_path)
    one_round(dataset)
    path = dataset.cache.source.layout.pictures_tar(0)
    other = KeptPath(path.url, path.typed_length, store=path.store, version="another")
    fsspec.filesystem("memory").pipe_file(path.url.removeprefix("memory:/"), b"other bytes")
    assert other.read_bytes() == b"other bytes"
    assert other.read_range(6, 3) == b"byt"


def test_what_is_kept_and_was_damaged_is_fetched_again(finished_cache, remote, tmp_path):
    expected = one_round(dataset_of(remote, tmp_path))
    for file in tmp_path.glob("??/*"):
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    # Of files that are kept whole parts are read once the whole was checked.
    assert_same_samples(one_round(dataset_of(remote, tmp_path)), expected)


@pytest.mark.parametrize("file", ["pictures_tar", "labels", "labels_index"])
def test_what_was_restored_at_its_url_is_read_from_there(finished_cache, remote, tmp_path, file):
    layout = open_training_cache(remote, expected=ExpectedCache(labels="topk")).source.layout
    label_set = layout.label_set(finished_cache.label_set.name)
    path = {"pictures_tar": layout.pictures_tar, "labels": label_set.tar, "labels_index": label_set.index}[file](0)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[600 :: len(whole) // 50] = bytes(len(damaged[600 :: len(whole) // 50]))
    path.write_bytes(damaged)
    with pytest.raises(DamagedViewError):
        one_round(dataset_of(remote, tmp_path))
    path.write_bytes(whole)
    assert len(one_round(dataset_of(remote, tmp_path))) > 0


def test_a_network_that_fails_is_asked_again_a_bounded_number_of_times(remote, tmp_path, monkeypatch):
    monkeypatch.setattr(local_cache, "_FIRST_PAUSE_SECONDS", 0.0)
    path = KeptPath(f"{remote}/manifest.json", store=Store(tmp_path, 2**20), version="1")
    real, asked = RemotePath.read_bytes, []

    def flaky(self):
        asked.append(self)
        if len(asked) < 3:
            raise OSError(5, "connection reset", str(self))
        return real(self)

    monkeypatch.setattr(RemotePath, "read_bytes", flaky)
    assert path.read_bytes() == (remote / "manifest.json").read_bytes()
    asked.clear()
    monkeypatch.setattr(RemotePath, "read_bytes", lambda self: asked.append(self) or (_ for _ in ()).throw(OSError(5)))
    with pytest.raises(OSError, match="5"):
        (path.parent / "other").read_bytes()
    assert len(asked) == local_cache.ATTEMPTS


def test_a_network_that_stays_away_stops_the_run_or_is_skipped(finished_cache, remote, tmp_path, monkeypatch):
    monkeypatch.setattr(local_cache, "_FIRST_PAUSE_SECONDS", 0.0)
    dataset, patient = dataset_of(remote, tmp_path), dataset_of(remote, tmp_path, on_damage="skip")
    real = RemotePath.read_range

    def partly(self, offset, size):
        if self.name.endswith("-000001.tar"):
            raise OSError(5, "connection reset", str(self))
        return real(self, offset, size)

    monkeypatch.setattr(RemotePath, "read_range", partly)
    with pytest.raises(DamagedViewError, match="connection reset"):
        one_round(dataset)
    assert any(sample.damage for sample in one_round(patient))


def test_the_least_recently_used_goes_first(tmp_path):
    store = Store(tmp_path, 1000)
    for number, key in enumerate("abc"):
        store.put(key, bytes(250))
        os.utime(store._path(key, local_cache.WHOLE), ns=(number, number))
    assert store.get("a") == bytes(250)  # which makes it the newest
    store.put("d", bytes(300))
    assert [key for key in "abcd" if store.get(key) is not None] == ["a", "c", "d"]
    assert bytes_of(tmp_path) <= 1000


def test_what_is_larger_than_the_bound_is_not_kept(tmp_path):
    store = Store(tmp_path, 1000)
    store.put("a", bytes(100))
    store.put("b", bytes(2000))
    assert store.get("b") is None
    assert store.get("a") == bytes(100)


def test_leftovers_of_the_dead_are_cleared(tmp_path):
    store = Store(tmp_path, 1000)
    store.put("a", bytes(100))
    dead = store._path("a", local_cache.WHOLE).with_name("x.tmp")
    dead.write_bytes(bytes(800))
    os.utime(dead, ns=(0, 0))
    store.put("b", bytes(900 - 300))
    store.put("c", bytes(400))
    assert not dead.exists()


def test_a_folder_that_cant_be_written_only_costs_time(remote, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    store = Store(tmp_path / "file", 1000)
    path = KeptPath(f"{remote}/manifest.json", store=store, version="1")
    assert path.read_bytes() == (remote / "manifest.json").read_bytes()


_HAMMER = """
import sys
from pathlib import Path
from richsem_train.data.cache.local import Store
store = Store(Path(sys.argv[1]), 100_000)
for turn in range(300):
    key = str((turn * 7 + int(sys.argv[2])) % 40)
    content = store.get(key)
    assert content is None or content == key.encode() * 2000, key
    if content is None:
        store.put(key, key.encode() * 2000)
"""


def test_several_processes_share_one_folder_and_one_may_die(tmp_path):
    processes = [subprocess.Popen([sys.executable, "-c", _HAMMER, str(tmp_path), str(number)]) for number in range(3)]
    processes[0].kill()
    assert [process.wait() for process in processes][1:] == [0, 0]
    assert bytes_of(tmp_path) <= 100_000


def test_referenced_pictures_at_a_url_are_kept_as_well(pictures_root, tmp_path, monkeypatch):
    cache = SyntheticCache(pictures_root, tmp_path / "out", pictures="reference").make()
    root = uploaded(pictures_root)
    expected = one_round(dataset_of(cache.layout.out, root=pictures_root))
    one_round(dataset_of(cache.layout.out, tmp_path / "kept", root=root))
    dataset = dataset_of(cache.layout.out, tmp_path / "kept", root=root)
    made = requests_of(monkeypatch)
    shown = one_round(dataset)
    assert made == []
    assert_same_samples(shown, expected)


def test_the_folder_is_that_of_the_users_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert local_cache.default_folder() == tmp_path / "richsem" / "remote"
    shutil.rmtree(tmp_path, ignore_errors=True)
