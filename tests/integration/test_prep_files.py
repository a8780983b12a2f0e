"""What `view`, `text` and `rescore` write: never over what they read, and told where a disk is full."""

import os
import shutil
import sys

import pytest

from richsem_prep.verify.cache import verify_cache
from richsem_schemas.cache.layout import CacheLayout
from richsem_schemas.cache.reader import open_cache
from tests.integration.programs import error_of
from tests.integration.shard_job import shard, tar_hashes
from tests.pictures import write_pictures

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("data") / "pictures", 12)


@pytest.fixture(scope="module")
def made(source, resnet, small_views, tmp_path_factory):
    """A cache that refers to its originals, in two shards."""
    out = tmp_path_factory.mktemp("caches") / "made"
    assert shard(source, out, resnet, samples_per_shard=6, mosaics=1, pictures="reference")[0].complete
    return out


@pytest.fixture
def cache(made, tmp_path):
    """A copy of the cache, to be spoilt."""
    return shutil.copytree(made, tmp_path / "cache")


def refuses(prep, cache, html):
    before = {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()}
    message = error_of(prep("view", cache, "--html", html))
    assert {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()} == before
    return message


@pytest.mark.parametrize("linked", [False, True])
def test_a_page_is_not_written_over_a_file_of_its_cache(prep, cache, tmp_path, linked):
    files = sorted(path for path in cache.rglob("*") if path.is_file())
    assert len(files) > 12
    for number, path in enumerate(files):
        html = path
        if linked:
            html = tmp_path / f"{number}.html"
            html.symlink_to(path)
        assert str(html) in refuses(prep, cache, html).replace("\n", "")


def test_nor_over_a_shard_by_another_name_or_an_original_that_it_shows(prep, cache, source, tmp_path):
    layout, html = CacheLayout(cache, "folder"), tmp_path / "views.html"
    labels = next(iter(open_cache(cache).label_sets))
    os.link(layout.label_set(labels).tar(0), html)
    assert "would be overwritten" in refuses(prep, cache, html)
    html.unlink()
    own = shutil.copytree(source, tmp_path / "own")
    picture = own / "class_0" / "00000.jpg"
    before = picture.read_bytes()
    message = error_of(prep("view", cache, "--root", own, "--views", 100, "--html", picture))
    assert f"{picture} would be overwritten" in message
    assert picture.read_bytes() == before


def test_a_page_may_be_written_again_but_not_into_the_cache(prep, cache, tmp_path):
    for _ in range(2):
        assert prep("view", cache, "--html", tmp_path / "views.html")[0] == 0
    (tmp_path / "linked").symlink_to(cache)
    for html in (cache / "views.html", cache / "labels" / "views.html", tmp_path / "linked" / "views.html"):
        assert "lies in the cache" in refuses(prep, cache, html)
    assert not verify_cache(cache).problems


def assert_full(message, path):
    assert message.startswith(f"error: {path}: No space left on device (")
    assert "bytes are free" in message
    assert message.endswith("; free some, or write to another disk")


def fill(disk):
    (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free))


@on_linux
def test_view_on_a_full_disk_names_the_page(prep, made, small_disk):
    disk = small_disk(16)
    fill(disk)
    assert_full(error_of(prep("view", made, "--html", disk / "v.html")), disk / "v.html")
    assert [path.name for path in disk.iterdir()] == ["filler"]
    small_disk(10_000)
    assert prep("view", made, "--html", disk / "v.html")[0] == 0


@on_linux
def test_text_on_a_full_disk_names_the_file_and_can_be_made_again(prep, resnet, small_disk, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\n")
    disk = small_disk(16)
    fill(disk)
    arguments = ("text", "--teacher", resnet, "--names", names, "--templates", "name-only", "--out", disk / "text")
    assert_full(error_of(prep(*arguments)), disk / "text" / "features.npy")
    assert not list(disk.rglob("*.tmp"))
    small_disk(10_000)
    code, output = prep(*arguments)
    assert code == 0, output


@on_linux
def test_rescore_on_a_full_disk_names_the_file_and_goes_on(prep, made, small_disk):
    disk = small_disk(10_000)
    cache = disk / "c"
    shutil.copytree(made, cache)
    used = 10_000 - shutil.disk_usage(disk).free // 1024
    failed = 0
    for more in (0, 4, 8, 16, 24, 32, 48, 64, 96, 128, 256):
        small_disk(used + more)
        code, output = prep("rescore", cache, "--label-set", "soft", "--temperature", 2)
        if code == 0:
            break
        failed += 1
        message = error_of((code, output))
        assert message.startswith(f"error: {cache}"), message
        assert ": No space left on device" in message
        assert not [path for path in disk.rglob("*.tmp") if path.is_file()]
    assert failed > 2
    assert code == 0, output
    whole = shutil.copytree(made, disk.parent / "whole")
    assert prep("rescore", whole, "--label-set", "soft", "--temperature", 2)[0] == 0
    assert tar_hashes(cache) == tar_hashes(whole)
    assert not verify_cache(cache).problems
