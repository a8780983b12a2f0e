from collections import Counter

import pytest

from richsem_train.data.extra import ExtraMix, batch_of_mix
from richsem_train.data.order import RankShare
from tests.trainer.data.datasets import assert_same_sample, extra_of

WEIGHTS = [(1, 1), (2, 1), (1, 0.25), (0.1, 0.2, 0.7), (5, 1, 1, 1), (1,), (1e-3, 1e3)]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_each_source_gives_its_batches_in_turn_and_none_twice(weights):
    shown = [batch_of_mix(number, weights) for number in range(600)]
    for source in range(len(weights)):
        own = [batch for which, batch in shown if which == source]
        assert own == list(range(len(own)))


@pytest.mark.parametrize("weights", WEIGHTS)
def test_shares_are_those_of_the_weights_at_any_time(weights):
    shown = [batch_of_mix(number, weights)[0] for number in range(600)]
    for end in (1, 7, 60, 599):
        found = Counter(shown[:end])
        for source, weight in enumerate(weights):
            assert abs(found[source] - end * weight / sum(weights)) <= len(weights) / 2 + 1e-9


def test_two_equal_sources_alternate():
    assert [batch_of_mix(number, (1, 1))[0] for number in range(6)] == [0, 1, 0, 1, 0, 1]


def test_far_batches_are_found_at_once_and_exactly():
    assert [batch_of_mix(10**15 + n, (1, 3)) for n in (0, 1)] == [(1, 3 * 10**15 // 4), (0, 10**15 // 4)]


@pytest.fixture(scope="module")
def sources(finished_cache):
    return [extra_of(finished_cache, views=views) for views in ("mosaics", "crops")]


def test_a_batch_is_of_one_source_and_the_same_at_any_number_of_ranks(sources):
    mix = ExtraMix(sources, (1, 2))
    for number in range(12):
        alone = mix.batch_keys(number, RankShare(4))
        shared = [mix.batch_keys(number, RankShare(4, rank, 2)) for rank in range(2)]
        assert [key for pair in zip(*shared, strict=True) for key in pair] == alone
        assert len({source for source, _ in alone}) == 1


def test_a_sample_is_the_sources_own(sources):
    mix = ExtraMix(sources, (1, 2))
    for source, counter in mix.batch_keys(0, RankShare(4)) + mix.batch_keys(1, RankShare(4)):
        assert_same_sample(mix[source, counter], sources[source][counter])
