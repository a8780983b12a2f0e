"""Pictures of one's own with boxes that can be learnt."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.vocabularies.frequencies import Frequency
from richsem_train.own_data.records import Export, Split


@dataclass(frozen=True, slots=True, eq=False)
class OwnPicture:
    """A picture with its G boxes.

    Attributes:
        file: where it lies.
        hw: height and width in pixels, upright.
        labels: int64 [G], positions in the classes.
        boxes_xywh_px: float64 [G, 4], inside of the picture and with area.
        split: None where the export says none.
        negatives: as `PictureRecord` has them.
        not_exhaustive: likewise.
        group: the same number for pictures that are copies of each other.
    """

    file: Path
    hw: tuple[int, int]
    labels: NDArray[np.int64]
    boxes_xywh_px: NDArray[np.float64]
    split: Split | None
    negatives: tuple[int, ...] = ()
    not_exhaustive: tuple[int, ...] = ()
    group: int = -1


@dataclass(frozen=True, eq=False)
class OwnData:
    """What there is to learn from.

    Attributes:
        export: what was read.
        class_names: those with boxes, in the export's order.
        pictures: in the order of their files.
        frequencies: of the classes, given by the export; None where it gives none.
        copies: how many sets of identical pictures there are, and of near copies; None where these weren't looked for.
        is_federated: pictures say of which classes they were looked through, as LVIS's do.
    """

    export: Export
    class_names: tuple[str, ...]
    pictures: tuple[OwnPicture, ...]
    frequencies: tuple[Frequency, ...] | None
    copies: int
    near_copies: int | None
    is_federated: bool

    @property
    def boxes(self) -> int:
        """How many boxes there are."""
        return sum(len(picture.labels) for picture in self.pictures)
