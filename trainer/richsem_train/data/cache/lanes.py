"""The order of the extra views: a pure function of the seed and a counter, whoever asks and whenever.

Views are shown in rounds. A round is one stored pass: every view of it once. Its shards stand in a seeded order, the
blocks of a shard and the views of a block too; the row of all views is cut into equal lanes, from which samples are
drawn in turn. So a batch mixes many blocks, and yet each lane reads one block at a time, from its first view to its
last.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.cache.permutation import permuted

SHARD_STREAM = 111
BLOCK_STREAM = 112
VIEW_STREAM = 113
"""Set the orders of shards, blocks and views apart from other random numbers of the same seed."""


@dataclass(frozen=True)
class ViewAddress:
    """Where a view lies.

    Attributes:
        round: how many rounds came before; keys the orders within the shard.
        pass_index: the stored pass that the round shows.
        shard: number of the shard.
        position: in the shard's order of the round, counted over its blocks.
    """

    round: int
    pass_index: int
    shard: int
    position: int


@dataclass(frozen=True, eq=False)
class LaneOrder:
    """The order of all views of a kind.

    Attributes:
        shard_views: int64 [S], how many views one pass has in each shard.
        passes: how many passes are stored.
        lanes: how many blocks a run of samples is drawn from.
        seed: of the run.
        views_per_sample: consecutive views that make one sample; 4 where mosaics are composed.
    """

    shard_views: NDArray[np.int64]
    passes: int
    lanes: int
    seed: int
    views_per_sample: int = 1

    @functools.cached_property
    def views_per_round(self) -> int:
        """How many views a pass has."""
        return int(self.shard_views.sum())

    @functools.cached_property
    def samples_per_round(self) -> int:
        """How many samples show all of them; the last one borrows what it lacks from the round's beginning."""
        return -(-self.views_per_round // self.views_per_sample)

    def addresses(self, counter: int) -> tuple[ViewAddress, ...]:
        """The views of a sample."""
        return tuple(self.address(round_, position) for round_, position in self._positions(counter))

    def _positions(self, counter: int) -> list[tuple[int, int]]:
        """Rounds and positions of a sample's views in the row of all views of a round."""
        round_, index = divmod(counter, self.samples_per_round)
        lane, offset = index % self.lanes, index // self.lanes
        shorter, longer = divmod(self.samples_per_round, self.lanes)
        first = (lane * shorter + min(lane, longer) + offset) * self.views_per_sample
        return [(round_, (first + view) % self.views_per_round) for view in range(self.views_per_sample)]

    def candidates(self, address: ViewAddress) -> Iterator[ViewAddress]:
        """A view, then those to take where it is damaged: 1, 2, 4, 8.. positions on in the same round, and round it.

        Near ones first, since a lane has them at hand; doubling, so that a damaged block or shard is left soon.
        """
        yield address
        shards, starts = _shard_order(self, address.round)
        position = int(starts[np.flatnonzero(shards == address.shard)[0]]) + address.position
        step = 1
        while step < self.views_per_round:
            yield self.address(address.round, (position + step) % self.views_per_round)
            step *= 2

    def address(self, round_: int, position: int) -> ViewAddress:
        """The view at a position of the row of all views of a round."""
        shards, starts = _shard_order(self, round_)
        slot = int(np.searchsorted(starts, position, side="right")) - 1
        return ViewAddress(round_, round_ % self.passes, int(shards[slot]), position - int(starts[slot]))


# Two rounds: around its end, the next one has begun in other lanes.
@functools.lru_cache(maxsize=4)
def _shard_order(order: LaneOrder, round_: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Shards in the order of a round, and the position of each one's first view."""
    count = len(order.shard_views)
    seed = int(np.random.SeedSequence([order.seed, SHARD_STREAM, round_]).generate_state(1, np.uint32)[0])
    shards = permuted(np.arange(count), size=count, seed=seed)
    views = order.shard_views[shards]
    return shards, np.cumsum(views) - views


def block_order(blocks: int, *, seed: int, round_: int, shard: int) -> NDArray[np.int64]:
    """The order of a shard's blocks in a round."""
    return np.random.default_rng([seed, BLOCK_STREAM, round_, shard]).permutation(blocks)


def view_order(views: int, *, seed: int, round_: int, shard: int, block: int) -> NDArray[np.int64]:
    """The order of a block's views in a round."""
    return np.random.default_rng([seed, VIEW_STREAM, round_, shard, block]).permutation(views)
