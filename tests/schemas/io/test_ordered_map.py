import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice

import pytest

from richsem_schemas.io.ordered_map import ordered_map


@pytest.fixture
def pool():
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.mark.parametrize("ahead", [0, 1, 3, 100])
@pytest.mark.parametrize("items", [0, 1, 2, 50])
def test_results_come_in_the_order_of_the_items(pool, ahead, items):
    def slow_when_even(item):
        time.sleep(0.002 * (item % 2 == 0))
        return item * item

    assert list(ordered_map(pool, slow_when_even, range(items), ahead=ahead)) == [i * i for i in range(items)]


@pytest.mark.parametrize("ahead", [0, 1, 5])
def test_no_more_than_the_bound_is_in_flight(pool, ahead):
    taken = 0

    def items():
        nonlocal taken
        for item in range(40):
            taken += 1
            yield item

    for done, _ in enumerate(ordered_map(pool, lambda item: item, items(), ahead=ahead)):
        # `done` results were used before this one, which is in our hands.
        assert taken <= done + 1 + ahead


@pytest.mark.parametrize("ahead", [0.5, 2, 9])
def test_what_is_taken_ahead_is_bounded_by_its_weight(pool, ahead):
    weights = [0.25, 3, 0.5, 0.5, 0.25, 7, 1, 1, 0.25, 0.25, 0.25, 2] * 4
    taken = []

    def items():
        for number in range(len(weights)):
            taken.append(number)
            yield number

    results = ordered_map(pool, lambda item: item, items(), ahead=ahead, weigh=lambda item: weights[item])
    for done in results:
        behind = taken[done + 1 :]
        # Enough wait, and not one more than it takes; at the end, what is left.
        assert sum(weights[item] for item in behind) >= ahead or taken[-1] == len(weights) - 1
        assert sum(weights[item] for item in behind[:-1]) < ahead or taken[-1] == len(weights) - 1
    assert done == len(weights) - 1


def test_nothing_starts_before_the_first_result_is_asked_for(pool):
    started = []
    results = ordered_map(pool, started.append, range(10), ahead=5)
    time.sleep(0.02)
    assert started == []
    next(results)
    assert started


def test_work_goes_on_ahead_of_the_consumer(pool):
    met = threading.Barrier(3, timeout=10)
    # Each of three items waits for the other two: it ends only if all three run at once.
    assert list(ordered_map(pool, lambda _: met.wait() >= 0, range(3), ahead=3)) == [True] * 3


def test_endless_items_are_taken_as_they_are_needed(pool):
    assert list(islice(ordered_map(pool, lambda item: -item, count(), ahead=4), 6)) == [0, -1, -2, -3, -4, -5]


def test_an_exception_comes_where_its_result_would_have(pool):
    def fails_at_three(item):
        if item == 3:
            raise OSError("disk")
        return item

    results = ordered_map(pool, fails_at_three, range(10), ahead=8)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="disk"):
        next(results)
    assert list(results) == []


def test_of_several_exceptions_the_first_in_order_is_raised(pool):
    late = threading.Event()

    def fails(item):
        if item == 1:
            late.wait(10)
            raise ValueError("first in order")
        if item == 2:
            late.set()
            raise ValueError("first in time")
        return item

    results = ordered_map(pool, fails, range(4), ahead=4)
    assert next(results) == 0
    with pytest.raises(ValueError, match="first in order"):
        next(results)


def test_an_exception_of_the_items_comes_through(pool):
    def items():
        yield 1
        raise OSError("listing")

    with pytest.raises(OSError, match="listing"):
        list(ordered_map(pool, abs, items(), ahead=2))


@pytest.mark.parametrize("ending", ["close", "exception"])
def test_what_has_not_begun_is_cancelled_when_the_consumer_stops(ending):
    release, started = threading.Event(), []

    def work(item):
        started.append(item)
        if ending == "exception" and item == 0:
            raise OSError("disk")
        if item:
            release.wait(10)
        return item

    with ThreadPoolExecutor(1) as pool:
        results = ordered_map(pool, work, range(20), ahead=10)
        if ending == "exception":
            with pytest.raises(OSError, match="disk"):
                next(results)
        else:
            assert next(results) == 0
            results.close()
        release.set()
    assert len(started) <= 2
