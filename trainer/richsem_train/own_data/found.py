"""What a look at somebody's data found: all that is told, and all that is written."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.vocabularies.frequencies import Frequency, derived_frequencies
from richsem_train.data.repeat_factor import auto_threshold, repeat_factors
from richsem_train.own_data.own_pictures import OwnData, OwnPicture
from richsem_train.own_data.split import SplitPictures


@dataclass(frozen=True)
class FoundClass:
    """A class with what there is of it: pictures and boxes of both splits."""

    id: int
    name: str
    frequency: Frequency
    train_pictures: int
    train_boxes: int
    val_pictures: int
    val_boxes: int


@dataclass(frozen=True, eq=False)
class Found:
    """Data, its split and its classes.

    Attributes:
        frequency_rule: how rare, common and frequent were told apart, in words.
        most_boxes: of a picture.
        showings: of pictures in an epoch, those of rare classes counted as often as they are repeated.
    """

    data: OwnData
    split: SplitPictures
    classes: tuple[FoundClass, ...]
    frequency_rule: str
    most_boxes: int
    showings: int

    def warnings(self) -> list[str]:
        """What a user should know of the classes and the split."""
        told = []
        if unseen := [each.name for each in self.classes if not each.train_pictures]:
            told.append(f"no picture of train shows {_listed(unseen)}: nothing can be learnt of them")
        if unscored := [each.name for each in self.classes if not each.val_pictures]:
            told.append(
                f"no picture of val shows {_listed(unscored)}: their AP is undefined; label one more picture of each"
            )
        if self.split.leaked:
            told.append(
                f"{len(self.split.leaked):,} pictures of train are in val, too, and are left out of train, such as "
                f"{self.split.leaked[0].file}"
            )
        return told


def find_classes(data: OwnData, split: SplitPictures) -> Found:
    """Count the classes of both splits and tell the rare ones.

    Frequencies that the export gives are kept.
    """
    train, val = (_counts(pictures, len(data.class_names)) for pictures in (split.train, split.val))
    letters, rule = derived_frequencies(train[0])
    if data.frequencies is not None:
        letters, rule = list(data.frequencies), "as the export gives them"
    classes = tuple(
        FoundClass(row + 1, name, letter, *(int(counts[row]) for counts in (*train, *val)))
        for row, (name, letter) in enumerate(zip(data.class_names, letters, strict=True))
    )
    return Found(
        data,
        split,
        classes,
        rule,
        most_boxes=max(len(picture.labels) for picture in (*split.train, *split.val)),
        showings=_showings(split.train),
    )


def _showings(pictures: Sequence[OwnPicture]) -> int:
    """Of an epoch, by the config's `repeat_threshold: auto`."""
    labels = np.concatenate([picture.labels for picture in pictures])
    offsets = np.cumsum([0, *(len(picture.labels) for picture in pictures)])
    return int(repeat_factors(labels, offsets, threshold=auto_threshold(labels, offsets)).sum())


def _counts(pictures: Sequence[OwnPicture], classes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pictures and boxes of each class."""
    in_pictures, boxes = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    for picture in pictures:
        np.add.at(boxes, picture.labels, 1)
        in_pictures[np.unique(picture.labels)] += 1
    return in_pictures, boxes


def _listed(names: Sequence[str], *, shown: int = 5) -> str:
    more = f" and {len(names) - shown:,} more classes" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
