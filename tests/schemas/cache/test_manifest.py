from pathlib import Path

import pytest
from pydantic import ValidationError

from richsem_schemas.cache.manifest import (
    CacheManifest,
    LabelManifest,
    LabelSpec,
    Plan,
    RegionEncoderSpec,
    ScaleJitter,
    ShardSummary,
    TeacherIdentity,
    TextSpec,
    ViewGeometry,
    ViewsSpec,
)
from richsem_schemas.cache.record import require_same
from richsem_schemas.cache.view import VIEW_KINDS
from richsem_schemas.errors import CorruptCacheError, ManifestMismatchError
from richsem_schemas.io.canonical_json import json_sha256
from richsem_schemas.io.files import FileHash
from richsem_schemas.io.sealed_json import read_sealed_json, write_sealed_json
from richsem_schemas.vocabularies.vocabulary import Vocabulary

A, B = "a" * 64, "b" * 64
PLAN_FINGERPRINT = "f5632221c9006bb5bc7463c98d247f5f3ad450646c8bb6f0f3599f22754571a1"
SPEC_FINGERPRINT = "2c3d6afe10260415c2d2b70990afaab3436ed1efe954e9a3cb053dc1ecc7a54b"
HASH, OTHER_HASH = FileHash(bytes=10**9, sha256=A), FileHash(bytes=10**9, sha256=B)


def plan(**changes):
    fields = {
        "dataset": "inet-lvis",
        "seed": 0,
        "listed": 5_000,
        "samples": 5_000,
        "samples_per_shard": 1_024,
        "limit": None,
        "pictures": "copy",
        "max_side": None,
        "root": None,
        "vocabulary": Vocabulary(name="lvis-v1", class_names=("none", "aerosol_can")),
        "absent_classes": (),
        "listing": HASH,
        "rejected": 0,
        "listing_quarantine": None,
    }
    return Plan(**fields | changes)


TEACHER = TeacherIdentity(
    name="RN50:openai",
    weights_sha256=A,
    model_config_sha256=A,
    quick_gelu=True,
    embed_dim=1_024,
    mean=(0.48, 0.46, 0.41),
    std=(0.27, 0.26, 0.28),
    input_hw=(224, 224),
    interpolation="bicubic",
    logit_scale=100.0,
    logit_bias=None,
)
ENCODER = RegionEncoderSpec(kind="roi-align", teacher_size=None, pooled_hw=(7, 7))
VIEWS = ViewsSpec(crops=1, mosaics=4, geometry=ViewGeometry())
TEXT = TextSpec(vocabulary="lvis-v1", names="raw", classes=1_204, templates=81, prompts_sha256=A)


def spec(**changes):
    fields = {
        "plan_fingerprint": A,
        "teacher": TEACHER,
        "region_encoder": ENCODER,
        "precision": "fp32",
        "views": VIEWS,
        "text": TEXT,
        "embeddings": "float16",
        "top_k": 64,
    }
    return LabelSpec(**fields | changes)


def cache_manifest(**changes):
    shard = ShardSummary(shard=0, samples=5_000, tar=HASH, index=HASH)
    fields = {"plan": plan(), "fingerprint": A, "samples": 5_000, "quarantined": 0, "bytes": 1, "shards": (shard,)}
    return CacheManifest(**fields | changes)


def write(path, model, **changes):
    write_sealed_json(path, model.model_dump(mode="json") | changes)
    return path


@pytest.mark.parametrize("model", [plan(), spec(), cache_manifest()])
def test_a_record_reads_back(tmp_path, model):
    model.write(tmp_path / "a.json")
    assert type(model).read(tmp_path / "a.json") == model


@pytest.mark.parametrize("model", [plan(), spec(), cache_manifest()])
@pytest.mark.parametrize("version", [0, 2, "1", 1.5, None, [1]])
def test_another_version_is_refused_with_both_versions(tmp_path, model, version):
    path = write(tmp_path / "a.json", model, format_version=version)
    with pytest.raises(CorruptCacheError) as caught:
        type(model).read(path)
    message = str(caught.value)
    assert str(path) in message
    assert f"format version is {version!r}" in message
    assert "reads 1" in message


@pytest.mark.parametrize("model", [plan(), spec(), cache_manifest()])
def test_an_unknown_field_is_named(tmp_path, model):
    path = write(tmp_path / "a.json", model, surprise=1)
    with pytest.raises(CorruptCacheError, match=r"a\.json: surprise: Extra inputs are not permitted"):
        type(model).read(path)


def test_an_unknown_field_deep_inside_is_named(tmp_path):
    value = spec().model_dump(mode="json")
    value["views"]["geometry"]["surprise"] = 1
    write_sealed_json(tmp_path / "a.json", value)
    with pytest.raises(CorruptCacheError, match=r"a\.json: views\.geometry\.surprise: "):
        LabelSpec.read(tmp_path / "a.json")


def test_a_missing_field_is_named(tmp_path):
    value = plan().model_dump(mode="json")
    del value["seed"]
    write_sealed_json(tmp_path / "a.json", value)
    with pytest.raises(CorruptCacheError, match=r"a\.json: seed: Field required"):
        Plan.read(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dataset", "../x"),
        ("dataset", "a/b"),
        ("dataset", "a.b"),
        ("dataset", ".."),
        ("dataset", ""),
        ("dataset", 3),
        ("seed", -1),
        ("seed", "zero"),
        ("samples", 0),
        ("listed", 0),
        ("samples_per_shard", 0),
        ("block_samples", 32),
        ("pictures", "move"),
        ("orientation", "none"),
        ("listing", None),
        ("listing", {"bytes": 1, "sha256": "A" * 64}),
        ("listing", {"bytes": 1, "sha256": "a" * 64 + "\n"}),
        ("listing", {"bytes": -1, "sha256": A}),
    ],
)
def test_values_out_of_range_are_refused_by_field(tmp_path, field, value):
    path = write(tmp_path / "a.json", plan(), **{field: value})
    with pytest.raises(CorruptCacheError, match=rf"a\.json: {field}"):
        Plan.read(path)


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "", "a..b", "a\0", ".hidden"])
def test_label_sets_of_unsafe_names_are_refused(name):
    with pytest.raises(ValidationError, match="can't name a label set"):
        LabelManifest(
            name=name,
            spec=spec(),
            fingerprint=A,
            text=HASH,
            views=1,
            regions=1,
            bytes=1,
            environments=(),
            shards=(),
        )


def test_records_are_frozen():
    with pytest.raises(ValidationError):
        plan().seed = 3


@pytest.mark.parametrize(
    ("samples", "a_shard", "expected"),
    [
        (1, 1_024, [1]),
        (1_023, 1_024, [1_023]),
        (1_024, 1_024, [1_024]),
        (1_025, 1_024, [1_024, 1]),
        (2_048, 1_024, [1_024, 1_024]),
        (5, 2, [2, 2, 1]),
        (3, 1, [1, 1, 1]),
    ],
)
def test_shards_are_full_but_for_the_last(samples, a_shard, expected):
    cut = plan(samples=samples, samples_per_shard=a_shard)
    assert cut.shards == len(expected)
    assert [cut.shard_samples(shard) for shard in range(cut.shards)] == expected


def test_fourteen_million_pictures_are_fourteen_thousand_shards():
    cut = plan(listed=14_000_000, samples=14_000_000)
    assert cut.shards == 13_672
    assert sum(cut.shard_samples(shard) for shard in range(cut.shards)) == 14_000_000


PLAN_IDENTITY = {
    "dataset": "other",
    "seed": 1,
    "listed": 5_001,
    "samples": 4_999,
    "samples_per_shard": 512,
    "limit": 5_000,
    "pictures": "reference",
    "max_side": 512,
    "vocabulary": Vocabulary(name="lvis-v1", class_names=("none", "airplane")),
    "listing": OTHER_HASH,
}
PLAN_CIRCUMSTANCES = {
    "root": "/somewhere",
    "annotations": "instances_train2017.json",
    "annotations_file": HASH,
    "absent_classes": ("n01440764",),
    "rejected": 3,
    "listing_quarantine": HASH,
}
CONSTANTS = {"format_version", "block_samples", "orientation"}


def test_every_field_of_a_plan_is_sorted_into_identity_or_circumstance():
    assert set(Plan.model_fields) == PLAN_IDENTITY.keys() | PLAN_CIRCUMSTANCES.keys() | CONSTANTS


@pytest.mark.parametrize("field", PLAN_IDENTITY)
def test_a_plans_fingerprint_changes_with_each_identity(field):
    assert plan(**{field: PLAN_IDENTITY[field]}).fingerprint != plan().fingerprint


@pytest.mark.parametrize("field", PLAN_CIRCUMSTANCES)
def test_a_plans_fingerprint_does_not_change_with_circumstances(field):
    assert plan(**{field: PLAN_CIRCUMSTANCES[field]}).fingerprint == plan().fingerprint


SPEC_IDENTITY = {
    "plan_fingerprint": B,
    "region_encoder": ENCODER.model_copy(update={"teacher_size": 640}),
    "precision": "fp16",
    "embeddings": "int8",
    "top_k": 32,
    "text": TEXT.model_copy(update={"names": "clean"}),
    "views": VIEWS.model_copy(update={"mosaics": 3}),
    "teacher": TEACHER.model_copy(update={"quick_gelu": False}),
}


@pytest.mark.parametrize("field", SPEC_IDENTITY)
def test_a_label_sets_fingerprint_changes_with_each_field(field):
    assert spec(**{field: SPEC_IDENTITY[field]}).fingerprint != spec().fingerprint


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "RN101:openai"),
        ("weights_sha256", B),
        ("model_config_sha256", B),
        ("embed_dim", 512),
        ("mean", (0.5, 0.5, 0.5)),
        ("std", (0.5, 0.5, 0.5)),
        ("input_hw", (256, 224)),
        ("interpolation", "bilinear"),
        ("logit_scale", 99.9),
        ("logit_bias", -10.0),
    ],
)
def test_a_label_sets_fingerprint_changes_with_each_field_of_the_teacher(field, value):
    assert spec(teacher=TEACHER.model_copy(update={field: value})).fingerprint != spec().fingerprint


def test_fingerprints_never_change():
    # Another value here is another format version: finished caches would be refused.
    assert plan().fingerprint == PLAN_FINGERPRINT
    assert spec().fingerprint == SPEC_FINGERPRINT


def test_jitters_go_with_windows_and_wholes():
    views = VIEWS.model_copy(update={"windows": 4, "whole": True})
    jittered = views.model_copy(update={"jitters": 2})
    assert views.passes == {"crop": 1, "mosaic": 4, "window": 4, "jitter": 0, "whole": 1, "whole-jitter": 0}
    assert jittered.passes == {"crop": 1, "mosaic": 4, "window": 4, "jitter": 4, "whole": 1, "whole-jitter": 1}
    assert tuple(jittered.passes) == VIEW_KINDS
    assert (VIEWS.has_boxes, views.has_boxes, VIEWS.model_copy(update={"whole": True}).has_boxes) == (False, True, True)


@pytest.mark.parametrize("scales", [(), (0.0,), (1.5,), (float("nan"),)])
def test_noise_scales_are_shares_of_half_a_side(scales):
    with pytest.raises(ValidationError):
        ViewsSpec.model_validate(VIEWS.model_dump() | {"noise_scales": scales})


@pytest.mark.parametrize("wrong", [{"side": 0}, {"side": 10_000}, {"factors": (2, 0.1)}, {"factors": (0.1, 1e9)}])
def test_a_scale_jitter_fits_a_canvas_and_ascends(wrong):
    with pytest.raises(ValidationError):
        ScaleJitter.model_validate({"side": 640, "factors": (0.1, 2)} | wrong)


def test_a_label_set_knows_how_its_views_are_packed():
    layout = spec(embeddings="int8").record_layout
    assert (layout.embeddings, layout.dim, layout.top_k) == ("int8", 1_024, 64)


def test_equal_records_are_the_same(tmp_path):
    require_same(tmp_path / "plan.json", plan(), plan(), remedy="")


def test_each_field_that_differs_is_named_with_both_values(tmp_path):
    path = tmp_path / "plan.json"
    other = plan(seed=17, max_side=512, pictures="reference", samples_per_shard=512)
    with pytest.raises(ManifestMismatchError) as caught:
        require_same(path, plan(), other, remedy="Name another --out.")
    message = str(caught.value)
    assert message.startswith(str(path))
    assert message.endswith("Name another --out.")
    for difference in (
        "seed is 0 there, 17 here",
        "max_side is None there, 512 here",
        "pictures is 'copy' there, 'reference' here",
        "samples_per_shard is 1024 there, 512 here",
    ):
        assert difference in message
    assert "dataset" not in message
    assert message.count(" there, ") == 4


def test_nested_fields_are_named_by_their_path(tmp_path):
    other = spec(
        teacher=TEACHER.model_copy(update={"logit_scale": 50.0}),
        views=VIEWS.model_copy(update={"geometry": ViewGeometry(mosaic_tile=320)}),
    )
    with pytest.raises(ManifestMismatchError) as caught:
        require_same(tmp_path / "spec.json", spec(), other, remedy="")
    assert "teacher.logit_scale is 100.0 there, 50.0 here" in str(caught.value)
    assert "views.geometry.mosaic_tile is 640 there, 320 here" in str(caught.value)


def test_ignored_fields_may_differ(tmp_path):
    path = tmp_path / "plan.json"
    require_same(path, plan(), plan(root="/x", rejected=2), ignore=frozenset({"root", "rejected"}), remedy="")
    with pytest.raises(ManifestMismatchError, match="seed") as caught:
        require_same(path, plan(), plan(root="/x", seed=1), ignore=frozenset({"root"}), remedy="")
    assert "root is" not in str(caught.value)


def test_long_values_are_shortened(tmp_path):
    other = plan(vocabulary=Vocabulary(name="lvis-v1", class_names=tuple(f"class {i}" for i in range(1_204))))
    with pytest.raises(ManifestMismatchError) as caught:
        require_same(tmp_path / "plan.json", plan(), other, remedy="")
    assert len(str(caught.value)) < 400


def test_values_that_begin_alike_are_shown_where_they_differ(tmp_path):
    here = plan(root="/data/a-rather-long-folder-name/of/a/cluster/imagenet-21k")
    there = plan(root="/data/a-rather-long-folder-name/of/a/cluster/imagenet-1k")
    with pytest.raises(ManifestMismatchError) as caught:
        require_same(tmp_path / "plan.json", there, here, remedy="")
    assert "21k" in str(caught.value)
    assert "imagenet-1k" in str(caught.value)


def test_every_field_is_written_and_counts_whatever_its_value():
    golden = Path(__file__).parents[2] / "golden" / "cache" / "labels" / "float16" / "spec.json"
    spec, written = LabelSpec.read(golden), read_sealed_json(golden)
    assert set(written) == set(LabelSpec.model_fields)
    assert set(written["views"]) == set(ViewsSpec.model_fields)
    assert set(written["views"]["geometry"]) == set(ViewGeometry.model_fields)
    assert (written["temperature"], written["rescored_from"]) == (1.0, None)
    assert spec.fingerprint == json_sha256(written)
    assert spec.model_copy(update={"temperature": 2.0}).fingerprint != spec.fingerprint


def test_a_temperature_outside_of_reason_is_refused():
    golden = Path(__file__).parents[2] / "golden" / "cache" / "labels" / "float16" / "spec.json"
    value = LabelSpec.read(golden).model_dump(mode="json")
    for temperature in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValidationError):
            LabelSpec.model_validate(value | {"temperature": temperature})
