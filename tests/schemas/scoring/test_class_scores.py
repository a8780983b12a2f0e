import contextlib
import copy
import io

import numpy as np
import pytest

from richsem_schemas.scoring.class_scores import ClassScores, best_thresholds, class_aps, class_scores
from richsem_schemas.scoring.evaluation import evaluated, metrics_of, numbered
from tests.schemas.scoring.scoring_cases import METRICS, no_detections, noisy_detections, small_lvis, truth_of


def evaluator_of(content, detections, metric):
    truth = truth_of(content, metric)
    return evaluated(truth, numbered(truth, detections, max_detections=300)), truth


def pycocotools_aps(content, detections):
    """AP of each class by `pycocotools`, NaN where it has none."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(content)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(detections.as_results()), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    aps = [precision[:, :, k] for k in range(precision.shape[2])]
    return [each[each > -1].mean() if (each > -1).any() else np.nan for each in aps]


@pytest.mark.parametrize("seed", range(3))
def test_aps_of_classes_are_those_of_pycocotools(seed):
    content = small_lvis(seed)
    content["categories"].append({"id": 8, "name": "absent", "frequency": "r"})
    detections = noisy_detections(content, seed=seed)
    evaluator, _ = evaluator_of(content, detections, "coco")
    np.testing.assert_allclose(class_aps(evaluator), pycocotools_aps(content, detections), atol=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_ap_is_the_mean_of_the_aps_of_classes_that_have_boxes(metric):
    content = small_lvis(1)
    evaluator, truth = evaluator_of(content, noisy_detections(content), metric)
    assert np.nanmean(class_aps(evaluator)) == pytest.approx(metrics_of(truth, evaluator)["AP"])
    assert np.nanmean(class_scores(evaluator).aps50) == pytest.approx(metrics_of(truth, evaluator)["AP50"])


def test_without_a_detection_classes_have_an_ap_of_0():
    evaluator, _ = evaluator_of(small_lvis(1), no_detections(), "lvis")
    assert set(class_aps(evaluator).tolist()) <= {0.0}
    assert set(best_thresholds(class_scores(evaluator)).tolist()) == {0.5}


def test_the_best_threshold_is_where_f1_is_highest():
    recalls = np.array([0.0, 0.5, 1.0])
    precisions = np.array([[1.0, 1.0, 0.4], [1.0, 0.5, 0.5], [0.0, 0.0, 0.0], [np.nan] * 3])
    scores = np.array([[0.9, 0.8, 0.1], [0.9, 0.6, 0.3], [0.0, 0.0, 0.0], [np.nan] * 3])
    # F1 of the first: 0, 2/3, 0.57; of the second: 0, 1/2, 2/3. The others take the median of 0.8 and 0.3.
    found = best_thresholds(ClassScores(np.zeros(4), np.zeros(4), recalls, precisions, scores))
    assert found.tolist() == pytest.approx([0.8, 0.3, 0.55, 0.55])
