"""Reading views in the order of the lanes: block by block, each once a round."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.cache.codec import LabelledView
from richsem_schemas.cache.index import Rows, view_names
from richsem_schemas.cache.layout import BLOCK_SAMPLES
from richsem_schemas.cache.shard import PictureShard
from richsem_schemas.cache.span import Span
from richsem_schemas.cache.view_batch import ShardPictures
from richsem_schemas.errors import CorruptCacheError, RichSemError
from richsem_train.data.cache.lanes import ViewAddress, block_order, view_order
from richsem_train.data.cache.lru import LruCache
from richsem_train.data.cache.views import ReadView, ShardIndex, ViewSource

SPARE_SHARDS = 16
"""Indexes that a reader keeps beyond one a lane, for the end of a round; about 1 MB each."""


@dataclass(frozen=True, eq=False)
class _BlockOrder:
    """The blocks of a shard in the order of a round, and the position of each one's first view."""

    blocks: NDArray[np.int64]
    starts: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Block:
    """A block in memory: its views of some passes, each in the order of the round, and its pictures undecoded."""

    names: list[str]
    passes: list[list[LabelledView]]
    shard: PictureShard
    pictures: Rows
    span: Span | None

    @property
    def bytes(self) -> int:
        views = [view for views in self.passes for view in views]
        embeddings = sum(v.embeddings.nbytes for v in views if v.embeddings is not None)
        labels = sum(v.labels.class_ids.nbytes * 2 for v in views)
        return embeddings + labels + 4096 * len(views) + (len(self.span.data) if self.span else 0)


class BlockReader:
    """Reads views by their address; keeps the blocks and indexes that lanes are in the middle of.

    Opens nothing before the first view is asked for, so it may be handed to worker processes. With `whole_blocks` the
    pictures of a block are read at once; otherwise each when it is needed, for lanes whose blocks wouldn't fit in
    `block_bytes` all together. With `all_passes` the views of all passes are read with each; a view of every sample is
    a must then.
    """

    def __init__(
        self,
        source: ViewSource,
        *,
        seed: int,
        lanes: int,
        block_bytes: int,
        whole_blocks: bool = True,
        all_passes: bool = False,
    ) -> None:
        self.source = source
        self._all_passes = all_passes
        self._seed = seed
        self._whole_blocks = whole_blocks
        self._indexes: LruCache[ShardIndex] = LruCache(lanes + SPARE_SHARDS)
        self._orders: LruCache[_BlockOrder] = LruCache(lanes + SPARE_SHARDS)
        self._blocks: LruCache[_Block] = LruCache(block_bytes, lambda block: block.bytes)
        self.blocks_read = 0

    def read(self, address: ViewAddress) -> ReadView:
        """Read one view and decode its pictures.

        Raises:
            DamagedViewError: it can't be read, or is not what was written.
        """
        with self._damage_named(address):
            block, position = self._located(address)
            labelled = self._of_pass(block, position, address)
            shown = np.searchsorted(block.pictures["sample"], np.unique(labelled.view.tiles["sample"]))
            pictures = self.source.decode(block.shard, block.pictures[shown], span=block.span)
            views = tuple(views[position] for views in block.passes) if self._all_passes else ()
            return ReadView(block.names[position], labelled, pictures, views)

    def view(self, address: ViewAddress) -> LabelledView:
        """Read one view, and none of its pictures.

        Raises:
            DamagedViewError: it can't be read, or is not what was written.
        """
        with self._damage_named(address):
            return self._of_pass(*self._located(address), address)

    @contextmanager
    def _damage_named(self, address: ViewAddress) -> Iterator[None]:
        try:
            yield
        except (RichSemError, OSError) as error:
            raise self.source.damaged(address.shard, error) from error

    def _located(self, address: ViewAddress) -> tuple[_Block, int]:
        """The block of a view, and the view's position in it."""
        shard, key = address.shard, (address.round, address.shard)
        index = self._indexes.get(shard, lambda: self.source.read_index(shard, check_labels=True))
        order = self._orders.get(key, lambda: self._block_order(address, index))
        slot = int(np.searchsorted(order.starts, address.position, side="right")) - 1
        number = int(order.blocks[slot])
        block = self._blocks.get((*key, number), lambda: self._read_block(address, index, number))
        return block, address.position - int(order.starts[slot])

    def _of_pass(self, block: _Block, position: int, address: ViewAddress) -> LabelledView:
        return block.passes[address.pass_index if self._all_passes else 0][position]

    def _block_order(self, address: ViewAddress, index: ShardIndex) -> _BlockOrder:
        blocks, counts = np.unique(index.views[address.pass_index]["sample"] // BLOCK_SAMPLES, return_counts=True)
        order = block_order(len(blocks), seed=self._seed, round_=address.round, shard=address.shard)
        return _BlockOrder(blocks[order], np.cumsum(counts[order]) - counts[order])

    def _read_block(self, address: ViewAddress, index: ShardIndex, number: int) -> _Block:
        self.blocks_read += 1
        source, shard = self.source, address.shard
        pictures, labels = source.picture_shard(shard), source.label_shard(shard)
        shown = index.views if self._all_passes else index.views[[address.pass_index]]
        by_pass = [_of_block(rows, number) for rows in shown]
        if any(not np.array_equal(rows["sample"], by_pass[0]["sample"]) for rows in by_pass):
            raise CorruptCacheError(f"its index has other samples in one pass than in another, in block {number}")
        order = view_order(len(by_pass[0]), seed=self._seed, round_=address.round, shard=shard, block=number)
        rows = np.concatenate([each[order] for each in by_pass])
        picture_rows = _of_block(index.pictures, number)
        known = ShardPictures.of_rows(picture_rows, source.plan)
        views = labels.sound_views(rows, known, source.spec, span=labels.span(rows))
        is_copied = self._whole_blocks and source.plan.pictures == "copy"
        return _Block(
            view_names(by_pass[address.pass_index if self._all_passes else 0][order]),
            [views[first : first + len(order)] for first in range(0, len(views), len(order))],
            pictures,
            picture_rows,
            pictures.span(picture_rows) if is_copied else None,
        )


def _of_block(rows: Rows, number: int) -> Rows:
    return rows[rows["sample"] // BLOCK_SAMPLES == number]
