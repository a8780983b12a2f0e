from itertools import chain

import pytest

from richsem_schemas.errors import RichSemError
from richsem_train.data.order import RankShare, epoch_batches, first_batch_from, kind_of_step


def test_detection_and_extra_batches_alternate():
    assert [kind_of_step(step, has_extra=True) for step in range(6)] == ["detection", "extra"] * 3


def test_without_extra_data_every_step_is_detection():
    assert {kind_of_step(step, has_extra=False) for step in range(3)} == {"detection"}


@pytest.mark.parametrize("has_extra", [False, True])
@pytest.mark.parametrize("start", range(7))
def test_the_first_batch_from_a_step_is_the_one_after_those_that_earlier_steps_read(start, has_extra):
    earlier = [kind_of_step(step, has_extra=has_extra) for step in range(start)]
    for kind in ("detection", "extra") if has_extra else ("detection",):
        assert first_batch_from(start, kind, has_extra=has_extra) == earlier.count(kind)


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_ranks_share_a_batch_without_overlap_in_turn(world_size):
    shares = [RankShare(8, rank, world_size).counters(5) for rank in range(world_size)]
    assert sorted(chain.from_iterable(shares)) == list(range(40, 48))
    assert all(counter % world_size == rank for rank, share in enumerate(shares) for counter in share)


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("pictures_a_draw", [1, 2, 4])
def test_ranks_hold_whole_draws_in_turn(world_size, pictures_a_draw):
    shares = [RankShare(16, rank, world_size, pictures_a_draw) for rank in range(world_size)]
    assert sorted(chain.from_iterable(share.counters(5) for share in shares)) == list(range(80, 96))
    for share in shares:
        for number, counter in enumerate(share.counters(5)):
            draw, place = divmod(counter - 80, pictures_a_draw)
            assert (draw % world_size, draw // world_size) == (share.rank, number // pictures_a_draw)
            assert place == number % pictures_a_draw


@pytest.mark.parametrize(
    ("share", "message"),
    [
        ((8, 0, 3), r"8 pictures can't be shared by 3 ranks in whole draws of 1; use a multiple of 3 as schedule\.gl"),
        (
            (8, 0, 8, 2),
            r"8 pictures can't be shared by 8 ranks in whole draws of 2; use a multiple of 16 as schedule\.",
        ),
        ((16, 0, 8, 2, 8), r"2 pictures can't be cut into schedule\.accumulate 8 parts .* of 2; use a divisor of 1 as"),
        (
            (24, 0, 2, 2, 4),
            r"12 pictures can't be cut into schedule\.accumulate 4 parts .* of 2; use a divisor of 6 as",
        ),
    ],
)
def test_draws_are_not_torn(share, message):
    with pytest.raises(RichSemError, match=message):
        RankShare(*share)


def test_a_share_that_tears_draws_names_the_key_of_its_size():
    with pytest.raises(RichSemError, match=r"use a multiple of 4 as schedule\.extra_batch_size, fewer ranks"):
        RankShare(6, 0, 2, 2, key="schedule.extra_batch_size")


def test_an_epoch_has_whole_batches_only():
    assert epoch_batches(35, 8) == 4
    with pytest.raises(RichSemError, match="7 detection pictures doesn't fill one batch of 8"):
        epoch_batches(7, 8)
