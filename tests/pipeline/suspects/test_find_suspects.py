"""Suspects of small caches equal a computation box by box, and flipped labels of the demo's world are found."""

import json

import numpy as np
import pytest
from scipy.special import log_softmax

from richsem_prep.analyses.analysed_set import open_set
from richsem_prep.suspects.find_suspects import find_suspects
from richsem_prep.suspects.page import first_of_each_group
from richsem_prep.suspects.without import write_without_suspects
from richsem_schemas.annotations import read_annotations
from richsem_schemas.cache.reader import open_cache
from richsem_schemas.errors import RichSemError
from tests import caches
from tests.pipeline.analyses import direct
from tests.pipeline.analyses.split import FREQUENCIES, NAMES, cache_of, content, write_split

ROWS = {name: row for row, name in enumerate(NAMES, 1)}


def opened(cache, **options):
    given = {"top_k": (1,), "frequencies": FREQUENCIES, "may_be_windows": True} | options
    return open_set(open_cache(cache.layout.out), None, **given)


def one_by_one(boxes):
    """Scores by the place of a box (shard, sample, annotation), over the five names alone."""
    rows = [box.row for box in boxes]
    probs = [np.exp(log_softmax(box.log_probs[1:])) for box in boxes]
    own = {row: [p[row - 1] for p, r in zip(probs, rows, strict=True) if r == row] for row in set(rows)}
    mean = np.mean([np.mean(each) for each in own.values()])
    threshold = {row: (sum(each) + mean) / (len(each) + 1) for row, each in own.items()}
    scores = {}
    for box, p in zip(boxes, probs, strict=True):
        by = {row: np.log(p[row - 1] / t) for row, t in threshold.items()}
        label = by.pop(box.row)
        best = max(by, key=by.get)
        scores[box.place] = (by[best] - label, best, p[best - 1], p[box.row - 1])
    return scores


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return write_split(tmp_path_factory.mktemp("split"))


@pytest.fixture(scope="module")
def wholes(split, tmp_path_factory):
    return cache_of(split, tmp_path_factory.mktemp("wholes") / "out")


@pytest.mark.parametrize("threads", [1, 2])
def test_scores_equal_a_computation_box_by_box(wholes, threads):
    found = find_suspects(opened(wholes), most=100, threads=threads)
    per_shard = caches.SAMPLES_PER_SHARD
    expected = {
        (shard * per_shard + sample, annotation): told
        for (shard, sample, annotation), told in one_by_one(list(direct.seen_boxes(wholes.layout.out))).items()
        if told[0] > 0
    }
    assert (found.boxes, found.unjudged_boxes, found.views) == (40, 0, "whole")
    assert len(found.suspects) == len(expected) > 5
    for each in found.suspects:
        score, best, probability, own = expected.pop((each.sample, each.annotation))
        assert each.score == pytest.approx(score)
        assert ROWS[each.suggestion] == best
        assert each.suggestion_probability == pytest.approx(probability)
        assert each.label_probability == pytest.approx(own)
    assert not expected


def test_rare_classes_come_first_then_scores(wholes):
    found = find_suspects(opened(wholes), most=100)
    order = ["rare", "common", "frequent"]
    keys = [(order.index(each.group), -each.score) for each in found.suspects]
    assert keys == sorted(keys)
    letters = {name: {"r": "rare", "c": "common", "f": "frequent"}[each] for name, each in FREQUENCIES.items()}
    for each in found.suspects:
        assert each.group == min(letters[each.label], letters[each.suggestion], key=order.index)


def test_so_many_are_listed_as_confident_learning_counts_or_as_are_asked_for(wholes):
    every = find_suspects(opened(wholes), most=100)
    counted = find_suspects(opened(wholes))
    assert len(counted.suspects) == min(counted.contradicted, len(every.suspects))
    highest = sorted((each.score for each in every.suspects), reverse=True)
    few = find_suspects(opened(wholes), most=3)
    assert sorted((each.score for each in few.suspects), reverse=True) == highest[:3]


def test_frequencies_that_nobody_says_are_told_by_the_caches_own_pictures(wholes):
    found = find_suspects(opened(wholes, frequencies=None), most=100)
    assert found.frequency_rule.startswith("thirds of the classes")
    assert {each.group for each in found.classes} > {"rare"}


def test_boxes_of_windows_are_judged_by_the_window_that_shows_most_of_them(split, tmp_path):
    cache = cache_of(split, tmp_path / "out", windows=3, whole=False)
    found = find_suspects(opened(cache), most=100)
    assert found.views == "window"
    assert found.boxes <= 40
    shown = direct.largest_views(cache.layout.out)
    assert found.boxes == len(shown)
    expected = {place: told for place, told in one_by_one(shown).items() if told[0] > 0}
    assert sorted(each.score for each in found.suspects) == pytest.approx(sorted(told[0] for told in expected.values()))


def test_stored_classes_give_nearly_the_same_as_embeddings(split, tmp_path):
    cache = cache_of(split, tmp_path / "out", top_k=6)
    exact, kept = (find_suspects(opened(cache, form=form), most=100) for form in ("embedding", "topk"))
    assert [each.picture for each in exact.suspects] == [each.picture for each in kept.suspects]
    for a, b in zip(exact.suspects, kept.suspects, strict=True):
        # Two steps of float16 at logarithms of -16 to -32.
        assert a.score == pytest.approx(b.score, abs=2 / 64)


def test_classes_that_were_not_kept_have_equal_parts_of_the_rest(split, tmp_path):
    cache = cache_of(split, tmp_path / "out", top_k=2)
    found = find_suspects(opened(cache, form="topk"), most=100)
    assert all(np.isfinite(each.score) for each in found.suspects)


def test_listed_boxes_are_those_of_the_annotations(wholes):
    by_picture = {each["id"]: each["file_name"] for each in content()["images"]}
    boxes = {}
    for each in content()["annotations"]:
        boxes.setdefault(by_picture[each["image_id"]], []).append((NAMES[each["category_id"] - 1], each["bbox"]))
    for each in find_suspects(opened(wholes), most=100).suspects:
        label, bbox = boxes[each.picture][each.annotation]
        assert each.label == label
        np.testing.assert_allclose(each.box_xywh, bbox, atol=1e-4)


def test_the_file_without_suspects_lacks_these_boxes_and_no_others(split, wholes, tmp_path):
    found = find_suspects(opened(wholes), most=7)
    done = write_without_suspects(split / "val.json", tmp_path / "clean.json", found.suspects, None, lambda *_: None)
    assert (done.boxes, done.dropped) == (40, 7)
    before, after = content(), json.loads((tmp_path / "clean.json").read_text())
    names = {each["id"]: each["file_name"] for each in before["images"]}
    kept = {each["id"] for each in after["annotations"]}
    dropped = [each for each in before["annotations"] if each["id"] not in kept]
    assert sorted((names[each["image_id"]], NAMES[each["category_id"] - 1]) for each in dropped) == sorted(
        (each.picture, each.label) for each in found.suspects
    )
    lists = {each["id"]: each["not_exhaustive_category_ids"] for each in after["images"]}
    assert all(each["category_id"] in lists[each["image_id"]] for each in dropped)
    assert (before["images"], len(before["annotations"])) == (content()["images"], 40)


def test_annotations_of_other_labels_are_refused(split, wholes, tmp_path):
    found = find_suspects(opened(wholes), most=7)
    other = content()
    for each in other["annotations"]:
        each["category_id"] = each["category_id"] % 5 + 1
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(RichSemError, match=r"is labelled .* in the cache, and here is .*made of"):
        write_without_suspects(tmp_path / "other.json", tmp_path / "out.json", found.suspects, None, lambda *_: None)
    assert not (tmp_path / "out.json").exists()


def test_what_cannot_be_judged_is_refused(finished_cache, split, tmp_path):
    with pytest.raises(RichSemError, match="crops and mosaics of pictures without annotated boxes"):
        opened(finished_cache)
    data = read_annotations(split / "val.json", split)
    data.category_ids[:] = 2
    geometry = cache_of(split, tmp_path / "any")._views.geometry
    alone = caches.WindowsCache(data, tmp_path / "one", windows=0, whole=True, geometry=geometry).make()
    with pytest.raises(RichSemError, match=r"all of its 40 boxes are labelled 'bee'.*two classes or more"):
        find_suspects(opened(alone))


def test_a_page_shows_rare_ones_and_some_of_every_group(wholes):
    found = find_suspects(opened(wholes), most=100)
    numbers = first_of_each_group(found, 6)
    groups = [found.suspects[number].group for number in numbers]
    assert len(numbers) == 6
    assert set(groups) == {each.group for each in found.suspects}
    assert first_of_each_group(found, 1000) == list(range(len(found.suspects)))
