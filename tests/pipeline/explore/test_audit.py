import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from richsem_prep.cli import app
from richsem_prep.explore import audit as auditing
from richsem_prep.explore.audit import audit, cosines, kl_from_live, spread
from richsem_prep.explore.audit_records import audit_line, last_audit
from richsem_prep.explore.audit_request import AuditRequest
from richsem_prep.explore.inspect import inspect_label_set
from richsem_prep.teacher.worker_settings import WorkerDescription
from richsem_prep.verify.cache import verify_cache
from richsem_schemas.cache.index import VIEW_ROW, index_bytes, read_raw_index
from richsem_schemas.cache.manifest import AuditRecord, Environment, LabelSpec
from richsem_schemas.cache.reader import open_cache
from richsem_schemas.cache.shard import PictureShard
from richsem_schemas.cache.soft_labels import TopKSoftLabels, class_log_probs, top_k_soft_labels
from richsem_schemas.errors import CorruptCacheError, ManifestMismatchError, RichSemError
from tests.caches import DIM, LABELS, HashingEncoder, SyntheticCache

ENVIRONMENT = Environment(device="none", torch_threads=1, versions={})


class NoisyEncoder(HashingEncoder):
    """The encoder that made the cache, with noise on what it says."""

    def __init__(self, noise):
        self.noise = noise

    def encode(self, views):
        rng = np.random.default_rng(0)
        for item, features in super().encode(views):
            noisy = features + self.noise * rng.standard_normal(features.shape)
            yield item, (noisy / np.linalg.norm(noisy, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def live(monkeypatch, cache):
    """Put a teacher without a network in the place of the worker's; returns what sets its noise and its identity."""
    spec = LabelSpec.read(cache.label_set.spec)

    class StandIn:
        noise, changes = 0.0, {}

        def __init__(self, settings):
            assert settings.region_encoder == spec.region_encoder.kind
            self.encoder = NoisyEncoder(self.noise)

        def describe(self):
            teacher = spec.teacher.model_copy(update=self.changes)
            return WorkerDescription(teacher, spec.region_encoder, "fp32", (), ENVIRONMENT)

    monkeypatch.setattr(auditing, "Worker", StandIn)
    return StandIn


def run(cache, *, root=None, **changes):
    request = AuditRequest(**({"teacher": "hash", "samples": 1_000} | changes))
    opened = open_cache(cache.layout.out)
    return audit(opened, LABELS, request, device=None, root=root, on_progress=lambda *_: None)


def test_the_teacher_that_made_the_set_says_the_same_again(cache, live):
    record = run(cache)
    assert record.passed
    assert record.regions == 40 + 4 * 22
    assert (record.views, record.shards) == (62, 3)
    assert record.cosine.lowest > 1 - 1e-6
    assert 0 <= record.kl.lowest <= record.kl.highest < 1e-4
    assert last_audit(cache.label_set, LabelSpec.read(cache.label_set.spec).fingerprint) == record
    assert verify_cache(cache.layout.out).problems == ()


@pytest.mark.parametrize(
    ("options", "lowest_cosine", "highest_kl"),
    [
        ({"embeddings": "int8"}, 0.999, 1e-2),
        ({"embeddings": "none"}, None, 1e-4),
        ({"pictures": "reference"}, 1 - 1e-6, 1e-4),
    ],
)
def test_every_kind_of_cache_is_audited(pictures_root, tmp_path, live, options, lowest_cosine, highest_kl):
    record = run(SyntheticCache(pictures_root, tmp_path / "out", **options).make())
    assert record.passed
    assert (record.cosine is None) == (lowest_cosine is None)
    assert record.cosine is None or record.cosine.lowest > lowest_cosine
    assert record.kl.highest < highest_kl


def test_a_teacher_that_says_something_else_fails_and_is_recorded(cache, live):
    live.noise = 0.05
    record = run(cache)
    assert not record.passed
    assert record.cosine.lowest < 0.999
    assert audit_line(record).startswith("failed, worst 00000")
    assert run(cache, min_cosine=-1, max_kl=100).passed
    assert not run(cache, min_cosine=-1, max_kl=record.kl.highest * 0.99).passed
    assert run(cache, min_cosine=record.cosine.lowest, max_kl=record.kl.highest).passed


def test_a_teacher_without_finite_numbers_fails(cache, live):
    live.noise = float("nan")
    with pytest.raises(RichSemError, match=r"region \d+, holds numbers that are not finite"):
        run(cache)
    assert not cache.label_set.audits.exists()


def test_what_is_missing_is_named_with_what_to_do(cache, pictures_root, tmp_path, live):
    cache.label_set.tar(1).unlink()
    with pytest.raises(CorruptCacheError, match=r"000001\.tar: can't be read .*richsem-prep verify"):
        run(cache)
    other = SyntheticCache(pictures_root, tmp_path / "other", pictures="reference").make()
    with pytest.raises(CorruptCacheError, match=r"can't be read \(No such file.*--root"):
        run(other, root=tmp_path)


def test_the_largest_kl_names_its_region(cache, live):
    live.noise = 0.05
    one = {run(cache, samples=1, seed=seed).worst for seed in range(6)}
    assert len(one) > 1
    assert all(worst.count(".") == 2 and ", region " in worst for worst in one)


def test_another_teacher_is_refused_by_the_field_that_differs(cache, live):
    live.changes = {"quick_gelu": True}
    with pytest.raises(ManifestMismatchError, match=r"quick_gelu is False there, True here.*Audit with the teacher"):
        run(cache)
    live.changes = {"weights_sha256": "f" * 64}
    with pytest.raises(ManifestMismatchError, match="weights_sha256"):
        run(cache)
    assert not cache.label_set.audits.exists()


def test_a_file_under_another_name_is_the_same_teacher(cache, live):
    live.changes = {"name": "moved.pt"}
    assert run(cache).passed


def test_the_seed_chooses_the_regions(cache, live):
    live.noise = 0.01
    first, again, other = run(cache, samples=20), run(cache, samples=20), run(cache, samples=20, seed=1)
    assert (first.regions, first.kl, first.worst) == (20, again.kl, again.worst)
    assert other.kl != first.kl


def test_no_picture_of_the_sample_may_be_damaged(cache, live):
    path = cache.layout.pictures_tar(1)
    data = bytearray(path.read_bytes())
    data[PictureShard(cache.layout, 1).rows()["offset"][3] + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptCacheError, match="makes the shard anew"):
        run(cache)


def test_an_unfinished_cache_is_the_users_mistake(cache, live):
    cache.label_set.manifest.unlink()
    with pytest.raises(RichSemError, match="no finished label set"):
        open_cache(cache.layout.out).label_set(LABELS)


def test_inspect_shows_the_last_audit_of_the_set_as_it_is(cache, live):
    opened = open_cache(cache.layout.out)
    assert inspect_label_set(opened, LABELS).last_audit is None
    run(cache)
    live.noise = 0.05
    record = run(cache)
    assert inspect_label_set(opened, LABELS).last_audit == record
    assert last_audit(cache.label_set, "0" * 64) is None


def test_a_record_that_cannot_be_read_is_told_with_the_remedy(cache, live):
    run(cache)
    (path,) = cache.label_set.audits.iterdir()
    path.write_text("{}")
    with pytest.raises(CorruptCacheError, match="remove it, and audit again"):
        inspect_label_set(open_cache(cache.layout.out), LABELS)


def test_verify_looks_at_audits(cache, live):
    run(cache)
    (path,) = cache.label_set.audits.iterdir()
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    assert [problem.path for problem in verify_cache(cache.layout.out).problems] == [f"audits/{LABELS}/{path.name}"]
    AuditRecord.model_validate(json.loads(data) | {"label_set": "other"}, extra="ignore").write(path)
    assert "audit of 'other'" in verify_cache(cache.layout.out).problems[0].message
    path.rename(path.with_name("mine.json"))
    assert "doesn't belong" in verify_cache(cache.layout.out).problems[0].message


def test_the_command_prints_the_spread_and_exits_with_1_where_it_fails(cache, live):
    arguments = ["audit", str(cache.layout.out), "--teacher", "hash", "--samples", "30"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "passed: 30 regions" in result.output
    assert max(map(len, result.output.splitlines()[:-1])) <= 80
    live.noise = 0.05
    assert CliRunner().invoke(app, arguments).exit_code == 1


def test_kl_is_that_of_torch_over_all_classes_where_all_are_kept():
    rng = np.random.default_rng(0)
    text = rng.standard_normal((7, DIM))
    live, stored = (class_log_probs(rng.standard_normal((50, DIM)), text, logit_scale=5) for _ in range(2))
    labels = top_k_soft_labels(stored, top_k=7)
    exact = torch.nn.functional.kl_div(
        torch.from_numpy(stored), torch.from_numpy(live), log_target=True, reduction="none"
    ).sum(-1)
    np.testing.assert_allclose(kl_from_live(live, labels), exact.numpy(), rtol=2e-2, atol=1e-4)


def test_kl_takes_the_classes_left_out_as_one():
    live = np.log([[0.5, 0.3, 0.1, 0.1]])
    stored = TopKSoftLabels(
        np.array([[1, 0]], np.int32), np.log([[0.5, 0.25]]).astype(np.float16), np.log([0.25]).astype(np.float32)
    )
    expected = 0.3 * np.log(0.3 / 0.5) + 0.5 * np.log(0.5 / 0.25) + 0.2 * np.log(0.2 / 0.25)
    assert kl_from_live(live, stored)[0] == pytest.approx(expected, abs=1e-3)


def test_kl_of_a_label_that_excludes_what_is_there_is_large_and_finite():
    live = np.log([[0.5, 0.25, 0.25]])
    stored = TopKSoftLabels(np.array([[0]], np.int32), np.zeros((1, 1), np.float16), np.array([-np.inf], np.float32))
    assert 1_000 < kl_from_live(live, stored)[0] < np.inf


def test_an_embedding_without_length_has_no_cosine_of_one():
    assert cosines(np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32)).tolist() == [0]
    assert cosines(np.array([[3.0, 4.0]], np.float32), np.array([[4.0, 3.0]], np.float32)) == pytest.approx(24 / 25)


def test_spread_is_that_of_numpy():
    found = spread(list(range(101)))
    assert (found.lowest, found.percentile_1, found.median, found.mean, found.percentile_99) == (0, 1, 50, 50, 99)


@pytest.mark.parametrize(("column", "value"), [("kind", "brop"), ("pass", -1), ("offset", 2**62), ("regions", -1)])
def test_a_cell_of_an_index_that_cant_be_right_is_refused(cache, live, column, value):
    for shard in range(3):
        path = cache.label_set.index(shard)
        rows = read_raw_index(path, VIEW_ROW)
        rows[column][0] = value
        path.write_bytes(index_bytes(rows))
    with pytest.raises(CorruptCacheError, match=r"\.parquet: not a readable index \(.*richsem-prep verify"):
        run(cache)
