"""A cache in memory that forgets the least recently used."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from richsem_schemas.errors import RichSemError

_Value = TypeVar("_Value")


class LruCache(Generic[_Value]):
    """Values up to a size; failures are remembered as well, so that a bad disk is not asked again.

    The newest value stays even where it alone is larger than the limit. Each counts 1 where no size is given.
    """

    def __init__(self, limit: int, size: Callable[[_Value], int] = lambda _: 1) -> None:
        self._limit = limit
        self._size = size
        self._used = 0
        self._items: OrderedDict[Hashable, tuple[int, _Value | Exception]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], _Value]) -> _Value:
        """The value under a key, made if need be."""
        if key in self._items:
            self._items.move_to_end(key)
        else:
            self._add(key, make)
        value = self._items[key][1]
        if isinstance(value, Exception):
            raise value.with_traceback(None)
        return value

    def _add(self, key: Hashable, make: Callable[[], _Value]) -> None:
        value: _Value | Exception
        try:
            value = make()
            size = self._size(value)
        except (RichSemError, OSError) as error:
            # Without the traceback, which would hold on to a half-read block.
            value, size = error.with_traceback(None), 1
        self._items[key] = size, value
        self._used += size
        while self._used > self._limit and len(self._items) > 1:
            _, (freed, _) = self._items.popitem(last=False)
            self._used -= freed
