"""Thresholds and scores equal those worked out by hand, and confident learning's own rule, class by class."""

import numpy as np
import pytest
from scipy.special import log_softmax

from richsem_prep.suspects.contradiction import class_thresholds, contradiction


def drawn(seed=0, boxes=200, classes=6):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes - 1, boxes)
    logits = rng.normal(0, 2, (boxes, classes))
    logits[np.arange(boxes), labels] += 3
    return log_softmax(logits, axis=1), labels


def test_a_threshold_is_the_mean_probability_with_one_box_of_the_mean_class():
    # Classes 0 and 1 have means of 0.7 and 0.2, and 0.45 together.
    thresholds = class_thresholds(np.array([0.9, 0.5, 0.2]), np.array([0, 0, 1]), 3)
    np.testing.assert_allclose(thresholds, [(0.9 + 0.5 + 0.45) / 3, (0.2 + 0.45) / 2, np.inf])


def test_a_score_is_the_margin_of_logarithms_by_the_thresholds():
    probs = np.array([[0.6, 0.3, 0.1], [0.05, 0.9, 0.05]])
    thresholds = np.array([0.8, 0.2, 0.5])
    found = contradiction(np.log(probs), np.array([0, 2]), thresholds)
    # The first box: 0.3 / 0.2 of class 1 against 0.6 / 0.8 of its label.
    assert found.suggested.tolist() == [1, 1]
    np.testing.assert_allclose(found.scores, np.log([(0.3 / 0.2) / (0.6 / 0.8), (0.9 / 0.2) / (0.05 / 0.5)]))
    np.testing.assert_allclose(np.exp(found.log_probs), [0.3, 0.9])


def test_boxes_of_another_class_are_those_that_confident_learning_counts():
    """Northcutt et al., equation 1, written as they write it."""
    log_probs, labels = drawn()
    probs = np.exp(log_probs)
    thresholds = class_thresholds(probs[np.arange(len(labels)), labels], labels, 6)
    expected = []
    for box, label in enumerate(labels.tolist()):
        reached = [j for j in range(6) if probs[box, j] >= thresholds[j]]
        expected.append(bool(reached) and max(reached, key=lambda j: probs[box, j]) != label)
    found = contradiction(log_probs, labels, thresholds)
    assert found.is_confident.tolist() == expected
    assert 0 < sum(expected) < len(labels)


def test_a_class_without_boxes_is_never_suggested():
    log_probs, labels = drawn()
    assert 5 not in labels
    thresholds = class_thresholds(np.exp(log_probs[np.arange(len(labels)), labels]), labels, 6)
    assert 5 not in contradiction(log_probs, labels, thresholds).suggested


def test_a_box_alone_in_its_class_can_be_suspect():
    probs = np.array([[0.98, 0.01, 0.01], [0.97, 0.02, 0.01], [0.98, 0.01, 0.01]])
    labels = np.array([0, 0, 1])
    thresholds = class_thresholds(probs[np.arange(3), labels], labels, 3)
    found = contradiction(np.log(probs), labels, thresholds)
    assert found.scores[2] > 3
    assert (found.scores[:2] < 0).all()


def test_what_a_teacher_always_confuses_is_no_suspect_for_that():
    """It calls most of class 1 class 0; the one box of them that it calls class 2 stands out."""
    confused, apart = [0.8, 0.19, 0.01], [0.04, 0.01, 0.95]
    probs = np.array([[0.9, 0.05, 0.05]] * 10 + [confused] * 10 + [apart] * 11)
    labels = np.array([0] * 10 + [1] * 11 + [2] * 10)
    thresholds = class_thresholds(probs[np.arange(31), labels], labels, 3)
    found = contradiction(np.log(probs), labels, thresholds)
    assert found.scores.argmax() == 20
    # By probabilities alone these ten would be, by log(0.8 / 0.19) = 1.4 each.
    assert (found.scores[10:20] < 0.1).all()
    assert found.scores[20] > 2.5


@pytest.mark.parametrize("temperature", [0.5, 4.0])
def test_no_temperature_changes_the_order_where_all_thresholds_are_alike(temperature):
    log_probs, labels = drawn()
    alike = np.ones(6)
    plain = contradiction(log_probs, labels, alike)
    other = contradiction(log_softmax(log_probs / temperature, axis=1), labels, alike)
    np.testing.assert_allclose(other.scores, plain.scores / temperature, atol=1e-9)
