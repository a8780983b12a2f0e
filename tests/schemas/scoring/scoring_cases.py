"""Annotations and detections to be scored, and the official evaluators to compare with."""

import contextlib
import copy
import io
import json
import logging
import tempfile
from pathlib import Path
from unittest.mock import patch

import numpy as np

from richsem_schemas.scoring import evaluation
from richsem_schemas.scoring.detections import Detections
from richsem_schemas.vocabularies.frequencies import derived_frequencies
from tests.schemas.scoring.truth import truth_in

LVIS_METRICS = ["AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"]
COCO_METRICS = LVIS_METRICS
METRICS = ["lvis", "coco"]


def truth_of(content, metric="lvis"):
    """Of annotations that are written to a file, as people have them: of bytes, or of what JSON writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "val.json"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return truth_in(path, metric=metric)


def score(content, detections: Detections, metric: str = "lvis", **options) -> dict[str, float]:
    return evaluation.score(truth_of(content, metric), detections, **options)


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
    data: dict,
    *,
    levels: int = 10,
    strays: int = 10,
    seed: int = 0,
    empty_boxes: bool = False,
    strangers: bool = False,
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


def lvis_oracle(data: dict, detections: Detections, max_detections: int = 300) -> dict[str, float]:
    """`lvis` itself, with the alias that numpy took away."""
    with patch.object(np, "float", float, create=True):
        from lvis import LVIS, LVISEval, LVISResults

        truth = LVIS.__new__(LVIS)
        truth.logger = logging.getLogger("oracle")
        truth.dataset = copy.deepcopy(data)
        truth._create_index()
        evaluation = LVISEval(truth, LVISResults(truth, detections.as_results(), max_detections), "bbox")
        evaluation.run()
    return {name: float(evaluation.results[name]) for name in LVIS_METRICS}


def fixed_oracle(data: dict, detections: Detections, of_category: int) -> dict[str, float]:
    """Fixed AP as the program of its authors has it: the best of each category from the results, then `lvis`."""
    by_category: dict[int, list[dict]] = {}
    for result in detections.as_results():
        by_category.setdefault(result["category_id"], []).append(result)
    best = [
        result
        for results in by_category.values()
        for result in sorted(results, key=lambda each: each["score"], reverse=True)[:of_category]
    ]
    columns = [np.array([each[key] for each in best]) for key in ("image_id", "category_id", "bbox", "score")]
    return lvis_oracle(data, Detections(*columns), -1)


def coco_oracle(data: dict, detections: Detections, max_detections: int = 100) -> dict[str, float]:
    """`pycocotools`, of all categories and of those of each frequency; the limit is one of a picture and category."""
    stats = _coco_stats(data, detections, max_detections, [each["id"] for each in data["categories"]])
    letters = letters_of(data)
    for letter in "rcf":
        ids = [category for category, each in letters.items() if each == letter]
        stats.append(_coco_stats(data, detections, max_detections, ids)[0] if ids else -1.0)
    return dict(zip(COCO_METRICS, stats, strict=True))


def letters_of(data: dict) -> dict[int, str]:
    """What the file says, or what the pictures of each category make of it."""
    if all("frequency" in each for each in data["categories"]):
        return {each["id"]: each["frequency"] for each in data["categories"]}
    shown = {(each["image_id"], each["category_id"]) for each in data["annotations"]}
    ids = [each["id"] for each in data["categories"]]
    counts = [sum(category == number for _, category in shown) for number in ids]
    return dict(zip(ids, derived_frequencies(counts)[0], strict=True))


def _coco_stats(data: dict, detections: Detections, max_detections: int, category_ids: list[int]) -> list[float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(data)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(detections.as_results()), "bbox")
        evaluation.params.maxDets = [1, 10, max_detections]
        evaluation.params.catIds = category_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # Its summary of AP is that of 100 whatever the limit; the other figures are of the limit.
    precisions = evaluation.eval["precision"][:, :, :, 0, 2]
    known = precisions[precisions > -1]
    return [float(known.mean()) if known.size else -1.0, *map(float, evaluation.stats[1:6])]


ORACLES = {"lvis": lvis_oracle, "coco": coco_oracle}


def assert_equal_scores(ours: dict[str, float], oracle: dict[str, float]) -> None:
    assert list(ours) == list(oracle)
    np.testing.assert_allclose(list(ours.values()), list(oracle.values()), atol=1e-7, rtol=0)
