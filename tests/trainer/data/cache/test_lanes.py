import itertools
from collections import defaultdict
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from richsem_train.data.cache.lanes import LaneOrder, block_order, view_order
from richsem_train.data.order import RankShare

COUNTS = st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any)


def order_of(counts, *, passes=2, lanes=8, seed=0, views_per_sample=1):
    return LaneOrder(np.array(counts, np.int64), passes, lanes, seed, views_per_sample)


def lane_of(order, counter):
    return counter % order.samples_per_round % order.lanes


def spots(order, round_):
    """(shard, position) of every view that a round's samples show, in the order of the counter."""
    first = round_ * order.samples_per_round
    places = [place for n in range(first, first + order.samples_per_round) for place in order.places(n)]
    assert {place.round for place in places} == {round_}
    return [(place.shard, place.position) for place in places]


@settings(max_examples=25, deadline=None)
@given(COUNTS, st.integers(1, 20), st.integers(0, 3), st.integers(0, 2**31))
def test_a_round_shows_every_view_once(counts, lanes, round_, seed):
    shown = spots(order_of(counts, lanes=lanes, seed=seed), round_)
    assert sorted(shown) == [(shard, position) for shard, count in enumerate(counts) for position in range(count)]


@settings(max_examples=25, deadline=None)
@given(COUNTS, st.integers(1, 20), st.integers(0, 3))
def test_a_round_of_fours_shows_every_view_and_borrows_at_most_three(counts, lanes, round_):
    order = order_of(counts, lanes=lanes, views_per_sample=4)
    shown = spots(order, round_)
    assert set(shown) == {(shard, position) for shard, count in enumerate(counts) for position in range(count)}
    assert len(shown) == -(-sum(counts) // 4) * 4


@settings(max_examples=25, deadline=None)
@given(COUNTS, st.integers(1, 20))
def test_a_lane_reads_on_from_view_to_view(counts, lanes):
    order = order_of(counts, lanes=lanes)
    by_lane = defaultdict(list)
    for n in range(order.samples_per_round):
        by_lane[lane_of(order, n)].append(order.places(n)[0])
    for places in by_lane.values():
        for before, after in itertools.pairwise(places):
            assert (after.shard == before.shard and after.position == before.position + 1) or after.position == 0


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=12), st.integers(1, 20))
def test_each_block_is_read_by_one_lane_but_at_the_cuts(blocks_of_shards, lanes):
    in_block = 16
    order = order_of([blocks * in_block for blocks in blocks_of_shards], lanes=lanes)
    readers = defaultdict(set)
    for n in range(order.samples_per_round):
        place = order.places(n)[0]
        readers[place.shard, place.position // in_block].add(lane_of(order, n))
    extra_readers = sum(len(lanes_of_block) - 1 for lanes_of_block in readers.values())
    assert extra_readers <= lanes - 1


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("pictures_a_draw", [1, 2])
@pytest.mark.parametrize("round_", [0, 1, 2])
def test_ranks_own_whole_lanes_within_a_round(world_size, pictures_a_draw, round_):
    order = order_of([48, 31, 50], lanes=8)
    first, end = round_ * order.samples_per_round, (round_ + 1) * order.samples_per_round
    owner = defaultdict(set)
    for rank in range(world_size):
        share = RankShare(8, rank, world_size, pictures_a_draw)
        for counter in chain.from_iterable(share.counters(batch) for batch in range(first // 8, end // 8 + 1)):
            if first <= counter < end:
                owner[lane_of(order, counter)].add(rank)
    assert sorted(owner) == list(range(8))
    assert all(len(ranks) == 1 for ranks in owner.values())


def test_rounds_show_the_stored_passes_in_turn_and_in_other_orders():
    order = order_of([5] * 12, passes=2)
    rounds = [spots(order, round_) for round_ in range(3)]
    passes = [order.places(round_ * order.samples_per_round)[0].pass_index for round_ in range(3)]
    assert passes == [0, 1, 0]
    assert len({tuple(shown) for shown in rounds}) == 3


def test_the_order_is_a_function_of_the_seed():
    one, same, other = (spots(order_of([30] * 6, seed=seed), 0) for seed in (1, 1, 2))
    assert one == same != other


def test_blocks_and_views_are_permuted_anew_each_round():
    assert sorted(block_order(16, seed=0, round_=0, shard=3)) == list(range(16))
    assert sorted(view_order(16, seed=0, round_=0, shard=3, block=2)) == list(range(16))
    orders = {tuple(block_order(16, seed=0, round_=round_, shard=shard)) for round_ in range(3) for shard in range(3)}
    assert len(orders) == 9


@settings(max_examples=25, deadline=None)
@given(COUNTS, st.integers(0, 1000))
def test_substitutes_are_other_views_of_the_round_and_end(counts, n):
    order = order_of(counts)
    place, *others = order.candidates(order.places(n)[0])
    assert place == order.places(n)[0]
    for other in others:
        assert (other.shard, other.position) != (place.shard, place.position)
        assert other.round == place.round
        assert other.position < counts[other.shard]
    assert 2 ** len(others) >= order.views_per_round


def test_substitutes_leave_a_damaged_shard_within_a_few_steps():
    order = order_of([256] * 50)
    place, *others = itertools.islice(order.candidates(order.places(123)[0]), 10)
    assert {other.shard for other in others} != {place.shard}
