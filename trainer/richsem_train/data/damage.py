"""What is done about pictures and views that can't be read: the same for all kinds of data."""

from collections.abc import Callable, Iterable
from typing import Literal, TypeVar

from richsem_schemas.errors import CorruptCacheError, PictureError

MAX_DAMAGED_IN_A_ROW = 16
"""So many damaged pictures beside each other are no accident; training stops even when told to skip."""

OnDamage = Literal["stop", "skip"]
"""What to do about a picture or view that is missing or broken: stop, or take another one and tell."""


class DamagedViewError(CorruptCacheError):
    """A view can't be read; names its shard, the reason and the remedy."""


_Place = TypeVar("_Place")
_Read = TypeVar("_Read")


def first_whole(
    candidates: Iterable[_Place], read: Callable[[_Place], _Read], *, on_damage: OnDamage
) -> tuple[_Place, _Read, tuple[str, ...]]:
    """Read a picture or a view, or one that takes its place.

    Args:
        candidates: the one that is asked for, then those that may take its place.
        read: reads one of them.
        on_damage: "stop" reads none but the first.

    Returns:
        Which one was read; what was read; a message for each damaged one before it.

    Raises:
        PictureError, DamagedViewError: as `read` raises it; nor can those be read that may take its place.
    """
    damage: list[PictureError | DamagedViewError] = []
    for candidate in candidates:
        try:
            return candidate, read(candidate), tuple(map(str, damage))
        except (PictureError, DamagedViewError) as error:
            if on_damage == "stop":
                raise
            damage.append(error)
    raise type(damage[0])(
        f"{damage[0]}; the {len(damage) - 1} tried in its place are missing, damaged or left out as well: check the "
        "folder that they lie in"
    )
