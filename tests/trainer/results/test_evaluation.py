import contextlib
import copy
import io
import json
import logging
import tempfile
from pathlib import Path

import numpy as np
import pytest

from richsem_schemas.errors import RichSemError
from richsem_train.results.detections import Detections
from richsem_train.results.evaluation import best_of_each_picture
from richsem_train.results.evaluation import score as score_truth
from richsem_train.run.distributed import join_ranks
from tests.trainer.truth import truth_in

SHARED = Path(__file__).parents[3] / ".." / "shared" / "data"
LVIS_METRICS = ["AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"]
COCO_METRICS = LVIS_METRICS[:6]


def score(data: dict, detections: Detections, *, metric: str = "lvis", **options) -> dict[str, float]:
    """Of annotations that are written to a file, as people have them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "val.json"
        path.write_text(json.dumps(data))
        return score_truth(truth_in(path, metric=metric), detections, **options)


def shared_json(name: str) -> dict:
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"no {path}")
    return json.loads(path.read_text())


def small_lvis(seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    categories = [{"id": i + 1, "name": f"class {i + 1}", "frequency": "rrccfff"[i]} for i in range(7)]
    images = [
        {
            "id": 10 * i + 3,
            "height": 200,
            "width": 200,
            "neg_category_ids": rng.choice(np.arange(1, 4), 2, replace=False).tolist(),
            "not_exhaustive_category_ids": [6] if i % 2 else [],
        }
        for i in range(8)
    ]
    annotations = []
    for image in images:
        for _ in range(rng.integers(0, 7)):
            x, y = rng.uniform(0, 100, 2).round(2).tolist()
            w, h = rng.uniform(5, rng.choice([30, 100, 150]), 2).round(2).tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": int(rng.integers(4, 8)) if rng.random() < 0.7 else int(rng.integers(1, 4)),
                    "bbox": [x, y, w, h],
                    "area": w * h * 0.8,
                    "iscrowd": 0,
                }
            )
    return {"images": images, "categories": categories, "annotations": annotations, "info": {}, "licenses": []}


def noisy_detections(
    data: dict, *, levels: int, strays: int, seed: int = 0, empty_boxes: bool = False, strangers: bool = False
) -> Detections:
    """Shaken ground truth, some of it twice, and strays, with few distinct scores so that most are tied."""
    rng = np.random.default_rng(seed)
    category_ids = [category["id"] for category in data["categories"]]
    sizes = {image["id"]: (image["width"], image["height"]) for image in data["images"]}
    near = {image["id"]: list(image.get("neg_category_ids", [])) for image in data["images"]}
    rows = []
    for annotation in data["annotations"]:
        near[annotation["image_id"]].append(annotation["category_id"])
        for _ in range(rng.integers(0, 4)):
            box = np.array(annotation["bbox"]) * (1 + 0.12 * rng.standard_normal(4))
            row = [annotation["image_id"], annotation["category_id"], *np.abs(box), rng.integers(1, levels + 1)]
            rows += [row] * (1 + int(rng.random() < 0.3))
    for image_id, (width, height) in sizes.items():
        for _ in range(strays):
            category = rng.choice(near[image_id] if near[image_id] and rng.random() < 0.8 else category_ids)
            category = 99_999 if strangers and rng.random() < 0.1 else category
            box = rng.random(4) * np.array([width, height, width / 2, height / 2])
            box[2] *= not (empty_boxes and rng.random() < 0.2)
            rows.append([image_id, category, *box, rng.integers(1, levels + 1)])
    table = np.array(rows)[rng.permutation(len(rows))]
    return Detections(
        image_ids=table[:, 0].astype(np.int64),
        category_ids=table[:, 1].astype(np.int64),
        boxes_xywh_px=table[:, 2:6].astype(np.float32),
        scores=(table[:, 6] / levels).astype(np.float32),
    )


def no_detections() -> Detections:
    return Detections(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0))


@pytest.fixture
def lvis_oracle(monkeypatch):
    """`lvis` itself, with the alias that numpy took away."""
    monkeypatch.setattr(np, "float", float, raising=False)
    from lvis import LVIS, LVISEval, LVISResults

    def run(data: dict, detections: Detections, max_detections: int = 300) -> dict[str, float]:
        truth = LVIS.__new__(LVIS)
        truth.logger = logging.getLogger("oracle")
        truth.dataset = copy.deepcopy(data)
        truth._create_index()
        evaluation = LVISEval(truth, LVISResults(truth, detections.as_results(), max_detections), "bbox")
        evaluation.run()
        return {name: float(evaluation.results[name]) for name in LVIS_METRICS}

    return run


def coco_oracle(data: dict, detections: Detections) -> dict[str, float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(data)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(detections.as_results()), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(COCO_METRICS, evaluation.stats[:6].tolist(), strict=True))


def assert_equal_scores(ours: dict[str, float], oracle: dict[str, float]) -> None:
    assert list(ours) == list(oracle)
    np.testing.assert_allclose(list(ours.values()), list(oracle.values()), atol=1e-7, rtol=0)


@pytest.mark.parametrize(
    "kind",
    [
        {"levels": 1000, "strays": 20},
        {"levels": 3, "strays": 30},
        {"levels": 4, "strays": 400},
        {"levels": 4, "strays": 320, "empty_boxes": True},
        {"levels": 4, "strays": 320, "strangers": True},
    ],
    ids=["distinct", "tied", "more-than-300", "empty-boxes", "unknown-categories"],
)
def test_lvis_score_equals_lvis_on_a_small_set(kind, lvis_oracle):
    data = small_lvis()
    detections = noisy_detections(data, **kind)
    oracle = lvis_oracle(data, detections)
    assert oracle["AP"] > 0.004
    assert_equal_scores(score(data, detections), oracle)


@pytest.mark.parametrize(
    "kind",
    [
        {"levels": 20, "strays": 40},
        {"levels": 3, "strays": 450},
        {"levels": 5, "strays": 350, "empty_boxes": True},
    ],
    ids=["duplicates", "ties-and-more-than-300", "empty-boxes"],
)
def test_lvis_score_equals_lvis_on_the_100_image_sample(kind, lvis_oracle):
    data = shared_json("lvis/lvis_val_100.json")
    detections = noisy_detections(data, **kind)
    oracle = lvis_oracle(data, detections)
    assert oracle["AP"] > 0.004
    assert_equal_scores(score(data, detections), oracle)


def test_lvis_score_equals_lvis_with_another_limit(lvis_oracle):
    data = small_lvis()
    detections = noisy_detections(data, levels=5, strays=500)
    limits = {limit: score(data, detections, max_detections=limit) for limit in (10, 400)}
    for limit, ours in limits.items():
        assert_equal_scores(ours, lvis_oracle(data, detections, limit))
    assert limits[10] != limits[400]


def test_annotations_without_area_count_as_in_lvis(lvis_oracle):
    data = small_lvis()
    for annotation in data["annotations"][::3]:
        annotation["area"] = 0
    detections = noisy_detections(data, levels=10, strays=10)
    assert_equal_scores(score(data, detections), lvis_oracle(data, detections))


def test_a_run_that_flushes_denormals_scores_the_same(lvis_oracle):
    data = small_lvis()
    for annotation in data["annotations"][::3]:
        annotation["area"] = 0
    detections = noisy_detections(data, levels=10, strays=10)
    oracle = lvis_oracle(data, detections)
    with join_ranks("cpu"):
        assert_equal_scores(score(data, detections), oracle)
    assert np.float64(5e-324) / 1 > 0, "denormals stay flushed after the run"


def test_frequencies_nobody_has_are_minus_one_as_in_lvis(lvis_oracle):
    data = small_lvis()
    for category in data["categories"]:
        category["frequency"] = "f"
    detections = noisy_detections(data, levels=10, strays=10)
    ours = score(data, detections)
    assert_equal_scores(ours, lvis_oracle(data, detections))
    assert ours["APr"] == ours["APc"] == -1
    assert ours["APf"] == ours["AP"]


@pytest.mark.parametrize("kind", [{"levels": 20, "strays": 20}, {"levels": 3, "strays": 200}], ids=["few", "many"])
def test_coco_score_equals_pycocotools_on_a_small_set(kind):
    data = small_lvis(seed=1)
    data["annotations"][0]["iscrowd"] = 1
    detections = noisy_detections(data, **kind)
    assert_equal_scores(score(data, detections, metric="coco"), coco_oracle(data, detections))


def test_coco_score_equals_pycocotools_on_real_annotations():
    data = shared_json("coco128/annotations/instances_train2017.json")
    detections = noisy_detections(data, levels=5, strays=150, empty_boxes=True)
    oracle = coco_oracle(data, best_of_each_picture(detections, 300))
    assert oracle["AP"] > 0.004
    assert_equal_scores(score(data, detections, metric="coco"), oracle)


def test_perfect_detections_score_one():
    data = small_lvis()
    annotations = data["annotations"]
    perfect = Detections(
        np.array([a["image_id"] for a in annotations]),
        np.array([a["category_id"] for a in annotations]),
        np.array([a["bbox"] for a in annotations]),
        np.ones(len(annotations)),
    )
    assert score(data, perfect) == pytest.approx(dict.fromkeys(LVIS_METRICS, 1.0))
    assert score(data, perfect, metric="coco") == pytest.approx(dict.fromkeys(COCO_METRICS, 1.0))


@pytest.mark.parametrize("metric", ["lvis", "coco"])
def test_no_detections_score_zero(metric):
    assert set(score(small_lvis(), no_detections(), metric=metric).values()) == {0.0}


def test_an_annotation_of_id_zero_can_be_found():
    data = small_lvis()
    detections = noisy_detections(data, levels=10, strays=10)
    from_one = score(data, detections)
    for annotation in data["annotations"]:
        annotation["id"] -= 1
    assert score(data, detections) == from_one


def test_order_of_pictures_does_not_matter():
    data = small_lvis()
    detections = noisy_detections(data, levels=3, strays=310)
    by_picture = detections[np.argsort(-detections.image_ids, kind="stable")]
    assert score(data, by_picture) == score(data, detections)


def test_loaded_ground_truth_scores_the_same_twice_and_prints_nothing(tmp_path, capfd):
    path = tmp_path / "val.json"
    path.write_text(json.dumps(small_lvis()))
    detections = noisy_detections(small_lvis(), levels=10, strays=10, strangers=True)
    truth = truth_in(path)
    assert score_truth(truth, detections) == score_truth(truth, detections) == score(small_lvis(), detections)
    assert capfd.readouterr() == ("", "")


def test_best_of_each_picture_keeps_the_earlier_of_equal_scores():
    detections = Detections(
        np.array([2, 1, 2, 2, 1]), np.array([1, 2, 3, 4, 5]), np.zeros((5, 4)), np.array([0.5, 0.1, 0.5, 0.9, 0.3])
    )
    best = best_of_each_picture(detections, 2)
    assert best.image_ids.tolist() == [1, 1, 2, 2]
    assert best.category_ids.tolist() == [5, 2, 4, 1]


def test_unknown_pictures_are_refused():
    stray = Detections(np.array([4]), np.array([1]), np.ones((1, 4)), np.ones(1))
    with pytest.raises(RichSemError, match="no image id 4"):
        score(small_lvis(), stray)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(bad):
    with pytest.raises(RichSemError, match="image id 13"):
        score(small_lvis(), Detections(np.array([13]), np.array([1]), np.ones((1, 4)), np.array([bad])))


def test_lvis_metric_refuses_categories_without_frequency():
    data = small_lvis()
    del data["categories"][2]["frequency"]
    with pytest.raises(RichSemError, match=r"category 3 has no `frequency`.*detection.format: coco"):
        score(data, no_detections())
    assert score(data, no_detections(), metric="coco")["AP"] == 0


@pytest.mark.parametrize("content", [None, "no json", "[]", "{}"], ids=["missing", "text", "list", "empty"])
def test_unreadable_annotations_are_named(tmp_path, content):
    path = tmp_path / "val.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(RichSemError, match=r"val\.json"):
        truth_in(path)
