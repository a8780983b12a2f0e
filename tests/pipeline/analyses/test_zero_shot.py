"""Classification at annotated boxes equals a computation box by box, in every form of labels."""

import numpy as np
import pytest

from richsem_prep.analyses.analysed_set import open_set
from richsem_prep.analyses.classified_boxes import classify_boxes
from richsem_prep.analyses.zero_shot import zero_shot
from richsem_prep.rescore.rescore import rescore
from richsem_schemas.cache.reader import open_cache
from richsem_schemas.cache.text_bank import TextBank
from richsem_schemas.cache.text_folder import TextFolder, write_text_folder
from richsem_schemas.errors import CorruptCacheError, RichSemError
from tests import caches
from tests.pipeline.analyses import direct
from tests.pipeline.analyses.split import FREQUENCIES, NAMES, PICTURES, cache_of, content

LETTERS = {"all": None, "rare": "r", "common": "c", "frequent": "f"}
VOCABULARY = ["none", *NAMES]


def analysed(cache, label_set=None, **options):
    return open_set(open_cache(cache.layout.out), label_set, **{"frequencies": FREQUENCIES, "top_k": (1, 3)} | options)


def judged(cache, label_set=None, *, threads=2, **options):
    chosen = analysed(cache, label_set, **options)
    return zero_shot(chosen, classify_boxes(chosen, threads=threads))


def clean_boxes(cache, **options):
    return [box for box in direct.seen_boxes(cache.layout.out, **options) if box.scale == 0]


def assert_equals_direct(found, boxes, text_names=VOCABULARY):
    for accuracy in found.accuracies:
        for group, letter in LETTERS.items():
            categories, over_boxes = direct.accuracies(
                boxes, accuracy.top_k, VOCABULARY, list(text_names), letter, FREQUENCIES
            )
            assert accuracy.over_categories[group] == (None if categories is None else pytest.approx(categories))
            assert accuracy.over_boxes[group] == (None if over_boxes is None else pytest.approx(over_boxes))


@pytest.mark.parametrize("form", ["embedding", "topk"])
def test_accuracies_equal_a_computation_box_by_box(wholes, form):
    found = judged(wholes, form=form)
    assert (found.labels, found.pictures, found.unjudged_boxes) == (form, PICTURES, 0)
    assert found.groups["all"].boxes == len(content()["annotations"]) == 40
    # One category has no box.
    assert found.groups["all"].categories == 4
    assert 0 < found.accuracies[0].over_boxes["all"] < found.accuracies[1].over_boxes["all"] < 1
    assert_equals_direct(found, clean_boxes(wholes, form=form))


def test_most_probable_classes_and_their_probabilities_are_those_of_scipy(wholes):
    chosen = analysed(wholes)
    boxes = classify_boxes(chosen, threads=1)
    per_shard = chosen.cache.manifest.plan.samples_per_shard
    expected = {(s * per_shard + n, a): box for box in clean_boxes(wholes) for s, n, a in [box.place]}
    assert boxes.pictures.tolist() == list(range(PICTURES))
    for number, place in enumerate(zip(boxes.picture.tolist(), boxes.annotation.tolist(), strict=True)):
        box = expected.pop(place)
        assert boxes.categories[number] == box.row
        assert boxes.class_ids[number].tolist() == direct.top_classes(box, 3)
        np.testing.assert_allclose(boxes.log_probs[number], box.log_probs[boxes.class_ids[number]], rtol=1e-6)
    assert not expected


def test_one_thread_and_small_batches_give_the_same(wholes, monkeypatch):
    expected = judged(wholes)
    monkeypatch.setattr("richsem_prep.analyses.box_batches.BOXES_AT_ONCE", 3)
    assert judged(wholes, threads=1) == expected


def test_another_label_set_is_judged_by_its_own_text_and_temperature(split, tmp_path):
    cache = cache_of(split, tmp_path / "out")
    out = cache.layout.out
    # The dog has no text, and there is another order.
    names = ("none", "cat", "zebra", "bee", "ant")
    features = np.random.default_rng(7).standard_normal((5, caches.DIM)).astype(np.float32)
    bank = TextBank(names, names, ("{}",), caches.LOGIT_SCALE, features)
    teacher = open_cache(out).label_set(None).spec.teacher
    write_text_folder(tmp_path / "text", TextFolder(bank, teacher, "other", "raw"))
    rescore(out, label_set="other", text=tmp_path / "text", temperature=3.0, top_k=4)
    found = judged(cache, "other")
    dogs = sum(each["category_id"] == 4 for each in content()["annotations"])
    assert (found.label_set, found.labels, found.unjudged_boxes) == ("other", "topk", dogs)
    assert dogs > 0
    boxes = clean_boxes(cache, label_set="other", form="topk")
    assert_equals_direct(found, boxes, names)


def test_a_teacher_that_knows_every_box_is_always_right(split, tmp_path):
    """Text of one direction a class, and embeddings in that of the box's own, then of the next class."""

    def embed(region):
        return np.eye(caches.DIM)[region["category_id"]] + 0.5 * np.eye(caches.DIM)[region["category_id"] % 5 + 1]

    text = np.eye(len(VOCABULARY), caches.DIM, dtype=np.float32)
    cache = cache_of(split, tmp_path / "out", encoder=caches.TableEncoder(embed), text=text)
    found = judged(cache)
    known = {"all": 1.0, "rare": 1.0, "common": 1.0, "frequent": 1.0}
    assert [each.over_categories for each in found.accuracies] == [known, known]
    boxes = classify_boxes(analysed(cache))
    assert (boxes.class_ids[:, 0] == boxes.categories).all()
    assert (boxes.class_ids[:, 1] == boxes.categories % 5 + 1).all()


def test_ties_go_to_the_lower_row(split, tmp_path):
    text = np.ones((len(VOCABULARY), caches.DIM), np.float32)
    cache = cache_of(split, tmp_path / "out", encoder=caches.TableEncoder(lambda _: np.ones(caches.DIM)), text=text)
    boxes = classify_boxes(analysed(cache))
    assert (boxes.class_ids == [0, 1, 2]).all()
    np.testing.assert_allclose(np.exp(boxes.log_probs), 1 / 6, rtol=1e-6)


def test_frequencies_nobody_says_have_no_figures(wholes):
    found = judged(wholes, frequencies=None)
    assert not found.has_frequencies
    assert found.groups["rare"].boxes == 0
    assert found.accuracies[0].over_categories["rare"] is None
    assert found.accuracies[0].over_categories["all"] is not None


def test_what_cannot_be_judged_is_refused_with_the_remedy(finished_cache, split, wholes, tmp_path):
    with pytest.raises(
        RichSemError, match=r"crops and mosaics of pictures without annotated boxes.*--whole --windows 0"
    ):
        analysed(finished_cache)
    windows = cache_of(split, tmp_path / "windows", windows=1, whole=False)
    with pytest.raises(RichSemError, match=r"has no wholes.*--whole --windows 0"):
        analysed(windows)
    with pytest.raises(RichSemError, match=r"--top-k 7: label set hashed has 6 classes"):
        analysed(wholes, top_k=(1, 7))
    with pytest.raises(RichSemError, match=r"--top-k 6: .*keeps the 5 most probable.*take --labels embedding"):
        analysed(wholes, top_k=(6,), form="topk")
    bare = cache_of(split, tmp_path / "bare", embeddings="none")
    with pytest.raises(RichSemError, match=r"--top-k 6: .*ask for at most 5, or store more: `richsem-prep rescore"):
        analysed(bare, top_k=(6,))
    with pytest.raises(RichSemError, match=r"--labels embedding: .*stores no embeddings.*--labels topk"):
        analysed(bare, form="embedding")
    assert judged(bare).accuracies == judged(wholes, form="topk").accuracies


def test_boxes_without_classes_are_refused(split, tmp_path):
    cache = cache_of(split, tmp_path / "out")
    data = cache.data
    data.category_ids[:] = 0
    unlabelled = caches.WindowsCache(
        data, tmp_path / "unlabelled", windows=0, whole=True, geometry=cache._views.geometry
    ).make()
    with pytest.raises(RichSemError, match="no box of it has a class that its text knows"):
        judged(unlabelled)


def test_a_damaged_shard_is_refused_by_its_file(split, tmp_path):
    cache = cache_of(split, tmp_path / "out")
    path = cache.label_set.tar(1)
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptCacheError, match=r"lvis-000001\.tar: its bytes don't match.*anew"):
        judged(cache)
    path.unlink()
    with pytest.raises(CorruptCacheError, match=r"lvis-000001\.tar is missing"):
        judged(cache)


def test_embeddings_that_are_not_finite_are_refused(split, tmp_path, monkeypatch):
    monkeypatch.setattr("richsem_prep.shard.task.LabelTask.require_finite", lambda *_: None)
    broken = caches.TableEncoder(lambda _: np.full(caches.DIM, np.nan))
    cache = cache_of(split, tmp_path / "out", encoder=broken)
    with pytest.raises(CorruptCacheError, match=r"lvis-000000\.tar: embeddings are not finite; delete"):
        judged(cache)
