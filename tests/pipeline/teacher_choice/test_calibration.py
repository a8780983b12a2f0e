"""Temperatures, calibration and the shape of labels equal SciPy's and what is worked out by hand."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import entropy

from richsem_prep.teacher_choice.calibration import (
    LEAST_TEMPERATURE,
    MOST_TEMPERATURE,
    at_temperature,
    calibration,
    fit_temperature,
)
from richsem_prep.teacher_choice.label_shape import label_shapes, names_beside


def drawn(sharpness, seed=0, boxes=300, classes=7):
    """Labels drawn from a softmax, and logits so many times too sharp."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (boxes, classes))
    rows = np.array([rng.choice(classes, p=each) for each in softmax(logits, axis=1)])
    return log_softmax(sharpness * logits, axis=1), rows


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 6.0])
def test_the_fitted_temperature_is_scipys(sharpness):
    log_probs, rows = drawn(sharpness)

    def nll(log_temperature):
        return -log_softmax(log_probs / np.exp(log_temperature), axis=1)[np.arange(len(rows)), rows].mean()

    expected = np.exp(minimize_scalar(nll, bounds=(-4, 4), method="bounded", options={"xatol": 1e-9}).x)
    assert fit_temperature(log_probs, rows) == pytest.approx(expected, rel=1e-4)
    assert expected == pytest.approx(sharpness, rel=0.2)


def test_temperatures_stay_within_bounds_where_none_is_the_most_probable():
    log_probs, _ = drawn(1.0)
    assert LEAST_TEMPERATURE <= fit_temperature(log_probs, log_probs.argmax(axis=1)) < 0.1
    assert 10 < fit_temperature(log_probs, log_probs.argmin(axis=1)) <= MOST_TEMPERATURE


def test_labels_at_a_temperature_are_scipys():
    log_probs, _ = drawn(2.0)
    np.testing.assert_allclose(at_temperature(log_probs, 3.0), log_softmax(log_probs / 3.0, axis=1))


def test_calibration_by_hand():
    # Two boxes claim 0.9, of which one is right; one claims 0.6 and is right.
    probs = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
    found = calibration(np.log(probs), np.array([0, 1, 1]))
    assert found.nll == pytest.approx(-np.log([0.9, 0.1, 0.6]).mean())
    assert found.ece == pytest.approx((abs(1 - 1.8) + abs(1 - 0.6)) / 3)


def test_one_claimed_for_sure_has_a_bin():
    assert calibration(np.log(np.array([[1.0, 1e-300]])), np.array([0])).ece == 0


def test_shapes_are_those_of_scipy():
    log_probs, rows = drawn(1.0)
    shapes = label_shapes("own", log_probs, rows, 4, 0.7)
    assert [each.temperature for each in shapes] == [0.7, 1.0, 2.0]
    for each in shapes:
        probs = softmax(log_probs / each.temperature, axis=1)
        assert each.entropy == pytest.approx(entropy(probs, axis=1).mean())
        assert each.top_share == pytest.approx(probs.max(axis=1).mean())
        assert each.own_share == pytest.approx(probs[:, 1:4].sum(axis=1).mean())
        assert each.top_1 == pytest.approx((probs.argmax(axis=1) == rows).mean())
    assert shapes[0].entropy < shapes[1].entropy < shapes[2].entropy


def test_wider_names_are_those_that_are_not_ones_own_however_written():
    assert names_beside(
        ("none", "Traffic light", "cat"), ("none", "dog", "traffic_light", "bow_(tie)", "Cat", "dog")
    ).tolist() == [
        1,
        3,
    ]
