"""The steps of a shard's task, each by itself."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from richsem_prep.shard.loaded_pictures import BadPicture, LoadedPicture, PictureKeeper, load_cached, load_originals
from richsem_prep.shard.plan import planned_entries
from richsem_prep.shard.progress import Progress
from richsem_prep.shard.stage_clock import StageClock
from richsem_prep.shard.task import LabelTask, ShardInputs
from richsem_prep.teacher import region_encoder
from richsem_prep.teacher.region_encoder import make_region_encoder
from richsem_prep.teacher.teacher import load_teacher, parse_teacher
from richsem_schemas.cache.codec import pack_view, stored_embeddings
from richsem_schemas.cache.manifest import Environment, LabelSpec, Plan
from richsem_schemas.cache.shard import LabelShard, PictureShard
from richsem_schemas.cache.shard_writer import ShardWriter
from richsem_schemas.cache.soft_labels import class_log_probs, top_k_soft_labels
from richsem_schemas.cache.text_bank import read_text_bank
from richsem_schemas.errors import EmbeddingError
from richsem_schemas.pictures.resize import PackedPicture
from tests.caches import LABELS, HashingEncoder
from tests.pipeline.teachers import RESNET, save_random_clip

ENVIRONMENT = Environment(device="none", torch_threads=1, versions={})


@pytest.fixture
def pool():
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
def inputs(cache):
    plan, spec = Plan.read(cache.layout.plan), LabelSpec.read(cache.label_set.spec)
    return ShardInputs(cache.layout, LABELS, plan, spec, read_text_bank(cache.label_set), cache.root, 2, ENVIRONMENT)


def task_of(inputs, pool, encoder):
    return LabelTask(LabelShard(inputs.layout.label_set(LABELS), 0), inputs, encoder, Progress(), StageClock(), pool)


def picture(sample):
    pixels = PackedPicture.of(Image.new("RGB", (30 + sample % 3, 24), (sample, 0, 0)))
    return LoadedPicture(sample, f"{sample}.png", 1, None, b"", "png", (24, 30 + sample % 3), pixels)


class LateEncoder(HashingEncoder):
    """Answers a hundred views late, as an encoder with large batches does: across blocks."""

    def encode(self, views):
        waiting = []
        for view in views:
            waiting.append(view)
            if len(waiting) > 100:
                yield from super().encode([waiting.pop(0)])
        yield from super().encode(waiting)


def test_views_are_drawn_block_by_block_and_show_pictures_of_their_block(inputs, pool):
    numbers = [n for n in range(150) if n % 10]
    blocks = list(task_of(inputs, pool, HashingEncoder()).blocks(map(picture, numbers)))
    assert [sorted(block.pictures) for block in blocks] == [
        [n for n in numbers if first <= n < first + 64] for first in (0, 64, 128)
    ]
    for block in blocks:
        assert {int(sample) for view in block.shown.views for sample in view.tiles["sample"]} == set(block.pictures)


def test_blocks_come_in_order_with_the_features_of_all_their_views_however_late_the_encoder_is(inputs, pool):
    numbers = range(150)
    task = task_of(inputs, pool, LateEncoder())
    found = list(task.encoded(task.blocks(map(picture, numbers))))
    at_once = task_of(inputs, pool, HashingEncoder())
    for (block, features), expected in zip(found, at_once.blocks(map(picture, numbers)), strict=True):
        assert sorted(block.names) == sorted(expected.pictures)
        prepared = [at_once.prepare((expected, view)) for view in expected.shown.views]
        for one, (_, other) in zip(features, HashingEncoder().encode(prepared), strict=True):
            assert one.tobytes() == other.tobytes()
    assert (task.progress.samples, task.progress.views) == (150, sum(len(block.views) for block, _ in found))


class SlowPreparation:
    """An encoder whose views are ready at odd moments."""

    def __init__(self, encoder):
        self.spec, self.encode, self.batches_of, self._prepare = (
            encoder.spec,
            encoder.encode,
            encoder.batches_of,
            encoder.prepare,
        )

    def prepare(self, pixels, boxes):
        time.sleep(0.002 * (pixels.shape[0] % 3))
        return self._prepare(pixels, boxes)


@pytest.mark.parametrize("kind", ["roi-align", "crop"])
def test_embeddings_have_the_same_bits_alone_after_another_shard_and_with_any_number_of_threads(
    inputs, tmp_path, monkeypatch, kind
):
    monkeypatch.setitem(region_encoder._CANVAS_GRID, "cpu", 64)
    teacher = load_teacher(parse_teacher(save_random_clip(tmp_path / "clip", RESNET)), device=torch.device("cpu"))

    def embedded(encoder, threads, numbers):
        with ThreadPoolExecutor(threads) as pool:
            task = task_of(inputs, pool, encoder)
            encoded = task.encoded(task.blocks(map(picture, numbers)))
            return [(block.names, [each.tobytes() for each in features]) for block, features in encoded]

    def fresh():
        encoder = make_region_encoder(teacher, kind=kind, teacher_size=64, precision="fp32")
        return SlowPreparation(encoder)

    shard = range(0, 150, 2)
    alone, used = embedded(fresh(), 1, shard), fresh()
    embedded(used, 2, range(1, 80, 3))
    assert embedded(used, 8, shard) == alone
    assert [len(names) for names, _ in alone] == [32, 32, 11]


@pytest.mark.parametrize("threads", [1, 8])
def test_labels_are_packed_as_they_were_view_by_view(inputs, threads):
    text, spec = inputs.text, inputs.spec
    with ThreadPoolExecutor(threads) as pool:
        task = task_of(inputs, pool, HashingEncoder())
        encoded = list(task.encoded(task.blocks(map(picture, range(150)))))
        packed = list(task.packed(encoded))
    for (block, features), (same_block, found) in zip(encoded, packed, strict=True):
        assert same_block is block
        stored = stored_embeddings(np.concatenate(features), spec.embeddings)
        log_probs = class_log_probs(stored, text.features, logit_scale=text.logit_scale)
        start = 0
        for view, features_RD, data in zip(block.views, features, found, strict=True):
            labels = top_k_soft_labels(log_probs[start : start + len(features_RD)], top_k=spec.top_k)
            assert pack_view(view, features_RD, labels, spec.record_layout) == data
            start += len(features_RD)


def test_an_embedding_that_is_no_number_names_view_and_pictures(inputs, pool):
    task = task_of(inputs, pool, HashingEncoder())
    (block,) = task.blocks([picture(3)])
    view = block.shown.views[0]
    with pytest.raises(EmbeddingError, match=rf"folder-000000: fp32 .* 000000-00003\.{view.member} \(3\.png\)"):
        task.require_finite(np.full((1, 4), np.nan, np.float32), view, block.shown)


def test_originals_are_loaded_in_the_order_of_the_plan_and_bad_ones_set_aside(cache, inputs, pool):
    kept, bad = [], []
    for number in range(inputs.plan.shards):
        entries = planned_entries(inputs.layout, inputs.plan, number)
        loaded = list(load_originals(entries, cache.root, None, StageClock(), pool))
        assert [item.name for item in loaded] == [entry.name for entry in entries]
        bad += [item for item in loaded if isinstance(item, BadPicture)]
        kept += [item for item in loaded if isinstance(item, LoadedPicture)]
    assert [(item.name.rpartition("/")[2], "damaged" in item.reason) for item in bad] == [("broken.jpg", True)]
    assert all(item.data == (cache.root / item.name).read_bytes() for item in kept)


def test_what_is_kept_is_what_the_cache_gives_back(cache, inputs, pool):
    shard, entries = PictureShard(cache.layout, 0), planned_entries(inputs.layout, inputs.plan, 0)
    before = shard.tar.read_bytes(), shard.index.read_bytes(), shard.read_receipt().summary
    keeper, clock = PictureKeeper(shard, inputs.plan, entries, Progress()), StageClock()
    with ShardWriter(shard) as writer:
        kept = list(keeper.keep(load_originals(entries, cache.root, None, clock, pool), writer, clock))
        summary = keeper.finish(writer, clock)
    assert (shard.tar.read_bytes(), shard.index.read_bytes(), summary) == before
    again = list(load_cached(shard, {}, None, clock, pool))
    facts = ("sample", "name", "category_id", "data", "extension", "hw")
    assert [[getattr(one, fact) for fact in facts] for one in again] == [
        [getattr(one, fact) for fact in facts] for one in kept
    ]


def test_the_seconds_of_a_stage_are_taken_off_the_one_that_asks_for_its_items():
    clock = StageClock()

    def slow():
        time.sleep(0.05)
        yield 1

    inner = clock.each("wait", slow(), not_in="encode")
    assert list(clock.each("encode", (item + 1 for item in inner))) == [2]
    assert clock.seconds["wait"] >= 0.05
    assert 0 <= clock.seconds["encode"] < 0.04
