import numpy as np
import pytest

from richsem_prep.rescore.shard import rescored_views
from richsem_schemas.cache.codec import pack_view, unpack_view
from richsem_schemas.cache.index import VIEW_ROW
from richsem_schemas.cache.layout import CacheLayout, sample_key
from richsem_schemas.cache.manifest import (
    Environment,
    LabelSpec,
    LabelsReceipt,
    RegionEncoderSpec,
    TeacherIdentity,
    TextSpec,
    ViewGeometry,
    ViewsSpec,
)
from richsem_schemas.cache.shard import LabelShard
from richsem_schemas.cache.shard_writer import ShardWriter
from richsem_schemas.cache.soft_labels import class_log_probs, top_k_soft_labels
from richsem_schemas.cache.text_bank import TextBank
from richsem_schemas.cache.view import REGION_DTYPE, TILE_DTYPE, View
from richsem_schemas.errors import CorruptCacheError

DIM, CLASSES, REGIONS = 6, 5, (3, 0, 1, 3, 0)
TEXT = TextBank(
    tuple("abcde"), tuple("abcde"), ("{}",), 10.0, np.random.default_rng(1).normal(size=(5, DIM)).astype(np.float32)
)
TEACHER = TeacherIdentity(
    name="x", weights_sha256="0" * 64, model_config_sha256="1" * 64, quick_gelu=False, embed_dim=DIM, mean=(0, 0, 0),
    std=(1, 1, 1), input_hw=(32, 32), interpolation="bicubic", logit_scale=10.0, logit_bias=None,
)  # fmt: skip
SPEC = LabelSpec(
    plan_fingerprint="2" * 64,
    teacher=TEACHER,
    region_encoder=RegionEncoderSpec(kind="crop", teacher_size=None, pooled_hw=None),
    precision="fp32",
    views=ViewsSpec(crops=0, mosaics=0, windows=1, geometry=ViewGeometry()),
    text=TextSpec(vocabulary="v", names="raw", classes=CLASSES, templates=1, prompts_sha256="3" * 64),
    embeddings="float16",
    top_k=2,
)


def write_windows(out, *, spec=SPEC):
    """A shard of window views with as many regions as `REGIONS` says; returns it and its embeddings."""
    shard = LabelShard(CacheLayout(out, "windows").label_set("set"), 0)
    rng = np.random.default_rng(0)
    rows, features = [], []
    with ShardWriter(shard) as writer:
        for sample, count in enumerate(REGIONS):
            tiles = np.array([(sample, (0, 0, 9, 9), (0, 0, 9, 9), 0)], TILE_DTYPE)
            regions = np.array([((0, 0, 1 + at, 1 + at), 0, at, -1, 0) for at in range(count)], REGION_DTYPE)
            unit = rng.normal(size=(count, DIM))
            unit = (unit / np.linalg.norm(unit, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)
            features.append(unit)
            kept = top_k_soft_labels(class_log_probs(unit, TEXT.features, logit_scale=10.0), top_k=2)
            packed = pack_view(View("window", 0, (9, 9), tiles, regions), unit, kept, spec.record_layout)
            offsets = writer.add(sample_key(0, sample), {"window-0.npy": packed})
            rows.append((sample_key(0, sample), sample, "window", 0, 1, count, offsets["window-0.npy"], len(packed)))
        summary = writer.finish(np.array(rows, VIEW_ROW), samples=len(REGIONS))
    LabelsReceipt(
        spec_fingerprint=SPEC.fingerprint,
        summary=summary,
        seconds={},
        environment=Environment(device="none", torch_threads=1, versions={}),
    ).write(shard.receipt)
    return shard, features


def test_regions_come_in_the_order_of_the_index_whatever_their_number(tmp_path):
    shard, features = write_windows(tmp_path)
    views = shard.views_alike(SPEC)
    assert sorted(group.regions for group in views.groups) == [0, 1, 3]
    regions = views.regions()
    np.testing.assert_array_equal(regions["embedding"], np.concatenate(features).astype(np.float16))
    assert regions["category_id"].tolist() == [0, 1, 2, 0, 0, 1, 2]


def test_windows_without_boxes_are_rescored_too(tmp_path):
    shard, features = write_windows(tmp_path)
    spec = SPEC.model_copy(update={"embeddings": "none", "temperature": 2.0})
    packed = rescored_views(shard.views_alike(SPEC), spec, TEXT)
    for data, unit in zip(packed, features, strict=True):
        found = unpack_view(data, "window-0.npy")
        expected = top_k_soft_labels(class_log_probs(unit, TEXT.features, logit_scale=5.0), top_k=2)
        assert found.embeddings is None
        np.testing.assert_array_equal(found.labels.class_ids, expected.class_ids)
        np.testing.assert_array_equal(found.labels.log_probs, expected.log_probs)


def test_records_of_another_layout_than_the_spec_says_are_refused(tmp_path):
    shard, _ = write_windows(tmp_path, spec=SPEC.model_copy(update={"embeddings": "int8"}))
    with pytest.raises(CorruptCacheError, match=r"windows-000000\.tar.*index and spec"):
        shard.views_alike(SPEC)


def test_views_of_kinds_come_kind_by_kind_with_their_rows(tmp_path):
    shard, _ = write_windows(tmp_path)
    rows = shard.rows()
    found = list(shard.views_of_kinds(SPEC, ("whole", "window")))
    assert {kind for kind, _, _ in found} == {"window"}
    assert sorted(sample for _, given, _ in found for sample in given["sample"].tolist()) == rows["sample"].tolist()
    alone = {int(row["sample"]): view for row, view in zip(rows, shard.views(rows), strict=True)}
    for _, given, views in found:
        for row, record in zip(given, views.records, strict=True):
            assert int(row["regions"]) == views.regions
            boxes = alone[int(row["sample"])].view.regions["box_xyxy_px"]
            np.testing.assert_array_equal(record["regions"]["box_xyxy_px"], boxes)
    assert list(shard.views_of_kinds(SPEC, ("whole",))) == []


def test_views_of_kinds_are_refused_where_a_byte_differs(tmp_path):
    shard, _ = write_windows(tmp_path)
    data = bytearray(shard.tar.read_bytes())
    data[-1] ^= 1
    shard.tar.write_bytes(data)
    with pytest.raises(CorruptCacheError, match="its bytes don't match its receipt"):
        next(shard.views_of_kinds(SPEC, ("window",)))
