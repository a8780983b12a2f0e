"""One cache, several experiments: another text, another temperature, another teacher, with the raw data gone."""

import json
import shutil

import pytest
import torch
import typer

from richsem_prep.explore.diff import diff_label_sets
from richsem_prep.explore.inspect import inspect_label_set
from richsem_prep.explore.page import write_page
from richsem_prep.rescore.rescore import rescore
from richsem_prep.shard.finish import finish_cache
from richsem_prep.teacher.make_text import make_text
from richsem_prep.verify.cache import verify_cache
from richsem_schemas.cache.manifest import CacheManifest, Plan
from richsem_schemas.cache.reader import find_layout, open_cache
from richsem_schemas.errors import ManifestMismatchError, RichSemError
from tests.integration import shard_job
from tests.integration.shard_job import tar_hashes
from tests.pictures import write_pictures

pytestmark = pytest.mark.usefixtures("small_views")

OPTIONS = {"root": None, "samples_per_shard": 8, "mosaics": 1}


def shard(out, teacher, **options):
    options = OPTIONS | options
    return shard_job.shard(options.pop("root"), out, teacher, **options)[0]


@pytest.fixture(scope="module")
def original(resnet, tmp_path_factory):
    """A small cache whose raw data is gone."""
    folder = tmp_path_factory.mktemp("experiments")
    root = write_pictures(folder / "raw", 20)
    (root / "class_0" / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    shard(folder / "out", resnet, root=root)
    shutil.rmtree(root)
    return folder / "out"


@pytest.fixture
def out(original, tmp_path):
    shutil.copytree(original, tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture(scope="module")
def apart(original, vit, tmp_path_factory):
    """Another teacher's labels for the same pictures, in a folder of their own."""
    labels = tmp_path_factory.mktemp("apart") / "labels"
    summary = shard(labels, vit, dataset=None, from_cache=original)
    assert summary.complete
    return labels


def test_another_teacher_labels_the_cached_pictures_when_the_raw_data_is_gone(out, vit):
    before = tar_hashes(out)
    summary = shard(out, vit, root=out.parent / "nowhere")
    assert summary.complete
    after = tar_hashes(out)
    assert {name: after[name] for name in before} == before
    assert verify_cache(out, threads=2).problems == ()
    assert sorted(open_cache(out).label_sets) == ["resnet", "vit"]


def test_labels_from_a_cache_are_byte_for_byte_those_made_in_it(out, vit, apart):
    shard(out, vit, root=out.parent / "nowhere")
    inside, outside = tar_hashes(out), tar_hashes(apart)
    assert outside == {name: data for name, data in inside.items() if name in outside}
    assert not (apart / "pictures").exists()
    assert not list(apart.glob("index/pictures/*"))
    assert {name.split("/")[0] for name in outside} == {"labels", "index"}


def test_plan_and_manifest_say_where_the_pictures_are(original, apart):
    here, there = find_layout(apart), find_layout(original)
    assert Plan.read(here.plan).fingerprint == Plan.read(there.plan).fingerprint
    manifest = CacheManifest.read(here.manifest)
    assert manifest.pictures_in == str(original)
    assert manifest.shards == CacheManifest.read(there.manifest).shards
    assert CacheManifest.read(there.manifest).pictures_in is None


def test_readers_join_both_folders_by_key(original, apart):
    for cache in (open_cache(original, labels_from=str(apart)), open_cache(apart)):
        assert list(cache.label_sets) == ["vit"]
        assert (cache.layout.out, cache.labels_layout.out) == (original, apart)
        assert cache.text_bank("vit").class_names[0] == "none"
        shard, labels = cache.picture_shard(0), cache.label_shard("vit", 0)
        keys, rows = set(shard.rows()["key"]), labels.rows()
        assert set(rows["key"][rows["kind"] == "crop"]) == keys
        assert len(list(labels.views())) == len(rows)
        assert list(shard.pictures(root=None))


def test_verify_inspect_view_and_finish_know_labels_alone(original, apart, tmp_path):
    verification = verify_cache(apart, threads=2)
    assert verification.problems == ()
    assert any(str(original) in note for note in verification.notes)
    cache = open_cache(apart)
    statistics = inspect_label_set(cache, "vit")
    assert statistics.samples == 20
    assert sum(count for _, count in statistics.quarantined) == 1
    assert statistics.total_bytes < sum(path.stat().st_size for path in original.rglob("*") if path.is_file())
    assert write_page(cache, "vit", tmp_path / "page.html", views=4, root=None) == 4
    layout = find_layout(apart)
    before = layout.manifest.read_bytes()
    layout.manifest.unlink()
    finish_cache(layout, ["vit"])
    assert layout.manifest.read_bytes() == before


def test_verify_without_the_other_cache_checks_every_byte_and_says_what_it_could_not(apart, tmp_path):
    shutil.copytree(apart, tmp_path / "labels")
    layout = find_layout(tmp_path / "labels")
    for path in (layout.manifest, layout.pictures_elsewhere):
        manifest = CacheManifest.read(path)
        manifest.model_copy(update={"pictures_in": str(tmp_path / "moved")}).write(path)
    verification = verify_cache(tmp_path / "labels", threads=2)
    assert verification.problems == ()
    assert any("isn't there" in note for note in verification.notes)
    with pytest.raises(RichSemError, match=r"moved, isn't there.*--from-cache"):
        write_page(open_cache(tmp_path / "labels"), "vit", tmp_path / "page.html", views=1, root=None)
    tar = layout.label_set("vit").tar(0)
    tar.write_bytes(tar.read_bytes()[:-1] + b"x")
    assert [problem.path for problem in verify_cache(tmp_path / "labels", threads=2).problems] == [
        "labels/vit/folder-000000.tar"
    ]


def test_the_same_command_again_finds_everything_done(original, apart, vit):
    before = tar_hashes(apart)
    summary = shard(apart, vit, dataset=None, from_cache=original)
    assert (summary.already, summary.results) == (3, {})
    assert tar_hashes(apart) == before


def test_labels_apart_can_be_rescored_and_compared(apart, tmp_path):
    shutil.copytree(apart, tmp_path / "labels")
    rescore(tmp_path / "labels", label_set="soft", temperature=2.0)
    assert verify_cache(tmp_path / "labels", threads=2).problems == ()
    found = diff_label_sets(tmp_path / "labels", "vit", "soft", threads=1)
    assert found.flips == 0
    assert found.mean_kl > 0


def test_two_teachers_of_one_cache_are_compared(out, vit):
    shard(out, vit, root=out.parent / "nowhere")
    found = diff_label_sets(out, "resnet", "vit", threads=1)
    assert found.is_exact
    assert {"teacher.name", "teacher.weights_sha256"} <= {field for field, *_ in found.fields}


def test_another_vocabulary_reaches_the_labels_without_teacher_or_pictures(out, resnet, monkeypatch):
    names = out.parent / "names.txt"
    names.write_text("cat\ndog\n")
    options = {"names": str(names), "templates": "name-only", "policy": "raw", "device": "cpu"}
    make_text(resnet, out=out.parent / "pets", **options, on_progress=lambda done, total: None)
    shutil.rmtree(out / "pictures")
    (out / "pictures").mkdir()
    for shard_number in range(3):  # The sizes that receipts name are all that is left of the pictures.
        receipt = json.loads((out / f"receipts/pictures/folder-{shard_number:06d}.json").read_text())
        (out / f"pictures/folder-{shard_number:06d}.tar").write_bytes(bytes(receipt["summary"]["tar"]["bytes"]))
    monkeypatch.setattr(torch.nn.Module, "__call__", None)
    made = rescore(out, label_set="pets", text=out.parent / "pets")
    assert made.spec.text.vocabulary == "names.txt"
    assert open_cache(out).text_bank("pets").class_names == ("none", "cat", "dog")


def test_labels_of_another_plan_are_refused_by_the_field(original, apart, resnet, tmp_path):
    shard(tmp_path / "other", resnet, root=write_pictures(tmp_path / "raw", 9), limit=4)
    with pytest.raises(ManifestMismatchError, match="limit is None there, 4 here"):
        open_cache(tmp_path / "other", labels_from=apart)
    with pytest.raises(ManifestMismatchError, match="limit"):
        shard(apart, resnet, dataset=None, from_cache=tmp_path / "other")


def test_labels_of_other_pictures_of_the_same_plan_are_refused(out, apart):
    layout = find_layout(out)
    manifest = CacheManifest.read(layout.manifest)
    changed = manifest.shards[1].model_copy(update={"samples": manifest.shards[1].samples - 1})
    manifest.model_copy(update={"shards": (manifest.shards[0], changed, manifest.shards[2])}).write(layout.manifest)
    with pytest.raises(ManifestMismatchError, match=r"shards\.1\.tar"):
        open_cache(out, labels_from=apart)


def test_an_unfinished_cache_gives_no_pictures_and_a_whole_one_is_no_folder_of_labels(out, original, resnet, tmp_path):
    with pytest.raises(RichSemError, match="pictures of its own"):
        shard(out, resnet, dataset=None, from_cache=original)
    (out / "manifest.json").unlink()
    with pytest.raises(RichSemError, match="not finished"):
        shard(tmp_path / "labels", resnet, dataset=None, from_cache=out)


def test_options_that_make_no_sense_with_a_cache_are_refused(original, apart, vit, tmp_path):
    with pytest.raises(RichSemError, match="needs --out"):
        shard(None, vit, dataset=None, from_cache=original)
    with pytest.raises(RichSemError, match="cache of folder"):
        shard(tmp_path / "x", vit, dataset="demo", from_cache=original)
    with pytest.raises(RichSemError, match="retry-failed"):
        shard(tmp_path / "x", vit, dataset=None, from_cache=original, retry_failed=True)
    with pytest.raises(RichSemError, match="lie in each other"):
        shard(original / "labels" / "x", vit, dataset=None, from_cache=original)
    with pytest.raises(typer.BadParameter, match=r"name one.*--from-cache"):
        shard(tmp_path / "x", vit, dataset=None)
    with pytest.raises(RichSemError, match=r"labels alone.*--from-cache"):
        shard(apart, vit, root=tmp_path / "nowhere")


def test_referenced_pictures_are_read_from_where_they_lie(resnet, vit, tmp_path):
    root = write_pictures(tmp_path / "raw", 6)
    shard(tmp_path / "out", resnet, root=root, pictures="reference")
    shard(tmp_path / "labels", vit, dataset=None, from_cache=tmp_path / "out")
    assert verify_cache(tmp_path / "labels", threads=1).problems == ()
    assert write_page(open_cache(tmp_path / "labels"), "vit", tmp_path / "p.html", views=2, root=None) == 2
