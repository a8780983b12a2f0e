import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from richsem_schemas.errors import RichSemError
from richsem_train.data.repeat_factor import auto_threshold, class_aware_factors, epoch_indices, repeat_factors


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


# A threshold for any data.


def auto_factors(pictures):
    """Of each category the largest factor of its pictures that show nothing else."""
    ids = np.array([category for picture in pictures for category in picture], np.int64)
    offsets = np.cumsum([0] + [len(picture) for picture in pictures])
    threshold = auto_threshold(ids, offsets)
    factors = repeat_factors(ids, offsets, threshold=threshold)
    alone = {
        picture[0]: factor for picture, factor in zip(pictures, factors.tolist(), strict=True) if len(picture) == 1
    }
    return threshold, alone


def counted(*counts, empty=0):
    return [[category] for category, count in enumerate(counts, 1) for _ in range(count)] + [[]] * empty


def test_on_data_of_lviss_size_the_threshold_is_lviss():
    assert auto_factors(counted(1, 10, 100, 101, 5_000, empty=100_170 - 5_212))[0] == 0.001
    assert auto_factors(counted(2, 3, empty=200_000))[0] == 0.001


def test_factors_of_a_category_are_those_of_as_many_pictures_in_lvis_however_few_pictures_there_are():
    threshold, factors = auto_factors(counted(1, 4, 25, 100, 101, 3_000))
    assert threshold == 100 / 3_231
    assert factors == pytest.approx({1: 10, 2: 5, 3: 2, 4: 1, 5: 1, 6: 1})


def test_of_few_pictures_those_of_the_rarer_classes_are_repeated_up_to_a_frequent_one():
    # Thirds, since LVIS's rule calls them all common: frequent is from 48 on.
    _, factors = auto_factors(counted(12, 12, 27, 48, 75))
    assert factors == pytest.approx({1: 2, 2: 2, 3: 4 / 3, 4: 1, 5: 1})


@pytest.mark.parametrize("counts", [(120, 300, 5_000), (9, 9, 9), (40,), (101, 101)])
def test_where_no_category_is_rare_none_is_repeated(counts):
    assert set(auto_factors(counted(*counts))[1].values()) == {1.0}


def test_where_most_have_one_count_only_those_below_are_repeated():
    assert auto_factors(counted(8, 8, 8, 8, 2))[1] == pytest.approx({1: 1, 2: 1, 3: 1, 4: 1, 5: 2})


def test_without_boxes_nothing_is_repeated():
    assert auto_factors([[], []]) == (0.001, {})


@given(st.lists(st.integers(1, 400), min_size=1, max_size=9))
def test_no_factor_is_above_ten_nor_below_one_and_rarer_categories_have_the_larger_ones(counts):
    threshold, factors = auto_factors(counted(*counts))
    assert 0.001 <= threshold <= 1
    by_count = [factors[number] for number in 1 + np.argsort(counts, kind="stable")]
    assert by_count == sorted(by_count, reverse=True)
    assert 1 <= min(by_count) <= max(by_count) <= 10 + 1e-9


# By category.


def class_aware(pictures, count):
    ids = np.array([category for picture in pictures for category in picture], np.int64)
    offsets = np.cumsum([0] + [len(picture) for picture in pictures])
    return class_aware_factors(ids, offsets, pictures=count)


def drawn_in_two_steps(pictures):
    """How probable each picture is: a category, all alike, then a picture that shows it; exact fractions."""
    categories = {category for picture in pictures for category in picture}
    chance = [Fraction(0)] * len(pictures)
    for category in categories:
        showing = [index for index, picture in enumerate(pictures) if category in picture]
        for index in showing:
            chance[index] += Fraction(1, len(categories) * len(showing))
    return chance


@given(
    st.lists(st.lists(st.integers(1, 12), max_size=5), min_size=1, max_size=30).filter(any), st.integers(1, 1_000_000)
)
def test_class_aware_factors_are_those_of_a_draw_of_a_category_then_of_a_picture(pictures, count):
    factors = class_aware(pictures, count)
    chances = drawn_in_two_steps(pictures)
    assert sum(chances) == 1
    np.testing.assert_allclose(factors, [float(chance * (2 * count + 1) / 2) for chance in chances], rtol=1e-12)


def test_every_category_has_the_same_share_however_rare_it_is():
    pictures = [[1]] * 900 + [[2]] * 90 + [[3]] + [[]] * 9
    counts = np.zeros(4, int)
    for epoch in range(50):
        indices = epoch_indices(class_aware(pictures, 300), 5, epoch)
        assert len(indices) in {300, 301}
        for index in indices:
            counts[pictures[index][0]] += 1
    np.testing.assert_allclose(counts[1:] / counts.sum(), 1 / 3, atol=2e-3)
    # The only picture of category 3 comes a hundred times an epoch.
    assert np.count_nonzero(indices == 990) in {100, 101}


@given(st.integers(2, 3000), st.integers(0, 1000), st.integers(0, 5))
def test_an_epoch_by_category_is_never_shorter_than_asked(count, seed, epoch):
    pictures = [[index % 7, index % 3] for index in range(97)]
    assert len(epoch_indices(class_aware(pictures, count), seed, epoch)) in {count, count + 1}


def test_without_boxes_no_category_can_be_drawn():
    with pytest.raises(RichSemError, match=r"no boxes.*set detection\.class_aware_pictures to null"):
        class_aware([[], []], 10)
