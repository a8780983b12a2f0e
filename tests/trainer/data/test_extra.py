import hashlib
import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from richsem_schemas.cache.layout import CacheLayout
from richsem_schemas.cache.manifest import CacheManifest, LabelManifest, ShardSummary
from richsem_schemas.cache.render import render_view
from richsem_schemas.cache.shard import LabelShard, PictureShard
from richsem_schemas.cache.soft_labels import class_log_probs
from richsem_schemas.errors import CorruptCacheError, ManifestMismatchError, RichSemError
from richsem_schemas.io.files import FileHash
from richsem_train.data.damage import DamagedViewError
from richsem_train.data.extra import ExtraMix, sharing_notes
from tests.caches import SyntheticCache
from tests.damage import cut, flip
from tests.trainer.data.datasets import (
    assert_same_samples,
    corners_px,
    extra_of,
    one_round,
    opened,
    pixels_of,
    stored_views,
)


def assert_pixels_are_those_of(shown, dataset):
    assert all(torch.equal(one.pixels, other.pixels) for one, other in zip(shown, one_round(dataset), strict=True))


VIEWS = ("mosaics", "crops", "free-mosaics")


@pytest.mark.parametrize(("views", "kind"), [("mosaics", "mosaic"), ("crops", "crop")])
@pytest.mark.parametrize("block_bytes", [2**24, 1])
def test_a_round_replays_every_view_of_a_pass_as_the_teacher_saw_it(finished_cache, views, kind, block_bytes):
    dataset = extra_of(finished_cache, views=views, labels="topk", block_bytes=block_bytes)
    expected = stored_views(finished_cache, kind, 0)
    shown = one_round(dataset)
    assert sorted(item.name for item in shown) == sorted(expected)
    for sample in shown:
        labelled, pictures = expected[sample.name]
        target = sample.target
        assert not sample.damage
        np.testing.assert_array_equal(pixels_of(sample), render_view(labelled.view, pictures))
        assert sample.pixels.dtype == torch.uint8
        assert target.image_id < 0
        assert target.image_hw == target.original_hw == labelled.view.canvas_hw
        assert target.labels.tolist() in (labelled.view.regions["category_id"].tolist(), [0] * len(target.labels))
        np.testing.assert_allclose(corners_px(target), labelled.view.regions["box_xyxy_px"], atol=1e-4)
        np.testing.assert_array_equal(target.soft_labels.class_ids, labelled.labels.class_ids)
        np.testing.assert_array_equal(target.soft_labels.log_probs, labelled.labels.log_probs.astype(np.float32))
        np.testing.assert_array_equal(target.soft_labels.log_rest, labelled.labels.log_rest)


def test_rounds_go_through_the_passes(finished_cache):
    dataset = extra_of(finished_cache, views="mosaics", labels="topk")
    rounds = [{item.name for item in one_round(dataset, round_)} for round_ in range(3)]
    assert rounds[0] == rounds[2] == set(stored_views(finished_cache, "mosaic", 0))
    assert rounds[1] == set(stored_views(finished_cache, "mosaic", 1))


@pytest.mark.parametrize("views", VIEWS)
def test_a_sample_depends_on_seed_and_counter_only(finished_cache, views):
    whole = one_round(extra_of(finished_cache, views=views))
    fresh = extra_of(finished_cache, views=views)
    backwards = [fresh[n] for n in reversed(range(len(whole)))][::-1]
    assert_same_samples(whole, backwards)
    other = one_round(extra_of(finished_cache, views=views, seed=1))
    assert [item.name for item in whole] != [item.name for item in other]


def test_free_mosaics_show_each_crop_of_a_round(finished_cache):
    dataset = extra_of(finished_cache, views="free-mosaics")
    shown = [name for item in one_round(dataset) for name in item.name.split("+")]
    assert set(shown) == set(stored_views(finished_cache, "crop", 0))
    sample = dataset[0]
    target = sample.target
    assert sample.pixels.shape == (3, 64, 64)
    assert target.boxes_cxcywh_norm.shape == (4, 4)
    assert target.soft_labels.embeddings.shape == (4, 16)


@pytest.mark.parametrize("block_bytes", [2**24, 1])
def test_tiles_of_free_mosaics_have_labels_of_all_passes_of_their_picture(pictures_root, tmp_path, block_bytes):
    cache = SyntheticCache(pictures_root, tmp_path / "out", crops=3, mosaics=0).make()
    dataset = extra_of(cache, views="free-mosaics", labels="topk", block_bytes=block_bytes)
    passes = [stored_views(cache, "crop", number) for number in range(3)]
    taken = Counter()
    for round_ in range(2):
        for item in one_round(dataset, round_):
            soft_labels = item.target.soft_labels
            assert soft_labels.is_known is None
            for tile, name in enumerate(item.name.split("+")):
                key = name.partition(".")[0]
                labels = [passes[number][f"{key}.crop-{number}.npy"][0].labels for number in range(3)]
                found = [
                    number
                    for number, kept in enumerate(labels)
                    if kept.log_rest[0] == soft_labels.log_rest[tile]
                    and kept.class_ids[0].tolist() == soft_labels.class_ids[tile].tolist()
                ]
                assert found
                taken.update(found)
    assert min(taken[number] for number in range(3)) > 4


def test_embeddings_give_the_stored_distribution(finished_cache):
    exact, top = (extra_of(finished_cache, labels=labels) for labels in ("embedding", "topk"))
    bank = exact.cache.text
    for n in range(5):
        embeddings, kept = exact[n].target.soft_labels.embeddings, top[n].target.soft_labels
        log_probs = class_log_probs(embeddings.numpy(), bank.features, logit_scale=bank.logit_scale)
        again = np.take_along_axis(log_probs, kept.class_ids.numpy(), axis=1)
        # Stored logarithms were rounded to float16, and each may carry its neighbour's rounding error.
        steps = np.spacing(np.abs(again).astype(np.float16)).astype(np.float64)
        assert (np.abs(again - kept.log_probs.numpy()) <= 2 * steps).all()


@pytest.mark.parametrize("supervision", ["unlabelled", "pseudo"])
def test_without_supervision_no_label_is_given(finished_cache, supervision):
    for item in one_round(extra_of(finished_cache, supervision=supervision, views="crops")):
        assert item.target.labels.tolist() == [0]
        assert item.target.supervision == supervision
        assert item.target.soft_labels is not None


def test_whole_images_have_labels_and_no_boxes(finished_cache):
    dataset = extra_of(finished_cache, supervision="image", views="crops", labels="hard")
    stored = stored_views(finished_cache, "crop", 0)
    shown = one_round(dataset)
    assert {len(item.target.image_labels) for item in shown} == {0, 1}
    assert_pixels_are_those_of(shown, extra_of(finished_cache, views="crops"))
    for item in shown:
        target, (category_id,) = item.target, stored[item.name][0].view.regions["category_id"]
        assert target.image_labels.dtype == torch.int64
        assert target.image_labels.tolist() == ([category_id] if category_id else [])
        assert (target.boxes_cxcywh_norm.shape, len(target.labels)) == ((0, 4), 0)
        assert (target.supervision, target.soft_labels, target.is_hard) == ("image", None, False)


def test_only_whole_images_have_labels_as_such(finished_cache):
    assert all(item.target.image_labels is None for item in one_round(extra_of(finished_cache, views="crops")))


def test_whole_images_of_a_cache_without_embeddings(pictures_root, tmp_path):
    cache = SyntheticCache(pictures_root, tmp_path / "out", embeddings="none", mosaics=0).make()
    shown = one_round(extra_of(cache, supervision="image", views="crops", labels="hard"))
    assert sum(len(item.target.image_labels) for item in shown) > 20


def test_a_whole_image_of_several_boxes_has_each_of_their_classes_once(windows):
    dataset = extra_of(windows, supervision="image", views="windows", labels="hard")
    shown, stored = one_round(dataset), stored_views(windows, "window", 0)
    for item in shown:
        boxes = stored[item.name][0].view.regions["category_id"].tolist()
        assert item.target.image_labels.tolist() == sorted(set(boxes))
    assert max(len(item.target.image_labels) for item in shown) > 1


def test_labels_of_a_whole_image_that_the_text_has_not_are_left_out(windows):
    text = opened(windows, views="windows").text
    few = replace(text, class_names=text.class_names[:3], features=text.features[:3])
    dataset = extra_of(windows, supervision="image", views="windows", labels="hard", text=few, is_other_text=True)
    assert dataset.cache.classes_without_row == text.class_names[3:]
    assert {tuple(item.target.image_labels.tolist()) for item in one_round(dataset)} == {(), (1,), (2,), (1, 2)}


def test_whole_images_none_of_whose_classes_is_known_are_refused(finished_cache):
    bank = opened(finished_cache).text
    other = replace(bank, class_names=("none", *(f"x{name}" for name in bank.class_names[1:])))
    expected = {"views": "crops", "labels": "hard", "text": other}
    with pytest.raises(ManifestMismatchError, match=r"none of them is in the text.*extra\.supervision=unlabelled"):
        opened(finished_cache, supervision="image", is_other_text=True, **expected)
    with pytest.raises(ManifestMismatchError, match=r"plan\.vocabulary\.class_names has 7 names there"):
        opened(finished_cache, supervision="image", **expected)


@pytest.mark.parametrize("labels", ["embedding", "hard"])
def test_a_view_with_an_unlabelled_region_teaches_no_labels(finished_cache, labels):
    targets = [item.target for item in one_round(extra_of(finished_cache, labels=labels))]
    stored = [stored_views(finished_cache, "mosaic", 0)[name][0].view.regions["category_id"]
              for name in (item.name for item in one_round(extra_of(finished_cache)))]  # fmt: skip
    assert {target.supervision for target in targets} == {"labelled", "unlabelled"}
    for target, category_ids in zip(targets, stored, strict=True):
        assert (target.supervision == "labelled") == bool((category_ids > 0).all())
        assert target.is_hard == (labels == "hard" and target.supervision == "labelled")
        assert (target.labels > 0).all() == (target.supervision == "labelled")
        assert (target.soft_labels is None) == (labels == "hard")


def test_int8_embeddings_have_unit_norm_again(pictures_root, tmp_path):
    cache = SyntheticCache(pictures_root, tmp_path / "out", embeddings="int8").make()
    embeddings = extra_of(cache)[0].target.soft_labels.embeddings
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(len(embeddings)))


def test_hard_labels_without_supervision_are_refused(finished_cache):
    with pytest.raises(RichSemError, match=r"extra\.labels=hard learns the labels"):
        opened(finished_cache, labels="hard", supervision="unlabelled")


def test_a_cache_that_does_not_fit_is_refused_by_all_fields_that_differ(finished_cache):
    with pytest.raises(
        ManifestMismatchError, match=r"teacher\.name is 'hash' there, 'RN50' here; teacher\.weights_sha256"
    ):
        opened(finished_cache, teacher="RN50", teacher_weights="f" * 64)
    bank = opened(finished_cache).text
    opened(finished_cache, text=bank)
    other = replace(bank, features=bank.features + 1, logit_scale=3.0, templates=("{}",))
    with pytest.raises(ManifestMismatchError, match=r"text\.templates.*text\.logit_scale.*text\.features"):
        opened(finished_cache, text=other)
    fewer = replace(bank, class_names=("none", "a cat", "a gnu"))
    with pytest.raises(ManifestMismatchError, match="has 7 names there, 3 here, first differing in row 2: 'b dog', "):
        opened(finished_cache, text=fewer)


def test_views_and_embeddings_that_are_not_stored_are_refused(pictures_root, tmp_path):
    cache = SyntheticCache(pictures_root, tmp_path / "out", embeddings="none", mosaics=0).make()
    with pytest.raises(ManifestMismatchError, match=r"embeddings is 'none' there.*views.mosaics is 0 there"):
        opened(cache)
    assert len(one_round(extra_of(cache, views="crops", labels="topk"))) == 40


def test_a_cache_that_refers_to_its_pictures_needs_their_folder(pictures_root, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(pictures_root, root)
    copied = SyntheticCache(root, tmp_path / "copied").make()
    cache = SyntheticCache(root, tmp_path / "out", pictures="reference").make()
    assert_same_samples(one_round(extra_of(copied)), one_round(extra_of(cache)))
    moved = root.rename(tmp_path / "moved")
    with pytest.raises(RichSemError, match=r"extra\.root"):
        opened(cache)
    assert len(one_round(extra_of(cache, root=moved))) > 0


def test_an_unfinished_cache_is_refused(cache):
    cache.layout.manifest.unlink()
    with pytest.raises(RichSemError, match="not finished"):
        opened(cache)


def test_manifests_that_contradict_each_other_are_refused(cache):
    path = cache.label_set.manifest
    manifest = LabelManifest.read(path)
    manifest.model_copy(update={"shards": manifest.shards[:-1]}).write(path)
    with pytest.raises(CorruptCacheError, match="the shards of labels"):
        opened(cache)
    first = manifest.shards[0].model_copy(update={"views": manifest.shards[0].views + 1})
    manifest.model_copy(update={"shards": (first, *manifest.shards[1:])}).write(path)
    with pytest.raises(CorruptCacheError, match=r"shard 0 has .* views"):
        opened(cache)


def flip_bytes_of_pictures(path):
    data = bytearray(path.read_bytes())
    for row in PictureShard(CacheLayout(path.parents[1], "folder"), 1).rows():
        data[row["offset"] + row["size"] // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "truncated labels": (lambda layout, labels: labels.tar(1), partial(cut, count=2000)),
    "changed labels": (lambda layout, labels: labels.tar(1), partial(flip, position=1100)),
    "missing labels": (lambda layout, labels: labels.tar(1), Path.unlink),
    "truncated pictures": (lambda layout, labels: layout.pictures_tar(1), partial(cut, count=2000)),
    "changed pictures": (lambda layout, labels: layout.pictures_tar(1), flip_bytes_of_pictures),
    "missing pictures": (lambda layout, labels: layout.pictures_tar(1), Path.unlink),
    "changed index of labels": (lambda layout, labels: labels.index(1), partial(flip, position=1100)),
    "missing index of pictures": (lambda layout, labels: layout.pictures_index(1), Path.unlink),
}


@pytest.fixture(params=DAMAGES)
def damaged(cache, request):
    file, damage = DAMAGES[request.param]
    damage(file(cache.layout, cache.label_set))
    return cache


def test_damage_stops_the_run_and_names_shard_and_remedy(damaged):
    dataset = extra_of(damaged)
    with pytest.raises(
        DamagedViewError, match=r"shard folder-000001 of .* is damaged: .*richsem-prep verify"
    ) as caught:
        one_round(dataset)
    assert isinstance(caught.value, CorruptCacheError)


def test_damage_is_skipped_by_the_same_other_views_and_counted(damaged, finished_cache):
    whole = one_round(extra_of(finished_cache))
    shown = one_round(extra_of(damaged, on_damage="skip"))
    assert len(shown) == len(whole)
    for item, undamaged in zip(shown, whole, strict=True):
        if undamaged.name.startswith("000001-"):
            assert len(item.damage) == 1
            assert "shard folder-000001" in item.damage[0]
            assert not item.name.startswith("000001-")
        else:
            assert not item.damage
            assert item.name == undamaged.name
    assert_same_samples(shown, one_round(extra_of(damaged, on_damage="skip")))


def test_a_shard_cut_short_after_it_was_opened_is_found(cache):
    dataset = extra_of(cache, lanes=1, block_bytes=1)
    names = [dataset[0].name]
    tar = cache.layout.pictures_tar(int(names[0][:6]))
    tar.write_bytes(tar.read_bytes()[:600])
    with pytest.raises(DamagedViewError, match=f"shard {tar.stem} "):
        one_round(dataset)


def test_a_cache_without_anything_readable_ends_even_when_skipping(cache):
    for shard in range(3):
        cache.layout.pictures_tar(shard).unlink()
    with pytest.raises(DamagedViewError, match="tried in its place are missing, damaged or left out"):
        extra_of(cache, on_damage="skip")[0]


def test_a_block_is_read_once_a_round(finished_cache):
    dataset = extra_of(finished_cache)
    one_round(dataset)
    assert dataset.reader.blocks_read == dataset.cache.blocks == 3


def test_a_value_that_makes_no_sense_is_damage_even_under_a_right_hash(cache):
    """A forged cache: hashes fit, a soft label names a class that there isn't."""
    labels = LabelShard(cache.label_set, 0)
    rows = labels.rows()[:1]
    data = bytearray(labels.tar.read_bytes())
    (labelled,) = labels.views(rows)
    ids = labelled.labels.class_ids[0].tobytes()
    at = data.index(ids, int(rows["offset"][0]))
    data[at : at + len(ids)] = np.full(5, 10**6, "<i4").tobytes()
    labels.tar.write_bytes(data)
    manifest = LabelManifest.read(cache.label_set.manifest)
    forged = FileHash(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    first = manifest.shards[0].model_copy(update={"tar": forged})
    manifest.model_copy(update={"shards": (first, *manifest.shards[1:])}).write(cache.label_set.manifest)
    views = "crops" if rows["kind"][0] == "crop" else "mosaics"
    with pytest.raises(DamagedViewError, match="class ids outside of"):
        one_round(extra_of(cache, views=views))


def test_few_blocks_for_many_readers_are_told(finished_cache):
    dataset = extra_of(finished_cache, lanes=4)
    assert sharing_notes(dataset, world_size=1, pictures_a_draw=2, workers=2) == ()
    (note,) = sharing_notes(dataset, world_size=2, pictures_a_draw=2, workers=2)
    assert "3 blocks for 2 ranks x 2 workers" in note
    assert len(sharing_notes(dataset, world_size=3, pictures_a_draw=1, workers=0)) == 1
    (note,) = sharing_notes(dataset, world_size=2, pictures_a_draw=4, workers=1)
    assert "4 lanes are no multiple of 2 ranks x 4 pictures a draw" in note


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_fourteen_thousand_shards_open_within_seconds_and_little_memory(finished_cache, tmp_path):
    """14 million pictures: synthetic manifests, no shard behind them."""
    out = many_shards(finished_cache, tmp_path / "out", shards=14_000)
    code = (
        "import json, re, sys, time\n"
        "from pathlib import Path\n"
        "from richsem_train.data.cache.source import ExpectedCache, open_training_cache\n"
        "from richsem_train.data.extra import ExtraDataset\n"
        # Not getrusage, whose peak a child process inherits.
        "def peak(): return int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) / 1024\n"
        "before, begun = peak(), time.perf_counter()\n"
        "dataset = ExtraDataset(open_training_cache(Path(sys.argv[1]), expected=ExpectedCache()), seed=0)\n"
        "addresses = [dataset.order.addresses(n) for n in range(0, 10**6, 10**4)]\n"
        "print(json.dumps([time.perf_counter() - begun, peak() - before, dataset.order.samples_per_round]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(out)], capture_output=True, text=True, check=True)
    seconds, mebibytes, samples = json.loads(done.stdout)
    assert samples == 14_000 * 256
    assert seconds < 10
    assert mebibytes > 1, "nothing was measured"
    assert mebibytes < 200


def many_shards(small, out, *, shards):
    """The manifests of a cache of full shards, with the text bank of a small one."""
    layout = CacheLayout(out, "folder")
    shutil.copytree(small.label_set.folder / "text", layout.label_set(small.labels).folder / "text")
    cache, labels = CacheManifest.read(small.layout.manifest), LabelManifest.read(small.label_set.manifest)
    plan = cache.plan.model_copy(
        update={"listed": shards * 1024, "samples": shards * 1024, "samples_per_shard": 1024,
                "listing": FileHash(bytes=shards * 1024 * 28, sha256="0" * 64)}
    )  # fmt: skip
    spec = labels.spec.model_copy(update={"plan_fingerprint": plan.fingerprint})
    plan.write(layout.plan)
    spec.write(layout.label_set(small.labels).spec)

    def summaries(views):
        return tuple(
            ShardSummary(
                shard=shard, samples=1024, views=views, regions=views,
                tar=FileHash(bytes=10**8, sha256=hashlib.sha256(b"%d" % shard).hexdigest()),
                index=FileHash(bytes=10**5, sha256=hashlib.sha256(b"-%d" % shard).hexdigest()),
            )
            for shard in range(shards)
        )  # fmt: skip

    cache.model_copy(update={"plan": plan, "fingerprint": plan.fingerprint, "shards": summaries(0)}).write(
        layout.manifest
    )
    labels.model_copy(
        update={"spec": spec, "fingerprint": spec.fingerprint, "shards": summaries(1024 + 2 * 256)}
    ).write(layout.label_set(small.labels).manifest)
    return out


def test_the_largest_sides_of_crops_are_known_before_they_are_decoded(finished_cache):
    dataset = extra_of(finished_cache, views="crops", labels="topk")
    mix = ExtraMix([extra_of(finished_cache, views="mosaics"), dataset], [1, 1])
    for counters in (range(7), range(3, 5)):
        sizes = [dataset[counter].pixels.shape[1:] for counter in counters]
        expected = tuple(max(sides) for sides in zip(*sizes, strict=True))
        assert dataset.largest_hw(list(counters)) == expected
        assert mix.largest_hw([(1, counter) for counter in counters]) == expected


def test_the_largest_sides_of_damaged_crops_are_not_known(cache):
    cache.layout.pictures_index(1).unlink()
    dataset = extra_of(cache, views="crops", labels="topk", on_damage="skip")
    assert dataset.largest_hw(list(range(dataset.order.samples_per_round))) is None


@pytest.mark.parametrize("views", ["mosaics", "free-mosaics"])
def test_mosaics_are_all_of_one_size(finished_cache, views):
    dataset = extra_of(finished_cache, views=views)
    assert len({sample.pixels.shape for sample in one_round(dataset)}) == 1
    assert dataset.largest_hw([0, 1]) is None
