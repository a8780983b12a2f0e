"""Reading windows of single pictures, in whatever order: views by one ranged read, sidecar and picture by another."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.lib.recfunctions import repack_fields

from richsem_schemas.cache.index import PICTURE_ROW, VIEW_ROW, Rows, view_names
from richsem_schemas.cache.layout import sample_key
from richsem_schemas.cache.view_batch import ShardPictures
from richsem_schemas.errors import CorruptCacheError, RichSemError
from richsem_train.data.cache.lru import LruCache
from richsem_train.data.cache.views import ReadView, ShardIndex, ViewSource
from richsem_train.data.damage import DamagedViewError

INDEX_BYTES = 128 * 2**20
"""Most bytes of indexes that a worker keeps: 600 shards of 1,024 pictures with four windows each."""

_BETWEEN_BYTES = 2048
"""A tar's header and padding, and room."""


@dataclass(frozen=True, eq=False)
class _CompactIndex:
    """A `ShardIndex` of windows without its strings, which would take most of the memory, but for the pictures' names.

    Every picture has its windows, so picture and windows of a sample stand at one position.
    """

    pictures: Rows
    windows: Rows
    names: pa.Array

    @classmethod
    def of(cls, index: ShardIndex) -> "_CompactIndex":
        return cls(_numbers(index.pictures), _numbers(index.views), pa.array(index.pictures["name"], pa.string()))

    @property
    def bytes(self) -> int:
        return self.pictures.nbytes + self.windows.nbytes + self.names.nbytes

    def rows(self, shard: int, sample: int, passes: Sequence[int]) -> tuple[Rows, Rows]:
        """The row of a picture, [1], and those of some of its windows."""
        key = sample_key(shard, sample)
        position = int(np.searchsorted(self.pictures["sample"], sample))
        if position == len(self.pictures) or self.pictures["sample"][position] != sample:
            raise CorruptCacheError(f"it has no {key}")
        picture = _whole(self.pictures[[position]], PICTURE_ROW, key=key, name=self.names[position].as_py())
        return picture, _whole(self.windows[list(passes), position], VIEW_ROW, key=key, kind="window")


def _numbers(rows: Rows) -> Rows:
    names = rows.dtype.names or ()
    return np.asarray(repack_fields(rows[[name for name in names if not rows.dtype[name].hasobject]]))


def _whole(numbers: Rows, row_dtype: np.dtype, **strings: str) -> Rows:
    rows: Rows = np.zeros(len(numbers), row_dtype)
    for name in numbers.dtype.names or ():
        rows[name] = numbers[name]
    for name, value in strings.items():
        rows[name] = value
    return rows


class WindowReader:
    """Reads windows of one picture; keeps the indexes of the shards that were used last, up to `index_bytes`.

    Opens nothing before the first one is asked for, so it may be handed to worker processes. Unlike blocks of extra
    data, which are read once each, windows are read at random, so the label shards are not hashed as a whole: what is
    read is checked view by view.
    """

    def __init__(self, source: ViewSource, *, index_bytes: int = INDEX_BYTES) -> None:
        self.source = source
        self._indexes: LruCache[_CompactIndex] = LruCache(index_bytes, lambda index: index.bytes)

    def read(self, position: int, passes: Sequence[int]) -> list[ReadView]:
        """Read some of a picture's windows, and decode it once; its position counts over all shards of the plan.

        Raises:
            DamagedViewError: one can't be read, or is not what was written.
        """
        shard, sample = divmod(position, self.source.plan.samples_per_shard)
        try:
            return self._read(shard, sample, passes)
        except (RichSemError, OSError) as error:
            raise self.damaged(position, error) from error

    def damaged(self, position: int, error: Exception) -> DamagedViewError:
        """The error that names what is wrong with a picture's shard."""
        return self.source.damaged(position // self.source.plan.samples_per_shard, error)

    def _read(self, shard: int, sample: int, passes: Sequence[int]) -> list[ReadView]:
        source = self.source
        index = self._indexes.get(shard, lambda: _CompactIndex.of(source.read_index(shard, check_labels=False)))
        picture, windows = index.rows(shard, sample, passes)
        stored, labels = source.picture_shard(shard), source.label_shard(shard)
        span = labels.span(windows) if _are_near(windows) else None
        views = labels.sound_views(windows, ShardPictures.of_rows(picture, source.plan), source.spec, span=span)
        is_copied = source.plan.pictures == "copy"
        pictures = source.decode(stored, picture, span=stored.span(picture) if is_copied else None)
        return [ReadView(name, view, pictures) for name, view in zip(view_names(windows), views, strict=True)]


def _are_near(views: Rows) -> bool:
    """Whether little lies between some views but a tar's own blocks; their jitters are much."""
    first, last = views["offset"].min(), (views["offset"] + views["size"]).max()
    return bool(last - first <= (2 * views["size"] + _BETWEEN_BYTES).sum())
