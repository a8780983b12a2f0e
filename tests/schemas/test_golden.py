"""The golden cache pins the format: today's code reads what was written then.

If a test of this file or a value of `pins.json` must change, `FORMAT_VERSION` must change with it, and a new golden
cache be made beside the old.
"""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from richsem_schemas.cache.codec import pack_view, unpack_view
from richsem_schemas.cache.index import member_names, view_names
from richsem_schemas.cache.layout import FORMAT_VERSION
from richsem_schemas.cache.reader import open_cache
from richsem_schemas.cache.render import render_view
from richsem_schemas.cache.soft_labels import class_log_probs, top_k_soft_labels
from richsem_schemas.cache.view import VIEW_KINDS
from richsem_schemas.pictures.decode import decode_picture, picture_extension

GOLDEN = Path(__file__).parents[1] / "golden"
CACHE = GOLDEN / "cache"
PINS = json.loads((GOLDEN / "pins.json").read_text())
KEYS = {0: ["000000-00000", "000000-00001", "000000-00003", "000000-00004"], 1: [f"000001-0000{n}" for n in range(4)]}
MOSAIC = "000000-00000.mosaic-0"
SETS = ["float16", "int8", "none"]


@pytest.fixture(scope="module")
def golden():
    return open_cache(CACHE)


def labelled_views(golden, labels, shard):
    stored = golden.label_shard(labels, shard)
    rows = stored.rows()
    return dict(zip((name.removesuffix(".npy") for name in view_names(rows)), stored.views(rows), strict=True))


def decoded(golden, shard):
    stored = golden.picture_shard(shard).pictures(root=None)
    return {int(picture.row["sample"]): decode_picture(picture.data) for picture in stored}


def test_if_this_test_must_change_the_format_version_must_change():
    digest = hashlib.sha256()
    for path in sorted(path for path in CACHE.rglob("*") if path.is_file()):
        digest.update(path.relative_to(CACHE).as_posix().encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    assert (FORMAT_VERSION, digest.hexdigest()) == (1, PINS["files_sha256"])


def test_todays_reader_opens_the_golden_cache(golden):
    plan = golden.manifest.plan
    assert (plan.dataset, plan.seed, plan.shards, plan.samples_per_shard) == ("golden", 57, 2, 5)
    assert (golden.manifest.samples, golden.manifest.quarantined, plan.rejected) == (8, 1, 1)
    assert plan.fingerprint == golden.manifest.fingerprint == PINS["plan_fingerprint"]
    assert plan.vocabulary.class_names == ("none", "blue", "green", "red", "white", "yellow")
    assert list(golden.label_sets) == SETS
    assert {(item.views, item.regions) for item in golden.label_sets.values()} == {(42, 100)}


def test_fingerprints_of_specs_are_still_computed_the_same_way(golden):
    found = {name: item.spec.fingerprint for name, item in golden.label_sets.items()}
    assert found == PINS["spec_fingerprints"]
    assert all(item.spec.fingerprint == item.fingerprint for item in golden.label_sets.values())


def test_keys_stand_in_the_order_of_the_samples_without_the_quarantined_one(golden):
    for shard, keys in KEYS.items():
        assert golden.picture_shard(shard).rows()["key"].tolist() == keys
    quarantined = (CACHE / "quarantine" / "golden-000000.jsonl").read_text()
    assert '"key":"000000-00002"' in quarantined
    assert '"name":"red/broken.jpg"' in quarantined


@pytest.mark.parametrize("labels", SETS)
def test_views_stand_under_the_key_of_their_first_tile_in_order(golden, labels):
    for shard, keys in KEYS.items():
        members = list(labelled_views(golden, labels, shard))
        each = [f"{key}.{kind}-0" for key in keys for kind in VIEW_KINDS if kind != "mosaic"]
        assert members == sorted([*each, f"{keys[0]}.mosaic-0"], key=lambda name: name + ".npy")


def test_pictures_are_what_the_index_says(golden):
    shard = golden.picture_shard(0)
    assert shard.rows()[["name", "category_id", "extension", "height", "width"]].tolist() == [
        ("blue/flat.png", 1, "png", 40, 48),
        ("green/a.jpg", 2, "jpg", 50, 40),
        ("yellow/rotated.jpg", 5, "jpg", 50, 40),
        ("white/a.jpg", 4, "jpg", 50, 36),
    ]
    for stored in shard.pictures(root=None):
        assert picture_extension(stored.data) == stored.row["extension"]
        assert decode_picture(stored.data).size == stored.row[["width", "height"]].item()


def test_an_exif_rotation_is_applied(golden):
    shard = golden.picture_shard(0)
    rows = shard.rows()
    (stored,) = shard.pictures(rows[rows["name"] == "yellow/rotated.jpg"], root=None)
    assert Image.open(io.BytesIO(stored.data)).size == (50, 40)
    assert stored.row[["width", "height"]].item() == (40, 50)


def test_an_unlabelled_picture_has_category_0(golden):
    rows = golden.picture_shard(1).rows()
    assert rows["category_id"][rows["name"] == "unlabelled.jpg"].tolist() == [0]


def test_the_mosaic_is_the_one_that_was_written(golden):
    labelled = labelled_views(golden, "float16", 0)[MOSAIC]
    view = labelled.view
    assert (view.kind, view.pass_index, view.canvas_hw) == ("mosaic", 0, (96, 96))
    assert view.tiles["sample"].tolist() == [0, 1, 4, 3]
    assert view.tiles["source_xyxy_px"].tolist() == np.float32(
        [
            [0, 0, 48, 40],
            [3.3333333, 1.1111112, 33.796295, 26.666666],
            [3, 1, 29, 24.333334],
            [0, 0, 40, 41.666668],
        ]
    ).tolist()  # fmt: skip
    boxes = [[1, 16, 49, 56], [49, 16, 96, 56], [5, 56, 49, 96], [49, 56, 87, 96]]
    assert view.tiles["paste_xyxy_px"].tolist() == boxes
    assert view.tiles["flip"].tolist() == [0, 0, 0, 1]
    assert view.regions["box_xyxy_px"].tolist() == boxes
    assert view.regions["tile"].tolist() == [0, 1, 2, 3]
    assert view.regions["category_id"].tolist() == [1, 2, 4, 5]


def test_its_soft_labels_are_the_ones_that_were_written(golden):
    labels = labelled_views(golden, "float16", 0)[MOSAIC].labels
    assert labels.log_probs.dtype == np.float16
    for name in ("class_ids", "log_probs", "log_rest"):
        assert getattr(labels, name).tolist() == PINS[name]
    assert labels.class_ids[:, 0].tolist() == [1, 2, 4, 5]


def test_its_embeddings_are_the_ones_that_were_written(golden):
    assert labelled_views(golden, "float16", 0)[MOSAIC].embeddings[0].tolist() == PINS["first_embedding"]
    int8 = labelled_views(golden, "int8", 0)[MOSAIC].embeddings[0]
    assert int8.tolist() == (np.float32(PINS["first_codes"]) * np.float32(PINS["first_scale"])).tolist()
    assert labelled_views(golden, "none", 0)[MOSAIC].embeddings is None


def test_a_picture_of_evaluations_size_has_its_boxes_as_annotated(golden):
    views = labelled_views(golden, "float16", 0)
    whole, jitter = views["000000-00000.whole-0"].view, views["000000-00000.whole-jitter-0"].view
    assert whole.canvas_hw == jitter.canvas_hw == (40, 48)
    assert whole.regions["box_xyxy_px"].tolist() == [[2, 4, 24, 32], [12.5, 0, 48, 20]]
    assert whole.regions["category_id"].tolist() == [1, 0]
    assert whole.regions["annotation"].tolist() == [0, 1]
    assert whole.regions["noise_scale"].tolist() == [0, 0]
    assert jitter.regions["annotation"].tolist() == [0, 0, 1, 1]
    assert jitter.regions["noise_scale"].tolist() == [0.25, 1, 0.25, 1]
    # A quarter of half of 22 and of 28 pixels.
    assert (np.abs(jitter.regions["box_xyxy_px"][0] - [2, 4, 24, 32]) <= [2.75, 3.5, 2.75, 3.5]).all()


def test_windows_of_scale_jitter_may_leave_canvas_empty(golden):
    views = [labelled.view for labelled in labelled_views(golden, "int8", 0).values() if labelled.view.kind == "window"]
    assert {view.canvas_hw for view in views} == {(48, 48)}
    shown = [view.tiles["paste_xyxy_px"][0].tolist() for view in views]
    assert all(paste[:2] == [0, 0] for paste in shown)
    assert any(min(paste[2:]) < 48 for paste in shown)


@pytest.mark.parametrize("labels", ["float16", "int8"])
def test_soft_labels_can_be_regenerated_from_the_embeddings(golden, labels):
    bank = golden.text_bank(labels)
    for labelled in labelled_views(golden, labels, 0).values():
        log_probs_RC = class_log_probs(labelled.embeddings, bank.features, logit_scale=bank.logit_scale)
        again = top_k_soft_labels(log_probs_RC, top_k=4)
        assert again.class_ids.tolist() == labelled.labels.class_ids.tolist()
        # A last digit of float64 may differ between builds of NumPy, and flip a rounding to float16.
        np.testing.assert_allclose(again.log_probs, labelled.labels.log_probs, rtol=2**-10)
        np.testing.assert_allclose(again.log_rest, labelled.labels.log_rest, rtol=1e-5)


@pytest.mark.parametrize("labels", ["float16", "none"])
def test_todays_writer_packs_the_golden_views_to_the_same_bytes(golden, labels):
    layout = golden.label_sets[labels].spec.record_layout
    shard = golden.label_shard(labels, 0)
    rows = shard.rows()
    span = shard.span(rows)
    for member, offset, size in zip(member_names(rows), rows["offset"].tolist(), rows["size"].tolist(), strict=True):
        data = span.read(offset, size)
        labelled = unpack_view(data, member)
        assert pack_view(labelled.view, labelled.embeddings, labelled.labels, layout) == data


def test_the_mosaic_renders_to_the_committed_picture(golden):
    rendered = render_view(labelled_views(golden, "float16", 0)[MOSAIC].view, decoded(golden, 0))
    expected = np.asarray(Image.open(GOLDEN / f"{MOSAIC}.png")).astype(int)
    # Versions of the JPEG decoder differ by a level or two.
    assert np.abs(rendered.astype(int) - expected).mean() < 2


def test_every_view_renders_to_its_canvas(golden):
    for shard in KEYS:
        pictures = decoded(golden, shard)
        for labelled in labelled_views(golden, "none", shard).values():
            height, width = labelled.view.canvas_hw
            assert render_view(labelled.view, pictures).shape == (height, width, 3)


def read_by_webdataset(path):
    return list(webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False).decode("rgb8"))


@pytest.mark.parametrize("shard", [0, 1])
def test_plain_webdataset_reads_the_pictures(golden, shard):
    samples = read_by_webdataset(golden.layout.pictures_tar(shard))
    assert [sample["__key__"] for sample in samples] == KEYS[shard]
    for sample, row in zip(samples, golden.picture_shard(shard).rows(), strict=True):
        assert sample["json"]["name"] == row["name"]
        assert sample[row["extension"]].dtype == np.uint8


@pytest.mark.parametrize("labels", SETS)
@pytest.mark.parametrize("shard", [0, 1])
def test_plain_webdataset_reads_the_labels(golden, labels, shard):
    samples = {sample["__key__"]: sample for sample in read_by_webdataset(golden.layout.label_set(labels).tar(shard))}
    assert list(samples) == KEYS[shard]
    for name, labelled in labelled_views(golden, labels, shard).items():
        key, member = name.split(".")
        record = samples[key][f"{member}.npy"]
        assert record.shape == ()
        assert record["regions"]["class_ids"].tolist() == labelled.labels.class_ids.tolist()
        assert record["canvas_hw"].tolist() == list(labelled.view.canvas_hw)
