import json
import shutil

import numpy as np
import pytest
from scipy.special import log_softmax
from scipy.stats import entropy
from typer.testing import CliRunner

from richsem_prep.cli import app
from richsem_prep.explore.diff import diff_label_sets
from richsem_prep.rescore.rescore import rescore
from richsem_schemas.cache.reader import open_cache
from richsem_schemas.cache.text_bank import TextBank
from richsem_schemas.cache.text_folder import TextFolder, write_text_folder
from richsem_schemas.errors import CorruptCacheError, RichSemError
from tests import caches

LABELS, SCALE = caches.LABELS, caches.LOGIT_SCALE


@pytest.fixture
def out(cache):
    return cache.layout.out


def other_prompts(cache):
    """Other features for the cache's own classes, as other templates give them."""
    bank = open_cache(cache.layout.out).text_bank(LABELS)
    features = bank.features + 0.5 * np.random.default_rng(3).standard_normal(bank.features.shape).astype(np.float32)
    folder = cache.layout.out.parent / "prompts"
    teacher = open_cache(cache.layout.out).label_set(LABELS).spec.teacher
    other = TextBank(bank.class_names, bank.prompted_names, ("my {}",), bank.logit_scale, features)
    write_text_folder(folder, TextFolder(other, teacher, "folders", "raw"))
    return folder


def distributions(out, labels, *, temperature=1.0):
    """Log-probabilities of every region of a set with the embeddings of `LABELS`, and hard labels, in order."""
    cache = open_cache(out)
    features = cache.text_bank(labels).features.astype(np.float64)
    unit_CD = features / np.linalg.norm(features, axis=1, keepdims=True)
    views = [view for shard in range(3) for view in cache.label_shard(LABELS, shard).views()]
    wide_RD = np.concatenate([view.embeddings for view in views]).astype(np.float64)
    wide_RD /= np.linalg.norm(wide_RD, axis=1, keepdims=True)
    categories = np.concatenate([view.view.regions["category_id"] for view in views])
    return log_softmax(SCALE / temperature * wide_RD @ unit_CD.T, axis=1), categories


def test_divergences_of_whole_distributions_are_scipys(cache, out):
    rescore(out, label_set="other", text=other_prompts(cache), temperature=2.0, top_k=2)
    found = diff_label_sets(out, LABELS, "other", threads=2)
    log_p, categories = distributions(out, LABELS)
    log_q, _ = distributions(out, "other", temperature=2.0)
    kl = entropy(np.exp(log_p), np.exp(log_q), axis=1)
    assert found.is_exact
    assert found.regions == len(kl)
    np.testing.assert_allclose(
        [found.mean_kl, found.median_kl, found.p95_kl, found.max_kl],
        [kl.mean(), np.median(kl), np.quantile(kl, 0.95), kl.max()],
        rtol=1e-9,
    )
    flips = log_p.argmax(axis=1) != log_q.argmax(axis=1)
    assert found.flips == flips.sum() > 0
    assert sum(count for *_, count in found.swaps) == found.flips
    assert [field for field, *_ in found.fields] == ["temperature", "text.prompts_sha256", "text.templates"]
    names = open_cache(out).manifest.plan.vocabulary.class_names
    for item in found.classes:
        mine = categories == names.index(item.name)
        assert (item.regions, item.flips) == (mine.sum(), flips[mine].sum())
        np.testing.assert_allclose(item.mean_kl, kl[mine].mean(), rtol=1e-9)
    assert [item.mean_kl for item in found.classes] == sorted((item.mean_kl for item in found.classes), reverse=True)


def test_without_embeddings_the_rest_is_one_class_and_bounds_from_below(cache, out):
    rescore(out, label_set="other", text=other_prompts(cache), top_k=4)
    rescore(out, label_set="own", top_k=5)
    exact = diff_label_sets(out, "own", "other", threads=1)
    for path in (cache.label_set.folder, cache.label_set.index(0).parent, cache.label_set.receipt(0).parent):
        shutil.rmtree(path)
    bounded = diff_label_sets(out, "own", "other", threads=1)
    assert (exact.is_exact, bounded.is_exact) == (True, False)
    assert 0 < bounded.mean_kl < exact.mean_kl
    assert bounded.flips == exact.flips


def test_a_set_differs_from_its_copy_in_nothing(cache, out):
    rescore(out, label_set="again")
    found = diff_label_sets(out, LABELS, "again", threads=2)
    assert (found.max_kl, found.flips, found.fields, found.swaps) == (0.0, 0, (), ())


def test_views_of_one_set_alone_are_counted_and_left_out(cache, out):
    caches.SyntheticCache(cache.root, out, labels="crops", crops=1, mosaics=0).make()
    found = diff_label_sets(out, LABELS, "crops", threads=1)
    manifests = open_cache(out).label_sets
    assert found.regions == manifests["crops"].regions
    assert found.unmatched_views == manifests[LABELS].views - manifests["crops"].views
    caches.SyntheticCache(cache.root, out, labels="mosaics", crops=0, mosaics=1).make()
    with pytest.raises(RichSemError, match="no views in common"):
        diff_label_sets(out, "crops", "mosaics", threads=1)


def test_other_classes_the_same_set_and_unknown_sets_are_refused(cache, out):
    features = np.eye(3, caches.DIM, dtype=np.float32)
    teacher = open_cache(out).label_set(LABELS).spec.teacher
    bank = TextBank(("none", "x", "y"), ("none", "x", "y"), ("{}",), teacher.logit_scale, features)
    write_text_folder(out.parent / "xy", TextFolder(bank, teacher, "xy", "raw"))
    rescore(out, label_set="xy", text=out.parent / "xy")
    with pytest.raises(RichSemError, match="speak of other classes"):
        diff_label_sets(out, LABELS, "xy", threads=1)
    with pytest.raises(RichSemError, match="name two"):
        diff_label_sets(out, LABELS, LABELS, threads=1)
    with pytest.raises(RichSemError, match="'zzz'"):
        diff_label_sets(out, LABELS, "zzz", threads=1)


def test_a_damaged_shard_is_refused_by_its_file(cache, out):
    rescore(out, label_set="again")
    path = cache.layout.label_set("again").tar(1)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptCacheError, match=r"folder-000001\.tar.*receipts.*anew"):
        diff_label_sets(out, LABELS, "again", threads=1)


def test_the_command_prints_tables_or_json(cache, out):
    rescore(out, label_set="soft", temperature=2.0)
    runner = CliRunner()
    shown = runner.invoke(app, ["diff", str(out), "--label-set", LABELS, "soft", "--classes", "2"])
    assert shown.exit_code == 0, shown.output
    assert "temperature" in shown.output
    assert "mean KL" in shown.output
    printed = runner.invoke(app, ["diff", str(out), "--label-set", LABELS, "soft", "--json"])
    value = json.loads(printed.stdout)
    assert value["label_sets"] == [LABELS, "soft"]
    assert value["mean_kl"] > 0
    assert {"name", "regions", "mean_kl", "flips"} == set(value["classes"][0])
