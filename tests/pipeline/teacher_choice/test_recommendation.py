"""The teacher recommended is the best one, or a faster one that the boxes don't show to be worse."""

from dataclasses import replace

import numpy as np
import pytest

from richsem_prep.teacher_choice.calibration import Calibration
from richsem_prep.teacher_choice.judged_teacher import JudgedTeacher, StoredBytes, TopAccuracy
from richsem_prep.teacher_choice.recommendation import difference, recommend

ROWS = np.repeat([1, 2, 3, 4], 25)


def teacher(name, right, seconds):
    classes = [right[row == ROWS].mean() for row in (1, 2, 3, 4)]
    accuracy = TopAccuracy(float(np.mean(classes)), float(right.mean()))
    calibration = Calibration(1.0, 0.1)
    return JudgedTeacher(
        name, "crop", "fp32", "cpu", 10, 100, accuracy, accuracy, 1.0, calibration, calibration, seconds, 1,
        StoredBytes(1, 1, 2), (), (),
    )  # fmt: skip


def right(count):
    """So many of each class's 25 boxes."""
    return np.tile(np.arange(25) < count, 4)


def recommended(*counts_and_seconds):
    names = "ABC"
    found = {name: right(count) for name, (count, _) in zip(names, counts_and_seconds, strict=False)}
    judged = [
        teacher(name, found[name], seconds) for name, (_, seconds) in zip(names, counts_and_seconds, strict=False)
    ]
    return recommend(judged, ROWS, found)


def test_the_best_is_recommended_where_it_is_clearly_so():
    told = recommended((15, 1.0), (22, 5.0))
    assert told.teacher == "B"
    assert "top 1 88.0% as the mean over classes, the highest: A has 28.0 ±" in told.reason


def test_a_faster_one_is_recommended_where_it_is_no_worse_for_sure():
    # One box of a class makes no difference that is more than chance.
    told = recommended((22, 5.0), (22, 1.0))
    assert told.teacher == "B"
    assert "5.0 times as many regions a second as A" in told.reason


def test_one_alone_is_told_to_be_alone():
    assert "no other to compare it with" in recommended((10, 1.0)).reason


def test_differences_are_paired_and_their_error_is_that_within_classes():
    rng = np.random.default_rng(0)
    a, b = rng.random(100) < 0.7, rng.random(100) < 0.6
    found = difference(a, b, ROWS)
    deltas = (a.astype(float) - b).reshape(4, 25)
    assert found.mean == pytest.approx(deltas.mean())
    within = ((deltas - deltas.mean(axis=1, keepdims=True)) ** 2).sum() / 96
    assert found.error == pytest.approx(np.sqrt(within / 25 / 4))


def test_one_box_a_class_has_an_error_too():
    found = difference(np.array([True, True, False, True]), np.array([True, False, False, False]), np.arange(1, 5))
    assert (found.mean, found.error) == (0.5, pytest.approx(np.std([0, 1, 0, 1], ddof=1) / 2))


def test_equal_teachers_differ_by_nothing():
    found = difference(right(5), right(5), ROWS)
    assert (found.mean, found.error, found.is_chance) == (0, 0, True)
    assert replace(found, mean=0.1).is_chance is False
