import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from richsem_schemas.cache.permutation import permuted

IMAGENET_21K = 14_000_000


def whole(size, seed):
    return permuted(np.arange(size), size=size, seed=seed)


@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_it_is_a_bijection_for_every_small_size(seed):
    for size in range(1, 140):
        assert sorted(whole(size, seed).tolist()) == list(range(size))


@pytest.mark.parametrize("size", [255, 256, 257, 1_023, 1_024, 1_025, 4_095, 4_096, 4_097, 100_003])
def test_it_is_a_bijection_around_powers_of_two(size):
    assert np.array_equal(np.sort(whole(size, 7)), np.arange(size))


@settings(max_examples=50, deadline=None)
@given(size=st.integers(1, 5_000), seed=st.integers(0, 2**64))
def test_it_is_a_bijection_for_any_size_and_seed(size, seed):
    assert np.array_equal(np.sort(whole(size, seed)), np.arange(size))


def test_another_seed_is_another_order():
    orders = [whole(1_000, seed) for seed in range(20)]
    agreements = [(a == b).sum() for i, a in enumerate(orders) for b in orders[:i]]
    # Two random orders agree in one place on average.
    assert max(agreements) < 10


def test_golden_values_never_change():
    # A cache is joined by these: another value here is another format version.
    assert whole(1, 0).tolist() == [0]
    assert whole(10, 7).tolist() == [2, 0, 8, 5, 6, 3, 7, 1, 4, 9]
    assert permuted(np.arange(6), size=1_000, seed=2_024).tolist() == [908, 887, 433, 399, 37, 621]
    expected = [10359589, 13725554, 13185811, 6481246, 9689268, 10317263, 118769, 1519017]
    assert permuted(np.arange(8), size=IMAGENET_21K, seed=0).tolist() == expected


@settings(max_examples=50, deadline=None)
@given(data=st.data(), size=st.integers(1, 3_000))
def test_any_subset_in_any_order_equals_the_whole(data, size):
    positions = data.draw(st.lists(st.integers(0, size - 1), max_size=40))
    assert np.array_equal(permuted(np.array(positions, int), size=size, seed=3), whole(size, 3)[positions])


def test_the_shape_of_the_positions_is_kept():
    positions = np.arange(12).reshape(3, 4)
    assert np.array_equal(permuted(positions, size=50, seed=1), whole(50, 1)[positions])
    assert permuted(np.zeros((0, 3), int), size=50, seed=1).shape == (0, 3)
    assert permuted(positions, size=50, seed=1).dtype == np.int64


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("size", [1, 2, 5, 1_000])
def test_a_single_position_without_axes_is_looked_up(size):
    expected = permuted(np.array([size - 1]), size=size, seed=1)[0]
    assert permuted(np.array(size - 1), size=size, seed=1) == expected


def test_the_positions_given_are_left_alone():
    positions = np.arange(100, dtype=np.uint64)
    permuted(positions, size=100, seed=1)
    assert np.array_equal(positions, np.arange(100))


@pytest.mark.parametrize("position", [10, 11, 2**40, -1])
def test_a_position_outside_of_the_range_is_refused(position):
    with pytest.raises(ValueError, match="10"):
        permuted(np.array([0, position]), size=10, seed=0)


@pytest.mark.parametrize("seed", range(4))
def test_neighbours_do_not_stay_neighbours(seed):
    # Pictures of one class lie together in a listing; classes of 1,300, blocks of 64.
    size = 130_000
    rows = whole(size, seed)
    steps = np.abs(np.diff(rows))
    assert (steps < 1_300).mean() < 0.03  # 0.02 for a random order
    assert abs(steps.mean() / (size / 3) - 1) < 0.05
    classes = (rows // 1_300)[: size // 64 * 64].reshape(-1, 64)
    distinct = np.array([len(np.unique(block)) for block in classes])
    # 64 balls in 100 urns occupy 100 (1 - 0.99^64) = 47.4 on average.
    assert abs(distinct.mean() - 47.4) < 0.5
    assert distinct.min() > 30


def test_a_shard_of_fourteen_millions_costs_little_time_and_memory():
    positions = np.arange(7_000_000, 7_001_024)
    permuted(positions[:1], size=IMAGENET_21K, seed=5)
    tracemalloc.start()
    rows = permuted(positions, size=IMAGENET_21K, seed=5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(np.unique(rows)) == 1_024
    assert peak < 2**20
