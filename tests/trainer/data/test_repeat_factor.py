import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from richsem_train.data.repeat_factor import epoch_indices, repeat_factors


def factors_of(pictures, threshold):
    ids = np.array([category for picture in pictures for category in picture], np.int64)
    offsets = np.cumsum([0] + [len(picture) for picture in pictures])
    return repeat_factors(ids, offsets, threshold=threshold)


def by_the_formula(pictures, threshold):
    """r(I) = max over c in I of max(1, sqrt(t / f(c))), picture by picture, with exact fractions."""

    def category_factor(category):
        frequency = Fraction(sum(category in picture for picture in pictures), len(pictures))
        return max(1.0, math.sqrt(Fraction(threshold) / frequency))

    return [max((category_factor(category) for category in picture), default=1.0) for picture in pictures]


def test_the_example_of_detectron2s_own_test():
    np.testing.assert_allclose(factors_of([[0, 1], [0], []], 0.5), [math.sqrt(3 / 2), 1.0, 1.0], rtol=1e-15)


@given(st.lists(st.lists(st.integers(1, 12), max_size=5), min_size=1, max_size=30), st.sampled_from([0.0, 0.1, 0.5, 1]))
def test_factors_follow_the_papers_formula(pictures, threshold):
    factors = factors_of(pictures, threshold)
    assert factors.dtype == np.float64
    np.testing.assert_allclose(factors, by_the_formula(pictures, threshold), rtol=1e-14)


def test_lvis_default_repeats_a_category_of_one_picture_in_100_000_ten_times():
    offsets = np.minimum(np.arange(100_001), 1)
    assert repeat_factors(np.array([5]), offsets).tolist()[:2] == [pytest.approx(10), 1]


@given(st.lists(st.floats(1, 9), min_size=1, max_size=40), st.integers(0, 2**40), st.integers(0, 30))
def test_every_picture_comes_its_factor_rounded_down_or_up(factors, seed, epoch):
    indices = epoch_indices(np.array(factors), seed, epoch)
    copies = np.bincount(indices, minlength=len(factors))
    assert indices.dtype == np.int64
    assert (np.abs(copies - factors) < 1 + 1e-9).all()
    assert math.floor(sum(factors) - 1e-9) <= len(indices) <= math.floor(sum(factors) + 1e-9) + 1


def test_copies_equal_the_factor_on_average():
    factors = np.array([1.0, 1.3, 2.75, 1.05, 3.5])
    copies = sum(np.bincount(epoch_indices(factors, 3, epoch), minlength=5) for epoch in range(4000)) / 4000
    np.testing.assert_allclose(copies, factors, atol=0.03)


def test_without_repeats_an_epoch_is_a_permutation():
    assert sorted(epoch_indices(np.ones(500), 1, 0).tolist()) == list(range(500))


def test_an_epoch_depends_on_seed_and_epoch_only():
    factors = np.full(300, 1.4)
    first = epoch_indices(factors, 7, 2)
    np.testing.assert_array_equal(first, epoch_indices(factors, 7, 2))
    assert first.tolist() != epoch_indices(factors, 7, 3).tolist()
    assert first.tolist() != epoch_indices(factors, 8, 2).tolist()


def test_the_order_is_shuffled():
    indices = epoch_indices(np.ones(1000), 0, 0)
    assert abs(np.corrcoef(indices, np.arange(1000))[0, 1]) < 0.15
