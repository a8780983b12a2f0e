"""What is done about pictures of detection data that can't be read."""

import logging
from collections.abc import Callable
from typing import Literal, TypeVar

from richsem_schemas.errors import PictureError
from richsem_train.data.cache.views import DamagedViewError

MAX_DAMAGED_IN_A_ROW = 16
"""So many damaged pictures beside each other are no accident; training stops even when told to skip."""

OnDamage = Literal["stop", "skip"]
"""What to do about a picture that is missing or broken: stop, or take the next one and log a warning."""

_Read = TypeVar("_Read")

_log = logging.getLogger(__name__)


def whole_picture(
    picture: int, read: Callable[[int], _Read], pictures: int, *, on_damage: OnDamage
) -> tuple[int, _Read, tuple[str, ...]]:
    """What is read of a picture, or where damage is skipped of the next whole one.

    Args:
        picture: its index.
        read: reads the one of an index.
        pictures: how many there are.
        on_damage: whether there is a next one.

    Returns:
        The index of the one that was read; what was read; a message for each that couldn't be.

    Raises:
        PictureError, DamagedViewError: as `read` raises it; nor can those be read that may take its place.
    """
    damage: list[PictureError | DamagedViewError] = []
    for step in range(MAX_DAMAGED_IN_A_ROW):
        index = (picture + step) % pictures
        try:
            return index, read(index), tuple(map(str, damage))
        except (PictureError, DamagedViewError) as error:
            if on_damage == "stop":
                raise
            damage.append(error)
            _log.warning("skipped a damaged picture, the next one takes its place: %s", error)
    raise type(damage[0])(
        f"{damage[0]}; the {MAX_DAMAGED_IN_A_ROW - 1} pictures listed after it are missing, damaged or left out as "
        "well: check the folder that they lie in"
    )
