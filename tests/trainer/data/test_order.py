from itertools import chain

import pytest

from richsem_schemas.errors import RichSemError
from richsem_train.data.order import RankShare, batch_of_step, epoch_batches, first_batch_from


def test_detection_and_extra_batches_alternate_by_counter():
    steps = [batch_of_step(step, has_extra=True) for step in range(6)]
    assert [step.kind for step in steps] == ["detection", "extra"] * 3
    assert [step.number for step in steps] == [0, 0, 1, 1, 2, 2]


def test_without_extra_data_every_step_is_detection():
    assert [batch_of_step(step, has_extra=False) for step in range(3)] == [
        batch_of_step(2 * step, has_extra=True) for step in range(3)
    ]


@pytest.mark.parametrize("has_extra", [False, True])
@pytest.mark.parametrize("start", range(7))
def test_the_first_batch_from_a_step_is_the_one_that_it_or_the_next_reads(start, has_extra):
    for kind in ("detection", "extra") if has_extra else ("detection",):
        expected = next(
            batch.number
            for batch in (batch_of_step(step, has_extra=has_extra) for step in range(start, start + 2))
            if batch.kind == kind
        )
        assert first_batch_from(start, kind, has_extra=has_extra) == expected


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_ranks_share_a_batch_without_overlap_in_turn(world_size):
    shares = [RankShare(8, rank, world_size).counters(5) for rank in range(world_size)]
    assert sorted(chain.from_iterable(shares)) == list(range(40, 48))
    assert all(counter % world_size == rank for rank, share in enumerate(shares) for counter in share)


def test_a_batch_that_ranks_can_not_share_is_refused():
    with pytest.raises(RichSemError, match="8 pictures can't be shared by 3 ranks"):
        RankShare(8, 0, 3)


def test_an_epoch_has_whole_batches_only():
    assert epoch_batches(35, 8) == 4
    with pytest.raises(RichSemError, match="7 detection pictures doesn't fill one batch of 8"):
        epoch_batches(7, 8)
