"""Average precision of boxes that carry their classes equals that of LVIS's own evaluator, without a limit."""

import json

import numpy as np
import pytest

from richsem_prep.analyses.analysed_set import open_set
from richsem_prep.analyses.annotations import has_lvis_format, read_annotations
from richsem_prep.analyses.average_precision import average_precisions
from richsem_prep.analyses.classified_boxes import classify_boxes
from richsem_prep.analyses.zero_shot import zero_shot
from richsem_prep.rescore.rescore import rescore
from richsem_schemas.cache.permutation import permuted
from richsem_schemas.cache.reader import open_cache
from richsem_schemas.cache.text_bank import TextBank
from richsem_schemas.cache.text_folder import TextFolder, write_text_folder
from richsem_schemas.errors import CorruptCacheError, RichSemError
from richsem_schemas.scoring.detections import Detections
from tests import caches
from tests.pipeline.analyses import direct
from tests.pipeline.analyses.split import FREQUENCIES, HW, NAMES, cache_of, content
from tests.schemas.scoring.scoring_cases import lvis_oracle

VOCABULARY = ("none", *NAMES)
TOP_K = (1, 3, 6)


def scored(cache, annotations, label_set=None, *, top_k=TOP_K, **options):
    """AP, APr, APc, APf for each of `top_k`."""
    read = read_annotations(annotations, with_negatives=True)
    analysed = open_set(open_cache(cache.layout.out), label_set, top_k=top_k, frequencies=read.frequencies, **options)
    found = average_precisions(analysed, classify_boxes(analysed, threads=1), read)
    assert [each.top_k for each in found] == list(top_k)
    return [list(each.precision.values()) for each in found]


def oracle(cache, data, top_k, label_set=caches.LABELS, text_names=VOCABULARY, **options):
    """What `lvis` says of the same boxes, as the annotation file has them."""
    plan = open_cache(cache.layout.out).manifest.plan
    by_place, rows = {}, []
    for annotation in content()["annotations"]:
        by_place.setdefault(100 - annotation["image_id"], []).append(annotation)
    ids = {category["name"]: category["id"] for category in data["categories"]}
    for box in direct.seen_boxes(cache.layout.out, label_set, **options):
        shard, sample, number = box.place
        picture = permuted(np.array([shard * plan.samples_per_shard + sample]), size=plan.listed, seed=plan.seed)[0]
        if box.scale or VOCABULARY[box.row] not in ids:
            continue
        annotation = by_place[picture][number]
        assert annotation["category_id"] == box.row
        for row in direct.top_classes(box, top_k):
            if text_names[row] in ids:
                rows.append([100 - picture, ids[text_names[row]], *annotation["bbox"], np.exp(box.log_probs[row])])
    table = np.array(rows)
    detections = Detections(table[:, 0].astype(int), table[:, 1].astype(int), table[:, 2:6], table[:, 6])
    found = lvis_oracle(data, detections, -1)
    return [None if found[name] == -1 else found[name] for name in ("AP", "APr", "APc", "APf")]


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-7)


def test_precision_is_that_of_lvis(wholes, split):
    found = scored(wholes, split / "val.json")
    assert_equal(found, [oracle(wholes, content(), top_k) for top_k in TOP_K])
    assert 0.05 < found[0][0] < found[-1][0] < 1


def test_precision_of_stored_classes_is_that_of_lvis(wholes, split):
    found = scored(wholes, split / "val.json", top_k=(2, 5), form="topk")
    assert_equal(found, [oracle(wholes, content(), top_k, form="topk") for top_k in (2, 5)])


def test_pictures_and_categories_that_the_labels_do_not_have_are_left_out(split, tmp_path):
    cache = cache_of(split, tmp_path / "out", limit=13)
    names = ("none", "cat", "zebra", "bee", "ant")
    features = np.random.default_rng(7).standard_normal((5, caches.DIM)).astype(np.float32)
    bank = TextBank(names, names, ("{}",), caches.LOGIT_SCALE, features)
    teacher = open_cache(cache.layout.out).label_set(None).spec.teacher
    write_text_folder(tmp_path / "text", TextFolder(bank, teacher, "other", "raw"))
    rescore(cache.layout.out, label_set="other", text=tmp_path / "text", top_k=5)
    found = scored(cache, split / "val.json", "other", top_k=(3,))
    data, plan = content(), open_cache(cache.layout.out).manifest.plan
    shown = {100 - each for each in permuted(np.arange(13), size=plan.listed, seed=plan.seed).tolist()}
    data["images"] = [each for each in data["images"] if each["id"] in shown]
    kept = {each["id"] for each in data["categories"] if each["name"] in names}
    data["categories"] = [each for each in data["categories"] if each["id"] in kept]
    data["annotations"] = [
        each for each in data["annotations"] if each["image_id"] in shown and each["category_id"] in kept
    ]
    for image in data["images"]:
        for lists in ("neg_category_ids", "not_exhaustive_category_ids"):
            image[lists] = [each for each in image[lists] if each in kept]
    assert_equal(found, [oracle(cache, data, 3, "other", names, form="topk")])


def test_more_than_three_hundred_boxes_of_a_category_in_a_picture_all_count(tmp_path):
    """400 boxes of one class, each sure of it: LVIS's usual limit would let a quarter go."""
    from richsem_schemas.annotations import read_annotations as read
    from tests.pictures import jpeg

    data = content()
    data["images"] = data["images"][:1]
    boxes = [[3.0 * (n % 20), 2.0 * (n // 20), 3.0, 2.0] for n in range(400)]
    data["annotations"] = [
        {"id": n + 1, "image_id": 100, "category_id": 1, "bbox": box, "area": 6.0, "iscrowd": 0}
        for n, box in enumerate(boxes)
    ]
    (tmp_path / "val.json").write_text(json.dumps(data))
    (tmp_path / "000.jpg").write_bytes(jpeg(0, HW))
    sure = caches.TableEncoder(lambda region: np.eye(caches.DIM)[region["category_id"]])
    cache = caches.WindowsCache(
        read(tmp_path / "val.json", tmp_path), tmp_path / "out", windows=0, whole=True, encoder=sure,
        text=np.eye(len(VOCABULARY), caches.DIM, dtype=np.float32),
    ).make()  # fmt: skip
    # LVIS has 101 points of recall, and 400 boxes that are all found.
    assert scored(cache, tmp_path / "val.json", top_k=(1, 3)) == [[1, 1, None, None]] * 2


def test_annotations_in_another_format_give_no_precision(wholes, split):
    read = read_annotations(split / "val.json", with_negatives=False)
    assert read.frequencies == FREQUENCIES
    analysed = open_set(open_cache(wholes.layout.out), None, top_k=(1,), frequencies=read.frequencies)
    assert zero_shot(analysed, classify_boxes(analysed), read).precisions is None
    plan = analysed.cache.manifest.plan
    formats = {
        name: has_lvis_format(plan.model_copy(update={"dataset": name}))
        for name in ("lvis", "demo-detection", "coco", "demo", "other")
    }
    assert formats == {"lvis": True, "demo-detection": True, "coco": False, "demo": False, "other": False}


def test_other_annotations_are_refused_with_the_picture_that_they_lack(wholes, split, tmp_path):
    data = content()
    data["images"][3]["file_name"] = "other.jpg"
    path = tmp_path / "other.json"
    path.write_text(json.dumps(data))
    with pytest.raises(RichSemError, match=r"other\.json: 1 of the cache's 20 pictures, such as '003\.jpg', .*made of"):
        scored(wholes, path)
    data["images"][3]["file_name"] = "004.jpg"
    path.write_text(json.dumps(data))
    with pytest.raises(RichSemError, match="can't be told apart"):
        scored(wholes, path)
    del data["images"][0]["neg_category_ids"]
    path.write_text(json.dumps(data))
    with pytest.raises(RichSemError, match=r"other\.json.*neg_category_ids"):
        scored(wholes, path)
    with pytest.raises(RichSemError, match=r"missing\.json: can't be read"):
        scored(wholes, tmp_path / "missing.json")


def test_views_of_other_boxes_than_the_listing_are_refused(split, tmp_path, monkeypatch):
    from richsem_schemas.cache import recipes

    made = recipes.whole_view

    def shifted(*arguments):
        view = made(*arguments)
        view.regions["annotation"] += 1
        return view

    monkeypatch.setattr(recipes, "whole_view", shifted)
    with pytest.raises(CorruptCacheError, match=r"listing\.arrow: \d+ boxes of label set hashed are not in it"):
        scored(cache_of(split, tmp_path / "out"), split / "val.json", top_k=(1,))
