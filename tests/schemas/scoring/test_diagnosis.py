import pytest

from richsem_schemas.scoring.diagnosis import diagnose
from richsem_schemas.scoring.evaluation import score
from tests.schemas.scoring.scoring_cases import METRICS, no_detections, noisy_detections, small_lvis, truth_of
from tests.schemas.scoring.test_box_errors import CAT, DOG, content_of, detections_of


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_are_those_of_score(metric):
    content = small_lvis(2)
    truth, detections = truth_of(content, metric), noisy_detections(content)
    assert diagnose(truth, detections).metrics == score(truth, detections)


def test_confusion_and_calibration_by_hand():
    content = content_of((CAT, 0, 0, 10, 10), (CAT, 40, 0, 10, 10), (DOG, 80, 0, 10, 10), (DOG, 0, 80, 10, 10))
    detections = detections_of(
        (CAT, 0.95, 0, 0, 10, 10), (DOG, 0.85, 40, 0, 10, 10), (DOG, 0.75, 80, 0, 10, 10), (DOG, 0.05, 50, 50, 9, 9)
    )
    said = diagnose(truth_of(content, "coco"), detections)
    # From 0.95 on for cats and from 0.75 on for dogs: a cat is taken for a dog, a dog for nothing.
    assert said.thresholds.tolist() == pytest.approx([0.95, 0.75])
    assert said.confusion.tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]
    calibration = said.calibration
    assert calibration.scores.tolist() == pytest.approx([0.05, 0.75, 0.85, 0.95])
    assert calibration.accuracies.tolist() == [0, 1, 0, 1]
    assert calibration.error == pytest.approx((0.05 + 0.25 + 0.85 + 0.05) / 4)
    assert calibration.class_errors["cat"] == pytest.approx(0.05)


def test_without_detections_there_is_a_diagnosis_too():
    said = diagnose(truth_of(small_lvis(1)), no_detections())
    assert said.metrics["AP"] == 0
    assert len(said.calibration.counts) == 0
    assert set(said.tide.values()) == {0.0}
