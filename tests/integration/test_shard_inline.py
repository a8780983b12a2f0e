"""The shard job in this process: what it makes, what it adds, what it refuses."""

import json
import shutil
import tarfile
from itertools import islice

import numpy as np
import pytest
import webdataset
from PIL import Image

from richsem_prep.shard.defaults import default_label_set
from richsem_schemas.cache.reader import open_cache
from richsem_schemas.cache.shard import PictureShard
from richsem_schemas.cache.soft_labels import class_log_probs, top_k_soft_labels
from richsem_schemas.errors import ManifestMismatchError, RichSemError
from richsem_schemas.pictures.decode import decode_picture
from tests.integration.shard_job import shard, tar_hashes
from tests.pictures import jpeg, write_pictures

pytestmark = pytest.mark.usefixtures("small_views")


@pytest.fixture(scope="module")
def made(pictures, resnet, tmp_path_factory):
    out = tmp_path_factory.mktemp("caches") / "made"
    summary, _ = shard(pictures, out, resnet)
    return out, summary


def test_every_good_picture_is_cached_verbatim_and_the_bad_one_quarantined(made, pictures):
    out, summary = made
    cache = open_cache(out)
    assert (cache.manifest.samples, cache.manifest.quarantined) == (90, 1)
    assert summary.complete
    names = set()
    for number in range(3):
        for stored in cache.picture_shard(number).pictures(root=None):
            assert stored.data == (pictures / stored.row["name"]).read_bytes()
            names.add(stored.row["name"])
    assert len(names) == 90
    (line,) = [json.loads(line) for path in out.glob("quarantine/*.jsonl") for line in path.open()]
    assert line["name"] == "class_0/broken.jpg"
    assert line["reason"]


def test_plain_webdataset_reads_every_shard(made):
    out, _ = made
    url = str(out / "pictures" / "folder-{000000..000002}.tar")
    samples = list(webdataset.WebDataset(url, shardshuffle=False).decode("pil"))
    assert len(samples) == 90
    assert all(isinstance(sample["jpg"], Image.Image) and "." not in sample["__key__"] for sample in samples)
    assert {sample["json"]["category"] for sample in samples} == {"class_0", "class_1", "class_2"}
    url = str(out / "labels" / "resnet" / "folder-{000000..000002}.tar")
    labels = list(webdataset.WebDataset(url, shardshuffle=False).decode())
    assert [sample["__key__"] for sample in labels] == [sample["__key__"] for sample in samples]
    assert all(sample["crop-0.npy"]["regions"].shape == (1,) for sample in labels)


def test_each_pass_shows_every_picture(made):
    out, _ = made
    cache = open_cache(out)
    for number in range(3):
        samples = sorted(cache.picture_shard(number).rows()["sample"].tolist())
        views = list(cache.label_shard("resnet", number).views())
        for kind, passes in (("crop", 1), ("mosaic", 2)):
            for index in range(passes):
                shown = [v.view.tiles["sample"] for v in views if (v.view.kind, v.view.pass_index) == (kind, index)]
                assert sorted(set(np.concatenate(shown).tolist())) == samples


def test_stored_labels_are_those_of_the_stored_embeddings(made):
    out, _ = made
    cache = open_cache(out)
    bank = cache.text_bank("resnet")
    for view in cache.label_shard("resnet", 0).views():
        log_probs = class_log_probs(view.embeddings, bank.features, logit_scale=bank.logit_scale)
        expected = top_k_soft_labels(log_probs, top_k=4)
        np.testing.assert_array_equal(view.labels.class_ids, expected.class_ids)
        np.testing.assert_array_equal(view.labels.log_probs, expected.log_probs)


def test_embeddings_are_the_teachers_of_the_rendered_views(made, resnet):
    import torch

    from richsem_prep.teacher.region_encoder import make_region_encoder
    from richsem_prep.teacher.teacher import load_teacher, parse_teacher

    out, _ = made
    cache = open_cache(out)
    teacher = load_teacher(parse_teacher(resnet), device=torch.device("cpu"))
    encoder = make_region_encoder(teacher, kind="roi-align", teacher_size=128, precision="fp32")
    for view in islice(cache.views("resnet"), 12):
        prepared = encoder.prepare(view.pixels, view.boxes_xyxy_px)
        ((_, features),) = encoder.encode([(None, prepared)])
        cosine = (features * view.embeddings).sum(axis=1) / np.linalg.norm(view.embeddings, axis=1)
        assert (cosine > 0.9999).all()


def test_the_same_command_again_does_nothing(made, pictures, resnet):
    out, _ = made
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.tar")}
    summary, _ = shard(pictures, out, resnet)
    assert (len(summary.results), summary.already) == (0, 3)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.tar")} == before


def test_another_teacher_adds_a_label_set_and_touches_no_picture(made, pictures, resnet, vit, tmp_path):
    out, _ = made
    copy = shutil.copytree(out, tmp_path / "cache")
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in (copy / "pictures").iterdir()}
    summary, _ = shard(tmp_path / "gone", copy, vit, mosaics=1)
    assert summary.complete
    assert {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in (copy / "pictures").iterdir()} == before
    cache = open_cache(copy)
    assert set(cache.label_sets) == {"resnet", "vit"}
    assert cache.label_sets["vit"].spec.region_encoder.kind == "crop"


def test_labels_made_from_cached_pictures_equal_those_made_from_originals(made, pictures, resnet, tmp_path):
    out, _ = made
    copy = shutil.copytree(out, tmp_path / "cache")
    shard(pictures, copy, resnet, label_set="again")
    for number in range(3):
        name = f"folder-{number:06d}.tar"
        assert (copy / "labels/again" / name).read_bytes() == (copy / "labels/resnet" / name).read_bytes()


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({"seed": 4}, ["seed is 3 there, 4 here"]),
        ({"samples_per_shard": 50, "max_side": 300}, ["samples_per_shard", "max_side"]),
        ({"limit": 5}, ["limit"]),
        ({"dataset": "demo"}, ["dataset"]),
        ({"mosaics": 3}, ["views.mosaics is 2 there, 3 here", "--label-set"]),
        ({"top_k": 2}, ["top_k"]),
        ({"teacher_size": 96, "region_encoder": "crop"}, ["region_encoder.kind", "region_encoder.teacher_size"]),
        ({"names": "clean"}, ["text.names"]),
        ({"embeddings": "int8"}, ["embeddings"]),
    ],
)
def test_a_cache_of_something_else_is_refused_by_field(made, pictures, resnet, options, fields):
    out, _ = made
    with pytest.raises((ManifestMismatchError, RichSemError)) as error:
        shard(pictures, out, resnet, **options)
    for field in fields:
        assert field in str(error.value)


def test_overwrite_begins_the_label_set_anew_and_keeps_the_pictures(made, pictures, resnet, tmp_path):
    out, _ = made
    copy = shutil.copytree(out, tmp_path / "cache")
    before = tar_hashes(out)
    pictures_before = {p.name: p.stat().st_mtime_ns for p in (copy / "pictures").iterdir()}
    shard(pictures, copy, resnet, overwrite=True)
    assert tar_hashes(copy) == before
    assert {p.name: p.stat().st_mtime_ns for p in (copy / "pictures").iterdir()} == pictures_before
    shard(pictures, copy, resnet, overwrite=True, seed=9)
    assert open_cache(copy).manifest.plan.seed == 9


@pytest.mark.parametrize("embeddings", ["int8", "none"])
def test_smaller_embeddings_keep_the_labels(made, pictures, resnet, tmp_path, embeddings):
    out, _ = made
    copy = shutil.copytree(out, tmp_path / "cache")
    shard(pictures, copy, resnet, label_set=embeddings, embeddings=embeddings)
    cache = open_cache(copy)
    for full, small in zip(
        cache.label_shard("resnet", 0).views(),
        cache.label_shard(embeddings, 0).views(),
        strict=True,
    ):
        difference = np.exp(full.labels.log_probs.astype(float)) - np.exp(small.labels.log_probs.astype(float))
        assert np.abs(difference).max() < (0.02 if embeddings == "int8" else 1e-9)
    sizes = {name: manifest.bytes for name, manifest in cache.label_sets.items()}
    assert sizes[embeddings] <= sizes["resnet"]


def test_shard_ranges_and_finish_give_the_same_cache(made, pictures, resnet, tmp_path):
    from richsem_prep.shard.finish import finish_cache
    from richsem_schemas.cache.layout import CacheLayout

    out, _ = made
    parts = tmp_path / "parts"
    for first in (2, 0):
        summary, _ = shard(pictures, parts, resnet, shard_range=(first, first + 2))
        assert not summary.complete
    with pytest.raises(RichSemError, match="is not finished"):
        open_cache(parts)
    finish_cache(CacheLayout(parts, "folder"), ["resnet"])
    assert tar_hashes(parts) == tar_hashes(out)
    assert (parts / "manifest.json").read_bytes() == (out / "manifest.json").read_bytes()


def test_finish_names_the_missing_shards(pictures, resnet, tmp_path):
    from richsem_prep.shard.finish import finish_cache
    from richsem_schemas.cache.layout import CacheLayout

    shard(pictures, tmp_path / "c", resnet, shard_range=(1, 2))
    with pytest.raises(RichSemError, match=r"2 of 3 shards of the pictures are missing \(0, 2\)"):
        finish_cache(CacheLayout(tmp_path / "c", "folder"), ["resnet"])


def test_referenced_pictures_stay_where_they_are(made, pictures, resnet, tmp_path):
    out, _ = made
    shard(pictures, tmp_path / "c", resnet, pictures="reference")
    cache = open_cache(tmp_path / "c")
    with tarfile.open(cache.layout.pictures_tar(0)) as archive:
        assert all(name.endswith(".json") for name in archive.getnames())
    for stored in cache.picture_shard(0).pictures(root=pictures):
        assert stored.data == (pictures / stored.row["name"]).read_bytes()
    name = "folder-000001.tar"
    assert (tmp_path / "c/labels/resnet" / name).read_bytes() == (out / "labels/resnet" / name).read_bytes()


def test_a_changed_original_is_noticed(resnet, tmp_path):
    root = write_pictures(tmp_path / "data", 5)
    shard(root, tmp_path / "c", resnet, pictures="reference")
    (root / "class_0" / "00000.jpg").write_bytes(jpeg(77))
    with pytest.raises(RichSemError, match="not the one that was cached"):
        shard(root, tmp_path / "c", resnet, pictures="reference", label_set="more")


def test_max_side_re_encodes_larger_pictures_only(resnet, tmp_path):
    root = tmp_path / "data"
    (root / "class").mkdir(parents=True)
    (root / "class" / "large.jpg").write_bytes(jpeg(0, (300, 200)))
    (root / "class" / "small.jpg").write_bytes(jpeg(1, (50, 60)))
    shard(root, tmp_path / "c", resnet, max_side=120)
    cache = open_cache(tmp_path / "c")
    stored = {s.row["name"]: s for s in cache.picture_shard(0).pictures(root=None)}
    assert stored["class/small.jpg"].data == (root / "class/small.jpg").read_bytes()
    assert stored["class/large.jpg"].row[["height", "width"]].item() == (120, 80)
    assert decode_picture(stored["class/large.jpg"].data).size == (80, 120)


def test_retry_failed_rebuilds_shards_whose_pictures_were_mended(resnet, tmp_path):
    root = write_pictures(tmp_path / "data", 10)
    good = (root / "class_1" / "00001.jpg").read_bytes()
    (root / "class_1" / "00001.jpg").write_bytes(good[:100])
    shard(root, tmp_path / "c", resnet)
    assert open_cache(tmp_path / "c").manifest.quarantined == 1
    _, said = shard(root, tmp_path / "c", resnet, retry_failed=True)
    assert any("no quarantined sample has become readable" in line for line in said)
    (root / "class_1" / "00001.jpg").write_bytes(good)
    summary, _ = shard(root, tmp_path / "c", resnet, retry_failed=True)
    assert len(summary.results) == 1
    assert (open_cache(tmp_path / "c").manifest.samples, open_cache(tmp_path / "c").manifest.quarantined) == (10, 0)
    assert not list((tmp_path / "c" / "quarantine").glob("folder-*"))


@pytest.mark.parametrize("count", [1, 2, 3, 65])
def test_few_pictures_make_a_cache(resnet, tmp_path, count):
    root = write_pictures(tmp_path / "data", count, classes=1)
    summary, _ = shard(root, tmp_path / "c", resnet, samples_per_shard=1024)
    cache = open_cache(tmp_path / "c")
    assert cache.manifest.samples == count
    assert summary.complete


def test_a_cache_where_every_picture_is_bad_is_finished_and_empty(resnet, tmp_path):
    (tmp_path / "data" / "class").mkdir(parents=True)
    (tmp_path / "data" / "class" / "a.jpg").write_bytes(b"")
    (tmp_path / "data" / "class" / "b.txt").write_text("no picture")
    shard(tmp_path / "data", tmp_path / "c", resnet)
    manifest = open_cache(tmp_path / "c").manifest
    assert (manifest.samples, manifest.quarantined) == (0, 2)


def test_a_source_that_vanishes_fails_its_shard_and_keeps_the_rest(resnet, tmp_path):
    root = write_pictures(tmp_path / "data", 20)
    out = tmp_path / "c"
    shard(root, out, resnet, samples_per_shard=10, shard_range=(0, 1))
    missing = list(root.rglob("*.jpg"))
    kept = set(PictureShard(open_layout(out), 0).rows()["name"])
    victim = next(p for p in missing if str(p.relative_to(root)) not in kept)
    # With its folder: a single picture that was removed is set aside.
    victim.parent.rename(tmp_path / "elsewhere")
    summary, _ = shard(root, out, resnet, samples_per_shard=10)
    assert list(summary.failed) == [1]
    assert "No such file" in summary.failed[1]
    assert not (out / "manifest.json").exists()
    assert not list(out.rglob("*.tmp"))
    (tmp_path / "elsewhere").rename(victim.parent)
    summary, _ = shard(root, out, resnet, samples_per_shard=10)
    assert summary.complete


def open_layout(out):
    from richsem_schemas.cache.reader import find_layout

    return find_layout(out)


def test_a_full_disk_ends_the_run_and_leaves_nothing_half_done(pictures, resnet, tmp_path, monkeypatch):
    import errno

    from richsem_schemas.io.files import HashedFile

    real = HashedFile.write

    def full(self, data):
        if self._file.name.endswith(".tmp") and "pictures" in self._file.name and self.tell() > 20_000:
            raise OSError(errno.ENOSPC, "No space left on device", self._file.name)
        return real(self, data)

    monkeypatch.setattr(HashedFile, "write", full)
    with pytest.raises(RichSemError, match="No space left"):
        shard(pictures, tmp_path / "c", resnet)
    assert not list((tmp_path / "c").rglob("*.tmp"))
    assert not list((tmp_path / "c").rglob("*.tar"))
    monkeypatch.setattr(HashedFile, "write", real)
    assert shard(pictures, tmp_path / "c", resnet)[0].complete


def test_hostile_names_stay_inside_of_the_cache(resnet, tmp_path):
    root = tmp_path / "data"
    for folder in ("a.b c", "ünï", "<script>"):
        (root / folder).mkdir(parents=True)
        (root / folder / "..hidden.tar.jpg").write_bytes(jpeg(1))
        (root / folder / "x y.z.jpg").write_bytes(jpeg(2))
        (root / folder / "same.jpg").write_bytes(jpeg(3))
    shard(root, tmp_path / "c", resnet)
    keys = PictureShard(open_layout(tmp_path / "c"), 0).rows()["key"].tolist()
    assert len(set(keys)) == len(keys) == 6
    assert all("." not in key and "/" not in key for key in keys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "data"]


@pytest.mark.parametrize(
    ("teacher", "name"),
    [
        ("RN50:openai", "RN50-openai"),
        ("demo", "demo"),
        ("RN50-quickgelu:/a/b/my weights.pt", "RN50-quickgelu-my-weights"),
        ("hf-hub:org/name", "name"),
        ("hf-hub:../..", "labels"),
        ("local-dir:/x/resnet", "resnet"),
    ],
)
def test_a_label_set_is_named_after_its_teacher(teacher, name):
    assert default_label_set(teacher) == name
