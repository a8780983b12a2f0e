"""Detections as the package `supervision` has them: it can count, filter and draw them."""

import sys

import numpy as np
import pytest

from richsem_schemas.errors import RichSemError
from richsem_train.results.prediction import Prediction

FOUND = Prediction(
    np.array([[10, 5, 30, 25], [0, 0, 8, 8], [1, 2, 9, 9]], np.float32),
    np.array([0.9, 0.5, 0.25], np.float32),
    np.array([7, -1, 9]),
    ("sofa", "cat", "zebra"),
)


def empty():
    return Prediction(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), ())


def test_boxes_scores_ids_and_names_are_kept_but_for_classes_without_an_id():
    supervision = pytest.importorskip("supervision")
    found = FOUND.as_supervision()
    assert isinstance(found, supervision.Detections)
    np.testing.assert_array_equal(found.xyxy, FOUND.boxes_xyxy_px[[0, 2]])
    np.testing.assert_array_equal(found.confidence, np.array([0.9, 0.25], np.float32))
    assert found.class_id.tolist() == [7, 9]
    assert found["class_name"].tolist() == ["sofa", "zebra"]
    assert found.area.tolist() == [400.0, 56.0]
    assert found[found.confidence > 0.5]["class_name"].tolist() == ["sofa"]


def test_it_draws_them():
    supervision = pytest.importorskip("supervision")
    scene = np.zeros((40, 60, 3), np.uint8)
    drawn = supervision.BoxAnnotator(thickness=1).annotate(scene.copy(), FOUND.as_supervision())
    assert drawn[5, 10:31].any(axis=-1).all()
    assert not drawn[20, 15:25].any()


def test_nothing_found_is_nothing():
    pytest.importorskip("supervision")
    assert len(empty().as_supervision()) == 0


def test_without_the_package_its_installation_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(RichSemError, match=r"supervision can't be imported.*; install it by `pip install supervision`"):
        FOUND.as_supervision()
