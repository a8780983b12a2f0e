"""Scores equal those of the official evaluators; a hand-made few are known."""

import json
from pathlib import Path

import numpy as np
import pytest

from richsem_schemas.errors import RichSemError
from richsem_schemas.scoring import evaluation
from richsem_schemas.scoring.detections import Detections
from richsem_schemas.scoring.evaluation import best_of_each_category, best_of_each_picture
from richsem_train.run.distributed import join_ranks
from tests.schemas.scoring.scoring_cases import (
    COCO_METRICS,
    LVIS_METRICS,
    METRICS,
    assert_equal_scores,
    coco_oracle,
    fixed_oracle,
    lvis_oracle,
    no_detections,
    noisy_detections,
    score,
    small_lvis,
    truth_of,
)
from tests.schemas.scoring.truth import truth_in

SHARED = Path(__file__).parents[3] / ".." / "shared" / "data"


def shared_json(name: str) -> dict:
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"no {path}")
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("small", {"levels": 1000, "strays": 20}),
        ("small", {"levels": 3, "strays": 30}),
        ("small", {"levels": 4, "strays": 400}),
        ("small", {"levels": 4, "strays": 320, "empty_boxes": True}),
        ("small", {"levels": 4, "strays": 320, "strangers": True}),
        ("real", {"levels": 20, "strays": 40}),
        ("real", {"levels": 3, "strays": 450}),
        ("real", {"levels": 5, "strays": 350, "empty_boxes": True}),
    ],
    ids=["distinct", "tied", "more than 300", "empty boxes", "unknown categories", "100 pictures, duplicates",
         "100 pictures, ties and more than 300", "100 pictures, empty boxes"],
)  # fmt: skip
def test_lvis_score_equals_lvis(source, kind):
    data = small_lvis() if source == "small" else shared_json("lvis/lvis_val_100.json")
    detections = noisy_detections(data, **kind)
    oracle = lvis_oracle(data, detections)
    assert oracle["AP"] > 0.004
    assert_equal_scores(score(data, detections), oracle)


def test_lvis_score_equals_lvis_with_another_limit():
    data = small_lvis()
    detections = noisy_detections(data, levels=5, strays=500)
    limits = {limit: score(data, detections, max_detections=limit) for limit in (10, 400)}
    for limit, ours in limits.items():
        assert_equal_scores(ours, lvis_oracle(data, detections, limit))
    assert limits[10] != limits[400]


def crowded(boxes=400):
    """A picture of many boxes of one category, each found, the later ones with less certainty."""
    annotations = [
        {"id": n + 1, "image_id": 1, "category_id": 1, "bbox": [10.0 * n, 0, 8, 8], "area": 64.0, "iscrowd": 0}
        for n in range(boxes)
    ]
    image = {"id": 1, "height": 10, "width": 10 * boxes, "neg_category_ids": [], "not_exhaustive_category_ids": []}
    data = {"images": [image], "categories": [{"id": 1, "name": "book", "frequency": "r"}], "annotations": annotations}
    found = np.array([each["bbox"] for each in annotations])
    ones = np.ones(boxes, np.int64)
    return data, Detections(ones, ones, found, np.linspace(1, 0.1, boxes))


def test_without_a_limit_all_detections_of_a_picture_and_category_count():
    data, detections = crowded()
    assert score(data, detections)["AP"] < 0.8
    for metric, oracle in (("lvis", lvis_oracle), ("coco", coco_oracle)):
        ours = score(data, detections, metric, max_detections=None)
        assert ours["AP"] == 1.0
        # To `lvis` -1 is no limit.
        assert_equal_scores(ours, oracle(data, detections, {"lvis": -1, "coco": 10**6}[metric]))
    assert_equal_scores(score(data, detections, max_detections=350), lvis_oracle(data, detections, 350))


@pytest.mark.parametrize("kind", [{"levels": 1000, "strays": 400}, {"levels": 3, "strays": 450}], ids=["few", "tied"])
def test_without_a_limit_the_score_is_that_of_lvis_and_pycocotools_without(kind):
    data = small_lvis()
    detections = noisy_detections(data, **kind)
    assert_equal_scores(score(data, detections, max_detections=None), lvis_oracle(data, detections, -1))
    coco = score(data, detections, "coco", max_detections=None)
    assert_equal_scores(coco, coco_oracle(data, detections, 10**6))


@pytest.mark.parametrize("of_category", [3, 17, 40, 10_000])
@pytest.mark.parametrize("kind", [{"levels": 1000, "strays": 60}, {"levels": 3, "strays": 60}], ids=["few", "tied"])
def test_fixed_ap_is_that_of_its_authors_program(kind, of_category):
    data = small_lvis()
    detections = noisy_detections(data, **kind)
    detections = detections[np.argsort(detections.image_ids, kind="stable")]
    ours = score(data, detections, max_detections=None, max_of_category=of_category)
    assert_equal_scores(ours, fixed_oracle(data, detections, of_category))


def test_limits_of_a_category_change_the_score_and_not_those_of_a_picture():
    data = small_lvis()
    detections = noisy_detections(data, levels=1000, strays=400)
    limits = {limit: score(data, detections, max_detections=None, max_of_category=limit) for limit in (5, 50, 10_000)}
    assert limits[5] != limits[50] != limits[10_000] == score(data, detections, max_detections=None)
    assert limits[10_000] != score(data, detections)


def test_best_of_each_category_is_the_same_in_any_order_of_pictures():
    detections = noisy_detections(small_lvis(), levels=3, strays=40)
    by_picture = detections[np.argsort(-detections.image_ids, kind="stable")]
    for found in (detections, by_picture):
        kept = found[best_of_each_category(found.image_ids, found.category_ids, found.scores, 9)]
        assert np.unique(kept.category_ids, return_counts=True)[1].tolist() == [9] * 7
        assert score(small_lvis(), kept) == score(small_lvis(), detections, max_of_category=9)


def test_best_of_each_category_keeps_those_of_lower_picture_ids_among_equals():
    columns = np.array([[9, 1, 0.5], [2, 1, 0.5], [5, 1, 0.9], [5, 1, 0.5], [1, 2, 0.1]]).T
    kept = best_of_each_category(columns[0].astype(int), columns[1].astype(int), columns[2], 2)
    assert kept.tolist() == [False, True, True, False, True]


def test_a_run_that_flushes_denormals_scores_the_same():
    data = small_lvis()
    for annotation in data["annotations"][::3]:
        annotation["area"] = 0
    detections = noisy_detections(data)
    oracle = lvis_oracle(data, detections)
    with join_ranks("cpu"):
        assert_equal_scores(score(data, detections), oracle)
    assert np.float64(5e-324) / 1 > 0, "denormals stay flushed after the run"


def test_frequencies_nobody_has_are_minus_one_as_in_lvis():
    data = small_lvis()
    for category in data["categories"]:
        category["frequency"] = "f"
    detections = noisy_detections(data)
    ours = score(data, detections)
    assert_equal_scores(ours, lvis_oracle(data, detections))
    assert ours["APr"] == ours["APc"] == -1
    assert ours["APf"] == ours["AP"]


@pytest.mark.parametrize("kind", [{"levels": 20, "strays": 20}, {"levels": 3, "strays": 200}], ids=["few", "many"])
def test_coco_score_equals_pycocotools_on_a_small_set(kind):
    data = small_lvis(seed=1)
    data["annotations"][0]["iscrowd"] = 1
    detections = noisy_detections(data, **kind)
    assert_equal_scores(score(data, detections, "coco"), coco_oracle(data, detections))


def test_coco_score_equals_pycocotools_on_real_annotations():
    data = shared_json("coco128/annotations/instances_train2017.json")
    detections = noisy_detections(data, levels=5, strays=150, empty_boxes=True)
    oracle = coco_oracle(data, best_of_each_picture(detections, 300))
    assert oracle["AP"] > 0.004
    assert_equal_scores(score(data, detections, "coco"), oracle)


def test_perfect_detections_score_one():
    data = small_lvis()
    columns = [[each[key] for each in data["annotations"]] for key in ("image_id", "category_id", "bbox")]
    perfect = Detections(*map(np.array, columns), np.ones(len(columns[0])))
    assert score(data, perfect) == pytest.approx(dict.fromkeys(LVIS_METRICS, 1.0))
    assert score(data, perfect, "coco") == pytest.approx(dict.fromkeys(COCO_METRICS, 1.0))


@pytest.mark.parametrize("metric", METRICS)
def test_no_detections_score_zero_and_without_boxes_nothing_is_defined(metric):
    data = small_lvis()
    assert set(score(data, no_detections(), metric).values()) == {0.0}
    assert set(score(data | {"annotations": []}, noisy_detections(data), metric).values()) == {-1}


def test_order_of_pictures_does_not_matter():
    data = small_lvis()
    detections = noisy_detections(data, levels=3, strays=310)
    by_picture = detections[np.argsort(-detections.image_ids, kind="stable")]
    assert score(data, by_picture) == score(data, detections)


def test_loaded_ground_truth_scores_the_same_twice_and_prints_nothing(capfd):
    detections = noisy_detections(small_lvis(), strangers=True)
    truth = truth_of(small_lvis())
    assert evaluation.score(truth, detections) == evaluation.score(truth, detections) == score(small_lvis(), detections)
    assert capfd.readouterr() == ("", "")


def test_best_of_each_picture_keeps_the_earlier_of_equal_scores():
    detections = Detections(
        np.array([2, 1, 2, 2, 1]), np.array([1, 2, 3, 4, 5]), np.zeros((5, 4)), np.array([0.5, 0.1, 0.5, 0.9, 0.3])
    )
    best = best_of_each_picture(detections, 2)
    assert best.image_ids.tolist() == [1, 1, 2, 2]
    assert best.category_ids.tolist() == [5, 2, 4, 1]


@pytest.mark.parametrize(
    ("image_id", "value", "message"),
    [(4, 1.0, "no image id 4"), (13, np.nan, "image id 13"), (13, np.inf, "image id 13")],
    ids=["unknown picture", "nan", "infinite"],
)
def test_unknown_pictures_and_numbers_that_are_not_finite_are_refused(image_id, value, message):
    with pytest.raises(RichSemError, match=message):
        score(small_lvis(), Detections(np.array([image_id]), np.array([1]), np.ones((1, 4)), np.array([value])))


@pytest.mark.parametrize("content", [None, "no json", "[]", "{}"], ids=["missing", "text", "list", "empty"])
def test_unreadable_annotations_are_named(tmp_path, content):
    path = tmp_path / "val.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(RichSemError, match=r"val\.json"):
        truth_in(path)
