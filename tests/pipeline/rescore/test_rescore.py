import dataclasses
import shutil

import numpy as np
import pytest
from scipy.special import log_softmax

from richsem_prep.rescore.rescore import rescore
from richsem_prep.shard.finish import finish_cache
from richsem_prep.verify.cache import verify_cache
from richsem_schemas.cache.jobs import hold_job
from richsem_schemas.cache.manifest import LabelSpec, LabelsReceipt
from richsem_schemas.cache.reader import open_cache
from richsem_schemas.cache.text_bank import TextBank
from richsem_schemas.cache.text_folder import TextFolder, write_text_folder
from richsem_schemas.errors import CorruptCacheError, ManifestMismatchError, RichSemError
from tests import caches

LABELS, DIM = caches.LABELS, caches.DIM
NAMES = ("none", "apple", "pear", "plum", "cherry", "quince", "fig", "medlar", "sloe")


@pytest.fixture
def out(cache):
    return cache.layout.out


def fruit(cache, **changes):
    """A text folder of another vocabulary, by the cache's teacher."""
    features = np.random.default_rng(5).standard_normal((len(NAMES), DIM)).astype(np.float32)
    teacher = LabelSpec.read(cache.label_set.spec).teacher.model_copy(update=changes)
    bank = TextBank(NAMES, NAMES, ("a {}.",), teacher.logit_scale, features)
    folder = cache.layout.out.parent / "fruit"
    write_text_folder(folder, TextFolder(bank, teacher, "fruit", "raw"))
    return folder, features


def views_of(out, labels):
    cache = open_cache(out)
    return [view for shard in range(3) for view in cache.label_shard(labels, shard).views()]


def files_of(layout, labels):
    label_set = layout.label_set(labels)
    return [path(shard).read_bytes() for shard in range(3) for path in (label_set.tar, label_set.index)]


def test_the_same_text_gives_the_very_labels_that_the_job_gave(cache, out):
    rescore(out, label_set="again")
    for before, after in zip(views_of(out, LABELS), views_of(out, "again"), strict=True):
        assert after.embeddings is None
        for name in ("class_ids", "log_probs", "log_rest"):
            assert getattr(after.labels, name).tobytes() == getattr(before.labels, name).tobytes()
        assert after.view.tiles.tobytes() == before.view.tiles.tobytes()
        assert after.view.regions.tobytes() == before.view.regions.tobytes()


def test_shards_are_byte_for_byte_those_of_a_job_without_embeddings(cache, out):
    rescore(out, label_set="again")
    caches.SyntheticCache(cache.root, out, labels="bare", embeddings="none").make()
    assert files_of(cache.layout, "again") == files_of(cache.layout, "bare")


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_labels_are_the_softmax_of_the_teachers_logits_over_the_temperature(cache, out, temperature):
    folder, features = fruit(cache)
    rescore(out, label_set="fruit", text=folder, temperature=temperature)
    unit_CD = features.astype(np.float64) / np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    for before, after in zip(views_of(out, LABELS), views_of(out, "fruit"), strict=True):
        wide_RD = before.embeddings.astype(np.float64)
        cosines_RC = wide_RD / np.linalg.norm(wide_RD, axis=1, keepdims=True) @ unit_CD.T
        expected_RC = log_softmax(caches.LOGIT_SCALE / temperature * cosines_RC, axis=1)
        np.testing.assert_array_equal(after.labels.class_ids, np.argsort(-expected_RC, axis=1)[:, :5])
        kept_RK = np.take_along_axis(expected_RC, after.labels.class_ids.astype(int), axis=1)
        # Two steps of float16, as the format says.
        np.testing.assert_allclose(after.labels.log_probs, kept_RK, rtol=2**-9, atol=2**-23)
        np.testing.assert_allclose(np.exp(after.labels.log_rest), 1 - np.exp(kept_RK).sum(axis=1), atol=1e-6)


def test_the_spec_says_where_labels_come_from_and_keeps_what_the_teacher_saw(cache, out):
    folder, _ = fruit(cache)
    rescore(out, label_set="fruit", text=folder, temperature=2.0, top_k=64)
    source, made = (LabelSpec.read(cache.layout.label_set(name).spec) for name in (LABELS, "fruit"))
    assert (made.teacher, made.region_encoder, made.views) == (source.teacher, source.region_encoder, source.views)
    assert (made.rescored_from, made.temperature, made.embeddings) == (source.fingerprint, 2.0, "none")
    assert (made.text.vocabulary, made.text.classes, made.top_k) == ("fruit", len(NAMES), len(NAMES))
    assert open_cache(out).text_bank("fruit").class_names == NAMES


def test_a_rescored_set_is_whole_for_verify(cache, out):
    folder, _ = fruit(cache)
    rescore(out, label_set="fruit", text=folder, temperature=2.0, top_k=3)
    assert verify_cache(out, threads=2).problems == ()


def test_verify_finds_labels_that_the_named_embeddings_do_not_give(cache, out):
    folder, _ = fruit(cache)
    rescore(out, label_set="warm", text=folder, temperature=2.0)
    rescore(out, label_set="cold", text=folder, temperature=1.0)
    warm, cold = (cache.layout.label_set(name) for name in ("warm", "cold"))
    # The tars of another temperature under a spec, and receipts, that name this one.
    for shard in range(3):
        shutil.copy(cold.tar(shard), warm.tar(shard))
        shutil.copy(cold.index(shard), warm.index(shard))
        receipt = LabelsReceipt.read(cold.receipt(shard))
        receipt.model_copy(update={"spec_fingerprint": LabelSpec.read(warm.spec).fingerprint}).write(
            warm.receipt(shard)
        )
    finish_cache(cache.layout, ["warm"])
    problems = verify_cache(out, threads=2).problems
    assert {problem.path for problem in problems} == {f"labels/warm/folder-{shard:06d}.tar" for shard in range(3)}
    assert "embeddings of hashed" in problems[0].message
    assert "rescore" in problems[0].remedy


def test_bytes_depend_on_neither_threads_nor_an_interruption(cache, out):
    rescore(out, label_set="whole", threads=3)
    expected = files_of(cache.layout, "whole")
    manifest = cache.layout.label_set("whole").manifest.read_bytes()
    label_set = cache.layout.label_set("whole")
    label_set.manifest.unlink()
    label_set.receipt(1).unlink()
    (label_set.folder / ".folder-000001.tar.1-ab.tmp").write_bytes(b"left by a killed job")
    label_set.tar(2).write_bytes(label_set.tar(2).read_bytes()[:-1])
    made = rescore(out, label_set="whole", threads=1)
    assert made.already == 1
    assert files_of(cache.layout, "whole") == expected
    assert label_set.manifest.read_bytes() == manifest
    assert not list(label_set.folder.glob(".*"))


def test_progress_counts_regions(cache, out):
    seen = []
    rescore(out, label_set="again", threads=1, on_progress=lambda done, total: seen.append((done, total)))
    total = open_cache(out).label_set("again").regions
    assert len(seen) == 3
    assert seen[-1] == (total, total)


def test_a_cache_without_embeddings_is_refused_with_what_to_do(cache, tmp_path):
    bare = caches.SyntheticCache(cache.root, tmp_path / "bare", embeddings="none").make()
    with pytest.raises(RichSemError, match=r"no finished label set with embeddings.*--embeddings float16"):
        rescore(bare.layout.out, label_set="x")
    with pytest.raises(RichSemError, match=r"made with --embeddings none.*make a set with embeddings first"):
        rescore(bare.layout.out, label_set="x", source=LABELS)
    assert bare.layout.label_sets() == [LABELS]


@pytest.mark.parametrize(
    ("field", "value"), [("weights_sha256", "f" * 64), ("embed_dim", 17), ("quick_gelu", True), ("logit_scale", 7.0)]
)
def test_text_of_another_teacher_is_refused_by_the_field(cache, out, field, value):
    if field == "embed_dim":
        folder, features = fruit(cache)
        wide = np.concatenate([features, features[:, :1]], axis=1)
        teacher = LabelSpec.read(cache.label_set.spec).teacher.model_copy(update={"embed_dim": 17})
        write_text_folder(folder, TextFolder(TextBank(NAMES, NAMES, ("{}",), 20.0, wide), teacher, "fruit", "raw"))
    else:
        folder, _ = fruit(cache, **{field: value})
    with pytest.raises(ManifestMismatchError, match=f"teacher.{field}"):
        rescore(out, label_set="fruit", text=folder)


def test_the_same_weights_under_another_name_are_the_same_teacher(cache, out):
    folder, _ = fruit(cache, name="hash:somewhere/else.pt")
    rescore(out, label_set="fruit", text=folder)


def test_a_set_that_exists_and_differs_is_refused_by_the_field_and_stays(cache, out):
    rescore(out, label_set="again")
    before = files_of(cache.layout, "again")
    with pytest.raises(ManifestMismatchError, match=r"temperature is 1\.0 there, 2\.0 here"):
        rescore(out, label_set="again", temperature=2.0)
    with pytest.raises(RichSemError, match=r"no finished label set with embeddings|same label set"):
        rescore(out, label_set=LABELS)
    with pytest.raises(RichSemError, match="the same label set"):
        rescore(out, label_set=LABELS, source=LABELS)
    assert files_of(cache.layout, "again") == before


def test_several_sets_with_embeddings_need_a_choice(cache, out):
    caches.SyntheticCache(cache.root, out, labels="second", embeddings="int8").make()
    with pytest.raises(RichSemError, match=f"{LABELS}, second; choose one with --from"):
        rescore(out, label_set="x")
    made = rescore(out, label_set="x", source="second")
    assert made.source == "second"


def test_a_cache_in_use_or_unfinished_is_refused(cache, out):
    with hold_job(out, range(2)), pytest.raises(RichSemError, match="in use"):
        rescore(out, label_set="x")
    cache.layout.manifest.unlink()
    with pytest.raises(RichSemError, match="not finished"):
        rescore(out, label_set="x")


def test_a_set_that_is_not_finished_gives_no_embeddings(cache, out):
    cache.label_set.manifest.unlink()
    with pytest.raises(RichSemError, match="no finished label set"):
        rescore(out, label_set="x")


@pytest.mark.parametrize("part", ["tar", "index", "receipt"])
def test_a_damaged_source_is_refused_by_its_file_and_sends_to_verify(cache, out, part):
    path = getattr(cache.label_set, part)(1)
    data = bytearray(path.read_bytes())
    data[700 if part != "receipt" else 30] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptCacheError, match=path.name):
        rescore(out, label_set="x")
    assert not cache.layout.label_set("x").manifest.exists()


def test_a_missing_shard_of_the_source_is_named(cache, out):
    cache.label_set.tar(1).unlink()
    with pytest.raises(CorruptCacheError, match=r"folder-000001\.tar is missing.*receipts.*anew"):
        rescore(out, label_set="x")


def test_text_that_was_changed_is_refused_before_anything_is_written(cache, out):
    folder, _ = fruit(cache)
    data = bytearray((folder / "features.npy").read_bytes())
    data[-1] ^= 1
    (folder / "features.npy").write_bytes(data)
    with pytest.raises(CorruptCacheError, match=r"features\.npy"):
        rescore(out, label_set="fruit", text=folder)
    shutil.rmtree(folder)
    with pytest.raises(RichSemError, match="holds no text"):
        rescore(out, label_set="fruit", text=folder)
    assert not cache.layout.label_set("fruit").folder.exists()


def test_int8_embeddings_are_rescored_as_a_reader_sees_them(cache, tmp_path):
    small = caches.SyntheticCache(cache.root, tmp_path / "int8", embeddings="int8").make()
    rescore(small.layout.out, label_set="again")
    for before, after in zip(views_of(small.layout.out, LABELS), views_of(small.layout.out, "again"), strict=True):
        assert dataclasses.astuple(after.labels)[0].tobytes() == before.labels.class_ids.tobytes()
        assert after.labels.log_rest.tobytes() == before.labels.log_rest.tobytes()
