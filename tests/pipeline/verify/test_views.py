from dataclasses import replace
from operator import attrgetter

import numpy as np
import pytest

from richsem_prep.verify.views import SAMPLED_REGIONS, sampled_regions
from richsem_schemas.cache.codec import LabelledView
from richsem_schemas.cache.index import VIEW_ROW, index_bytes
from richsem_schemas.cache.soft_labels import TopKSoftLabels, top_k_soft_labels
from richsem_schemas.cache.view import REGION_DTYPE, TILE_DTYPE, View
from richsem_schemas.cache.view_batch import ShardPictures, ViewBatch
from richsem_schemas.cache.view_checks import are_unsorted, geometry_problems
from tests.caches import LABELS, SyntheticCache
from tests.pipeline.verify.forging import (
    labels_of,
    messages_of,
    only_on,
    paths_of,
    problems_of,
    reseal,
    rewrite_views,
)


def test_rewriting_views_unchanged_leaves_no_problem(cache):
    rewrite_views(cache)
    assert problems_of(cache) == ()


def put(part, name, at, value):
    """Put another value into an array of a view or its labels."""

    def change(labelled):
        values = attrgetter(part)(labelled)
        array = getattr(values, name) if part == "labels" else values[name]
        array[at] = value

    return change


def set_canvas(hw):
    return lambda labelled: replace(labelled, view=replace(labelled.view, canvas_hw=hw))


def scaled_embedding(labelled):
    labelled.embeddings[0] *= 1.1


def other_embedding(labelled):
    labelled.embeddings[0] = np.roll(labelled.embeddings[0], 1)


def not_a_number(labelled):
    labelled.embeddings[0, 0] = np.nan


def class_twice(labelled):
    labelled.labels.class_ids[0, 1] = labelled.labels.class_ids[0, 0]


def swapped_order(labelled):
    for values in (labelled.labels.class_ids, labelled.labels.log_probs):
        values[0, [0, -1]] = values[0, [-1, 0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("view.regions", "box_xyxy_px", 0, (0, 0, 1000, 10)), "box leaves the canvas"),
        (put("view.regions", "box_xyxy_px", 0, (-1, 0, 10, 10)), "box leaves the canvas"),
        (put("view.regions", "box_xyxy_px", 0, (5, 5, 5, 10)), "has no area"),
        (put("view.regions", "box_xyxy_px", 0, (np.nan, 0, 10, 10)), "box leaves the canvas"),
        (put("view.regions", "tile", 0, 4), "names a tile that the view has not"),
        (put("view.regions", "tile", 0, -1), "names a tile that the view has not"),
        (put("view.regions", "category_id", 0, 7), "is outside of 0..6"),
        (put("view.regions", "category_id", 0, 6), "is not its picture's"),
        (put("view.regions", "annotation", 0, 0), "annotation is not one that its kind"),
        (put("view.regions", "annotation", 0, -2), "annotation is not one that its kind"),
        (put("view.regions", "noise_scale", 0, 0.5), "noise_scale is not one that its kind"),
        (put("view.regions", "noise_scale", 0, np.nan), "noise_scale is not one that its kind"),
        (put("view.tiles", "sample", -1, 99), "a sample that the shard has not"),
        (put("view.tiles", "source_xyxy_px", -1, (0, 0, 49, 10)), "a source rectangle leaves its picture"),
        (put("view.tiles", "source_xyxy_px", -1, (-0.1, 0, 10, 10)), "a source rectangle leaves its picture"),
        (put("view.tiles", "source_xyxy_px", -1, (0, 0, np.inf, 10)), "a source rectangle leaves its picture"),
        (put("view.tiles", "paste_xyxy_px", -1, (0, 0, 65, 10)), "pasted outside of the canvas"),
        (put("view.tiles", "paste_xyxy_px", -1, (4, 4, 4, 10)), "without area"),
        (put("view.tiles", "flip", -1, 2), "flip is neither 0 nor 1"),
        (set_canvas((0, 64)), "canvas has no area, or too much"),
        (set_canvas((60_000, 60_000)), "canvas has no area, or too much"),
        (put("labels", "class_ids", (0, 0), 7), "class ids outside of 0..6"),
        (put("labels", "class_ids", (0, 0), -1), "class ids outside of 0..6"),
        (put("labels", "log_probs", (0, 0), 0.5), "above 0 or no number"),
        (put("labels", "log_probs", (0, 0), np.nan), "above 0 or no number"),
        (put("labels", "log_probs", (0, 0), -20), "don't sum to 1"),
        (put("labels", "log_rest", 0, 0.0), "don't sum to 1"),
        (put("labels", "log_rest", 0, np.nan), "don't sum to 1"),
        (class_twice, "a class twice"),
        (swapped_order, "not sorted by probability"),
        (scaled_embedding, "has not the norm 1"),
        (not_a_number, "has not the norm 1"),
        (other_embedding, "not the one that its embedding"),
    ],
)
def test_wrong_values_with_right_hashes_are_found(cache, change, message):
    rewrite_views(cache, only_on("mosaic", change))
    problems = problems_of(cache)
    assert any(message in problem.message for problem in problems), problems
    assert paths_of(problems) == {f"labels/{LABELS}/folder-000000.tar"}


def test_no_label_that_we_write_counts_as_unsorted():
    rng = np.random.default_rng(1)
    for spread in (0, 1e-3, 0.3, 2, 8):
        logits = rng.standard_normal((2_000, 97)) * spread
        log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        stored = top_k_soft_labels(log_probs, top_k=64).log_probs
        assert not are_unsorted(stored).any()
        assert spread < 2 or are_unsorted(stored[:, ::-1]).all()


@pytest.mark.parametrize(
    ("left_out", "message"),
    [
        ({"kind": "crop", "sample": 3}, "pass 0 of crop views doesn't show each picture exactly once"),
        ({"kind": "mosaic", "pass": 1}, "it has 1 passes of mosaic views, the spec says 2"),
    ],
)
def test_views_that_are_left_out_are_found(cache, left_out, message):
    rewrite_views(cache, keep=lambda row: any(row[name] != value for name, value in left_out.items()))
    assert messages_of(cache) == [message]


def test_a_mosaic_across_blocks_is_found():
    pictures = ShardPictures(np.arange(128), np.full((128, 2), 32), np.zeros(128, np.int64), classes=1)
    tiles = np.array(
        [(sample, (0, 0, 32, 32), (32 * (n % 2), 32 * (n // 2), 32 * (n % 2) + 32, 32 * (n // 2) + 32), 0)
         for n, sample in enumerate((60, 61, 62, 64))],
        TILE_DTYPE,
    )  # fmt: skip
    regions = np.array([((0, 0, 32, 32), 0, 0, -1, 0)], REGION_DTYPE)
    empty = TopKSoftLabels(np.zeros((1, 1), np.int32), np.zeros((1, 1), np.float16), np.zeros(1, np.float32))
    labelled = LabelledView(View("mosaic", 0, (64, 64), tiles, regions), empty, None)
    assert list(geometry_problems(ViewBatch.of([("x", labelled)]), pictures)) == [
        "x: its tiles come from several blocks of 64"
    ]


def other_embedding_of(region):
    """Spoil the embedding of one region, counted over the shard."""
    seen = [0]

    def change(labelled):
        first, seen[0] = seen[0], seen[0] + len(labelled.embeddings)
        if first <= region < seen[0]:
            labelled.embeddings[region - first] = np.roll(labelled.embeddings[region - first], 1)
        return labelled

    return change


def test_labels_are_computed_again_for_a_sample_and_all_of_them_where_asked(pictures_root, tmp_path):
    cache = SyntheticCache(pictures_root, tmp_path / "out", crops=2, mosaics=4).make()
    regions = 16 * 2 + 4 * 4 * 4
    sampled = set(sampled_regions(regions, seed=0, shard=1).tolist())
    assert len(sampled) == SAMPLED_REGIONS < regions
    spared = min(set(range(regions)) - sampled)
    rewrite_views(cache, other_embedding_of(spared), shard=1)
    assert problems_of(cache) == ()
    assert paths_of(problems_of(cache, thorough=True)) == {f"labels/{LABELS}/folder-000001.tar"}
    rewrite_views(cache, other_embedding_of(max(sampled)), shard=1)
    assert paths_of(problems_of(cache)) == {f"labels/{LABELS}/folder-000001.tar"}


def test_an_index_that_promises_more_rows_than_its_tar_can_hold_is_not_read(cache):
    rows = [("k", n, "crop", 0, 1, 1, 0, 0) for n in range(1_000_000)]
    shard = labels_of(cache)
    shard.index.write_bytes(index_bytes(np.array(rows, VIEW_ROW)))
    reseal(shard, views=len(rows))
    assert any("too many for its tar" in message for message in messages_of(cache))


def test_a_receipt_that_disagrees_with_the_manifest_is_found(cache):
    shard = labels_of(cache)
    receipt = shard.read_receipt()
    receipt.model_copy(update={"summary": receipt.summary.model_copy(update={"regions": 1})}).write(shard.receipt)
    assert "it and the manifest disagree about regions" in messages_of(cache)
