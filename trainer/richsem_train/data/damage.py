"""Pictures and views that can't be read: training stops or takes others, in one way for all kinds of data."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from richsem_schemas.errors import CorruptCacheError, PictureError
from richsem_train.choices import OnDamage

MAX_DAMAGED_IN_A_ROW = 16
"""So many damaged pictures beside each other are no accident; training stops even when told to skip."""


class DamagedViewError(CorruptCacheError):
    """A view can't be read; names its shard, the reason and the remedy."""


_Candidate = TypeVar("_Candidate")
_Read = TypeVar("_Read")


def first_whole(
    candidates: Iterable[_Candidate], read: Callable[[_Candidate], _Read], *, on_damage: OnDamage
) -> tuple[_Candidate, _Read, tuple[str, ...]]:
    """Read a picture or a view, or one that takes its place.

    Args:
        candidates: the one that is asked for, then those that may take its place.
        read: reads one of them.
        on_damage: "stop" reads none but the first.

    Returns:
        The one that was read; its content as `read` gives it; a message for each damaged one before it.

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
