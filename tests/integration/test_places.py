"""Whole caches at URLs: made, gone on with, verified, shown and trained from, in memory and on a real S3 server."""

import os
import shutil
import signal
import time
import uuid
from pathlib import Path

import pytest
import torch

from richsem_prep.explore.inspect import inspect_label_set
from richsem_prep.explore.page import write_page
from richsem_prep.shard.finish import finish_cache
from richsem_prep.verify.cache import verify_cache
from richsem_schemas.cache.layout import CacheLayout
from richsem_schemas.cache.reader import open_cache
from richsem_schemas.errors import ManifestMismatchError, RichSemError
from richsem_schemas.io.places import RemotePath, name_below, open_place
from richsem_train.data.cache.source import ExpectedCache, open_training_cache, read_through
from richsem_train.data.extra import ExtraDataset
from tests.integration.processes import Command, run
from tests.integration.shard_job import shard
from tests.pictures import write_pictures
from tests.s3_server import new_bucket, s3_server

pytestmark = pytest.mark.usefixtures("small_views")

OPTIONS = {"samples_per_shard": 10, "mosaics": 1}


@pytest.fixture(scope="module")
def s3():
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """24 pictures in three classes, one of them broken."""
    root = write_pictures(tmp_path_factory.mktemp("data") / "few", 24)
    (root / "class_1" / "00001.jpg").write_bytes((root / "class_1" / "00001.jpg").read_bytes()[:200])
    return root


@pytest.fixture(scope="module")
def local(few, resnet, tmp_path_factory):
    """What every other place must hold."""
    out = tmp_path_factory.mktemp("caches") / "local"
    shard(few, out, resnet, **OPTIONS)
    return out


@pytest.fixture(params=["memory", "s3"])
def folder(request):
    """An empty remote folder."""
    if request.param == "memory":
        return open_place(f"memory://{uuid.uuid4().hex}/x")
    return open_place(new_bucket(request.getfixturevalue("s3")) + "/x")


def uploaded(root, place):
    for path in sorted(root.rglob("*")):
        if path.is_file():
            (place / path.relative_to(root).as_posix()).write_bytes(path.read_bytes())
    return place


def contents(out):
    """Every file but the receipts, which hold durations, and the locks of local jobs."""
    if isinstance(out, RemotePath):
        found = {name: (out / name).read_bytes() for name in out.sizes_below()}
    else:
        found = {name_below(path, out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if not name.startswith(("receipts/", ".jobs/"))}


def test_a_cache_made_at_a_url_of_pictures_at_a_url_is_that_of_local_folders(
    folder, few, local, resnet, tmp_path, monkeypatch
):
    root, out = uploaded(few, folder / "data"), folder / "cache"
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    summary, said = shard(str(root), str(out), resnet, **OPTIONS)
    assert summary.complete
    assert any("nothing keeps jobs apart" in line for line in said)
    assert contents(out) == contents(local)
    assert set(out.sizes_below()) == {name for name in names_below(local) if not name.startswith(".jobs/")}
    verification = verify_cache(out, thorough=True)
    assert not verification.problems
    assert (verification.pictures, verification.views) == (23, verify_cache(local).views)
    summary, _ = shard(str(root), str(out), resnet, **OPTIONS)
    assert (len(summary.results), summary.already) == (0, 3)
    with pytest.raises(ManifestMismatchError, match="seed"):
        shard(str(root), str(out), resnet, **OPTIONS, seed=4)
    figures, other = (inspect_label_set(open_cache(place), "resnet") for place in (out, local))
    assert (figures.views, figures.quarantined, figures.label_bytes) == (
        other.views,
        other.quarantined,
        other.label_bytes,
    )
    for place, name in ((out, "remote"), (local, "local")):
        write_page(open_cache(place), "resnet", tmp_path / f"{name}.html", views=4, root=None)
    assert (tmp_path / "remote.html").read_bytes() == (tmp_path / "local.html").read_bytes()


def names_below(folder):
    return [name_below(path, folder) for path in folder.rglob("*") if path.is_file()]


def test_labels_are_added_overwritten_and_mended_at_a_url(folder, few, resnet, tmp_path):
    root = shutil.copytree(few, tmp_path / "data")
    shard(root, str(folder), resnet, **OPTIONS, shard_range=(0, 2))
    shard(root, str(folder), resnet, **OPTIONS, shard_range=(2, 3))
    with pytest.raises(RichSemError, match="is not finished"):
        open_cache(folder)
    finish_cache(CacheLayout(folder, "folder"), ["resnet"])
    before = {name: data for name, data in contents(folder).items() if name.startswith("pictures/")}
    shard(root, str(folder), resnet, **(OPTIONS | {"mosaics": 0}), label_set="crops")
    assert set(open_cache(folder).label_sets) == {"resnet", "crops"}
    shard(root, str(folder), resnet, **OPTIONS, label_set="crops", overwrite=True)
    assert open_cache(folder).label_sets["crops"].spec.views.mosaics == 1
    assert {name: data for name, data in contents(folder).items() if name.startswith("pictures/")} == before
    (folder / "notes.md").write_bytes(b"mine")
    (root / "class_1" / "00001.jpg").write_bytes((root / "class_1" / "00004.jpg").read_bytes())
    summary, _ = shard(root, str(folder), resnet, **OPTIONS, retry_failed=True)
    assert len(summary.results) == 1
    shard(root, str(folder), resnet, **OPTIONS, seed=9, overwrite=True)
    assert list(open_cache(folder).label_sets) == ["resnet"]
    assert (folder / "notes.md").read_bytes() == b"mine"


def test_an_upload_that_fails_leaves_nothing_and_the_next_run_goes_on(
    folder, few, local, resnet, tmp_path, monkeypatch
):
    real, spools = RemotePath.upload, tmp_path / "spools"
    spools.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(spools))

    def fail(self, path):
        if self.name == "folder-000001.tar":
            raise OSError(104, "Connection reset by peer", str(self))
        real(self, path)

    monkeypatch.setattr(RemotePath, "upload", fail)
    summary, _ = shard(few, str(folder), resnet, **OPTIONS)
    assert list(summary.failed) == [1]
    assert "Connection reset by peer" in summary.failed[1]
    assert str(folder) in summary.failed[1]
    assert not [name for name in folder.sizes_below() if "000001" in name]
    assert not (folder / "manifest.json").exists()
    assert list(spools.iterdir()) == []
    monkeypatch.setattr(RemotePath, "upload", real)
    summary, _ = shard(few, str(folder), resnet, **OPTIONS)
    assert (summary.complete, summary.already) == (True, 2)
    assert contents(folder) == contents(local)


def test_what_is_damaged_at_a_url_is_found_and_made_anew(folder, few, local, resnet):
    uploaded(local, folder)
    tar, index = folder / "labels/resnet/folder-000001.tar", folder / "index/pictures/folder-000002.parquet"
    data = bytearray(tar.read_bytes())
    data[3000] ^= 1
    tar.write_bytes(bytes(data))
    index.write_bytes(b"short")
    (folder / "stranger.txt").write_bytes(b"?")
    problems = {problem.path for problem in verify_cache(folder).problems}
    assert {"labels/resnet/folder-000001.tar", "index/pictures/folder-000002.parquet", "stranger.txt"} <= problems
    (folder / "receipts/labels/resnet/folder-000001.json").unlink()
    (folder / "stranger.txt").unlink()
    summary, _ = shard(few, str(folder), resnet, **OPTIONS)
    assert sorted(summary.results) == [1, 2]
    assert not verify_cache(folder).problems


def test_tars_of_classes_are_read_in_place_at_a_url(folder, few, resnet, tmp_path, monkeypatch):
    import tarfile

    from richsem_prep.sources.imagenet import list_imagenet

    ids = {f"class_{number}": number + 1 for number in range(3)}
    for name in ids:
        with tarfile.open(tmp_path / f"{name}.tar", "w") as archive:
            for path in sorted((few / name).iterdir()):
                archive.add(path, path.name)
    (tmp_path / "class_0.tar.gz").write_bytes(b"?")
    uploaded(tmp_path, folder)
    assert list(list_imagenet(folder, ids)) == list(list_imagenet(tmp_path, ids))


def test_what_cant_work_is_refused(few, resnet, tmp_path):
    place = f"memory://{uuid.uuid4().hex}"
    with pytest.raises(RichSemError, match="--executor inline"):
        shard(few, place, resnet, executor="ray")
    with pytest.raises(RichSemError, match="lie in each other"):
        shard(place + "/a", place + "/a/b", resnet)
    with pytest.raises(RichSemError, match="local folder"):
        shard(place, tmp_path / "c", "demo", dataset="demo")
    with pytest.raises(RichSemError, match=r"doesn't exist"):
        shard(place, tmp_path / "c", resnet)
    open_place(place + "/x/notes.txt").write_bytes(b"")
    with pytest.raises(RichSemError, match=r"holds other things \(notes.txt\)"):
        shard(few, place + "/x", resnet)
    with pytest.raises(RichSemError, match="is no folder"):
        shard(few, place + "/x/notes.txt", resnet)


@pytest.mark.parametrize("views", ["mosaics", "crops"])
def test_training_samples_are_those_of_the_local_cache(local, s3, tmp_path, views):
    place = uploaded(local, open_place(new_bucket(s3) + "/x"))
    expected = ExpectedCache(views=views)
    remote = read_through(open_training_cache(place, expected=expected), gigabytes=1.0, folder=tmp_path)
    one, other = (
        ExtraDataset(cache, seed=1, lanes=2) for cache in (open_training_cache(local, expected=expected), remote)
    )
    for number in range(one.order.samples_per_round):
        left, right = one[number], other[number]
        assert left.name == right.name
        assert torch.equal(left.pixels, right.pixels)
        assert torch.equal(left.target.boxes_cxcywh_norm, right.target.boxes_cxcywh_norm)


def test_loader_processes_read_from_a_server(local, s3, tmp_path):
    from torch.utils.data import DataLoader

    place = uploaded(local, open_place(new_bucket(s3) + "/x"))
    assert open_cache(place).label_sets  # The client is at work before processes are forked.
    remote = read_through(open_training_cache(place, expected=ExpectedCache()), gigabytes=1.0, folder=tmp_path)
    dataset = ExtraDataset(remote, seed=1, lanes=2)
    order = list(range(dataset.order.samples_per_round))
    loader = DataLoader(dataset, sampler=order, batch_size=None, num_workers=2)
    names = [sample.name for sample in loader]
    reference = ExtraDataset(open_training_cache(local, expected=ExpectedCache()), seed=1, lanes=2)
    assert names == [reference[number].name for number in order]


def arguments(root, out, resnet, *more):
    return ("shard", "--dataset", "folder", "--root", root, "--out", out, "--teacher", resnet, "--teacher-size", "96",
            "--samples-per-shard", "4", "--mosaics", "0", *more)  # fmt: skip


@pytest.mark.slow
def test_a_killed_run_leaves_whole_files_and_the_next_one_goes_on(few, s3, resnet, tmp_path):
    place = open_place(new_bucket(s3) + "/x")
    command = Command(*arguments(few, place, resnet, "--executor", "inline"))
    while command.process.poll() is None and not any(
        name.startswith("receipts/labels") for name in place.sizes_below()
    ):
        time.sleep(0.2)
    os.killpg(command.process.pid, signal.SIGKILL)
    command.process.wait()
    assert not (place / "manifest.json").exists()
    code, output = run(*arguments(few, place, resnet, "--executor", "inline"))
    assert code == 0, output
    code, output = run(*arguments(few, tmp_path / "c", resnet, "--executor", "inline"))
    assert code == 0, output
    assert contents(place) == contents(tmp_path / "c")
    code, output = run("verify", place)
    assert (code, "is whole" in output) == (0, True), output


@pytest.mark.slow
@pytest.mark.ray
def test_ray_workers_write_to_a_server(few, s3, resnet, tmp_path):
    place = open_place(new_bucket(s3) + "/x")
    code, output = run(*arguments(few, place, resnet, "--workers", "2"))
    assert code == 0, output
    assert not verify_cache(place).problems


@pytest.mark.slow
def test_commands_say_in_a_line_what_a_server_did_wrong(few, resnet, tmp_path):
    environment = {"FSSPEC_S3_ENDPOINT_URL": "http://127.0.0.1:9", "FSSPEC_S3_KEY": "a", "FSSPEC_S3_SECRET": "b"}
    for command in (arguments(few, "s3://bucket/x", resnet, "--executor", "inline"), ("verify", "s3://bucket/x"),
                    ("inspect", "s3://bucket/x"), ("verify", "nosuch://x")):  # fmt: skip
        code, output = run(*command, env=environment)
        assert code == 1
        assert "Traceback" not in output
        assert "error: " in output
        assert command[-1] in output or "s3://bucket/x" in output
    assert Path(tmp_path).is_dir()
