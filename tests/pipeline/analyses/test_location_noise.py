"""Labels of noised boxes beside those of clean ones equal a computation box by box."""

import numpy as np
import pytest
from scipy.special import log_softmax
from scipy.stats import entropy

from richsem_prep.analyses.analysed_set import open_set
from richsem_prep.analyses.location_noise import location_noise
from richsem_schemas.cache.reader import open_cache
from richsem_schemas.errors import CorruptCacheError, RichSemError
from tests import caches
from tests.pipeline.analyses import direct
from tests.pipeline.analyses.split import FREQUENCIES, NAMES, cache_of

VOCABULARY = ["none", *NAMES]
LETTERS = {"all": None, "rare": "r", "common": "c", "frequent": "f"}


def judged(cache, *, threads=2, **options):
    given = {"frequencies": FREQUENCIES, "top_k": (1, 3)} | options
    return location_noise(open_set(open_cache(cache.layout.out), None, **given), threads=threads)


@pytest.mark.parametrize("form", ["embedding", "topk"])
def test_each_scale_equals_a_computation_box_by_box(wholes, form):
    found = judged(wholes, form=form)
    assert (found.labels, found.copies) == (form, 2)
    assert [each.noise_scale for each in found.scales] == [0, 0.1, 0.3, 1]
    boxes = list(direct.seen_boxes(wholes.layout.out, form=form))
    clean = {box.place: box for box in boxes if box.scale == 0}
    for at in found.scales:
        here = [box for box in boxes if box.scale == at.noise_scale]
        assert at.groups["all"].boxes == len(here) == (80 if at.noise_scale else 40)
        for accuracy in at.accuracies:
            for group, letter in LETTERS.items():
                expected = direct.accuracies(here, accuracy.top_k, VOCABULARY, VOCABULARY, letter, FREQUENCIES)
                assert (accuracy.over_categories[group], accuracy.over_boxes[group]) == pytest.approx(expected)
        kl = [direct.divergence(clean[box.place], box) for box in here]
        assert (at.kl.mean, at.kl.median) == pytest.approx((np.mean(kl), np.median(kl)), rel=1e-5, abs=1e-7)
        cosines = [cosine(clean[box.place].embedding, box.embedding) for box in here]
        assert (at.cosine.mean, at.cosine.median) == pytest.approx((np.mean(cosines), np.median(cosines)), rel=1e-5)
    assert found.scales[0].kl.mean == 0.0
    assert found.scales[0].cosine.mean == 1.0
    assert min(at.kl.mean for at in found.scales[1:]) > 0


def cosine(one, other):
    return one @ other / np.linalg.norm(one) / np.linalg.norm(other)


def test_one_thread_and_small_batches_give_the_same(wholes, monkeypatch):
    expected = judged(wholes)
    monkeypatch.setattr("richsem_prep.analyses.box_batches.BOXES_AT_ONCE", 3)
    assert judged(wholes, threads=1) == expected


def test_what_noise_does_is_found_again(split, tmp_path):
    """Embeddings turn from a box's own class to the next one as noise grows: at 1 by 60 degrees."""

    def embed(region):
        own, angle = region["category_id"], np.radians(60 * region["noise_scale"])
        return np.cos(angle) * np.eye(caches.DIM)[own] + np.sin(angle) * np.eye(caches.DIM)[own % 5 + 1]

    text = np.eye(len(VOCABULARY), caches.DIM, dtype=np.float32)
    encoder = caches.TableEncoder(embed)
    cache = cache_of(split, tmp_path / "out", encoder=encoder, text=text, jitters=1, noise=(1.0, 0.5))
    found = judged(cache)
    assert [at.accuracies[0].over_categories["all"] for at in found.scales] == [1, 1, 0]
    assert [at.accuracies[1].over_categories["all"] for at in found.scales] == [1, 1, 1]
    for at, angle in zip(found.scales, np.radians([0, 30, 60]), strict=True):
        logits = [caches.LOGIT_SCALE * np.array([np.cos(a), np.sin(a), 0, 0, 0, 0]) for a in (0, angle)]
        clean, noised = (np.exp(log_softmax(each)) for each in logits)
        # What float16 rounds is all that differs.
        assert at.kl.mean == pytest.approx(entropy(clean, noised), rel=5e-3, abs=1e-6)
        assert at.cosine.median == pytest.approx(np.cos(angle), abs=5e-4)


def test_without_embeddings_there_is_no_cosine(split, tmp_path):
    cache = cache_of(split, tmp_path / "out", embeddings="none", jitters=2)
    found = judged(cache)
    assert found.labels == "topk"
    assert [at.cosine for at in found.scales] == [None, None]
    assert found.scales[1].kl.mean > 0


def test_a_set_without_noised_boxes_is_refused_with_the_remedy(split, tmp_path):
    with pytest.raises(RichSemError, match=r"has no noised boxes.*--whole --windows 0 --jitters 1.*--noise 0\.1,0\.2"):
        judged(cache_of(split, tmp_path / "out"))


def test_jitters_of_windows_beside_the_wholes_are_not_taken_for_theirs(split, tmp_path, wholes):
    cache = cache_of(split, tmp_path / "out", windows=2, jitters=2, noise=(0.3, 0.1, 1.0))
    assert judged(cache) == judged(wholes)


def test_noised_boxes_of_nothing_are_refused(split, tmp_path, monkeypatch):
    from richsem_schemas.cache import recipes

    made = recipes.jitter_view

    def of_other_boxes(*arguments):
        view = made(*arguments)
        view.regions["annotation"] += 7
        return view

    monkeypatch.setattr(recipes, "jitter_view", of_other_boxes)
    cache = cache_of(split, tmp_path / "out", jitters=1)
    with pytest.raises(
        CorruptCacheError, match=r"lvis-000000\.tar: a noised box is none of its picture's whole; delete"
    ):
        judged(cache)


def test_scales_that_nobody_asked_for_are_refused(split, tmp_path, monkeypatch):
    from richsem_schemas.cache import recipes

    made = recipes.jitter_view

    def at_another_scale(*arguments):
        view = made(*arguments)
        view.regions["noise_scale"] = 0.7
        return view

    monkeypatch.setattr(recipes, "jitter_view", at_another_scale)
    with pytest.raises(CorruptCacheError, match=r"noise_scale is none of the spec's"):
        judged(cache_of(split, tmp_path / "out", jitters=1))


def test_boxes_that_lack_a_copy_are_refused(split, tmp_path, monkeypatch):
    from richsem_schemas.cache import recipes

    made = recipes.jitter_view

    def at_one_scale(*arguments):
        view = made(*arguments)
        view.regions["noise_scale"] = 0.5
        return view

    monkeypatch.setattr(recipes, "jitter_view", at_one_scale)
    with pytest.raises(
        CorruptCacheError, match=r"lvis-000000\.tar: has \d+ boxes noised by 0\.5, and its wholes ask for"
    ):
        judged(cache_of(split, tmp_path / "out", jitters=1, noise=(0.5, 1.0)))
