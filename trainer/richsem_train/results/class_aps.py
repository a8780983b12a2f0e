"""The AP of each class at one evaluation, as a run's log keeps it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.errors import RichSemError
from richsem_schemas.scoring.evaluation import GroundTruth

_UNKNOWN = "-"
"""Stands for a class of no known frequency in the letters of a record."""

_DIGITS = 6


@dataclass(frozen=True, eq=False)
class ClassAps:
    """The APs of K classes.

    Attributes:
        step: steps taken before the evaluation.
        names: K, in the order of category ids; two may be equal.
        frequencies: K of r, c, f, or empty.
        aps: float64 [K], 0 to 1; NaN where the split has no box of the class.
    """

    step: int
    names: tuple[str, ...]
    frequencies: tuple[str, ...]
    aps: NDArray[np.float64]

    def by_name(self) -> dict[str, float]:
        """AP of each class that has one; of several of one name the last."""
        return {name: ap for name, ap in zip(self.names, self.aps.tolist(), strict=True) if not np.isnan(ap)}

    def as_record(self) -> dict[str, Any]:
        """The content of a log's record."""
        return {
            "names": list(self.names),
            "frequencies": "".join(letter or _UNKNOWN for letter in self.frequencies),
            "ap": [None if np.isnan(ap) else round(ap, _DIGITS) for ap in self.aps.tolist()],
        }


def letters_of(truth: GroundTruth) -> tuple[str, ...]:
    """Of r, c, f, a category of what is scored, by ascending id."""
    return tuple(truth.frequencies.letters[category.id] for category in truth.annotations.categories)


def aps_of_truth(step: int, truth: GroundTruth, aps: NDArray[np.float64]) -> ClassAps:
    """The APs of the categories of what was scored, float64 [K] in their order."""
    return ClassAps(step, tuple(category.name for category in truth.annotations.categories), letters_of(truth), aps)


def aps_of_record(record: Mapping[str, Any], source: str) -> ClassAps:
    """What a log's record holds; `source` names the log in messages.

    Raises:
        RichSemError: it is not what a run writes.
    """
    try:
        names, letters, aps = record["names"], record["frequencies"], record["ap"]
        is_whole = isinstance(names, list) and all(isinstance(name, str) for name in names)
        is_whole &= isinstance(letters, str) and set(letters) <= set("rcf" + _UNKNOWN)
        is_whole &= isinstance(aps, list) and len(names) == len(letters) == len(aps)
        values = np.array([np.nan if ap is None else float(ap) for ap in aps], np.float64)
        is_whole &= bool(((values >= 0) & (values <= 1) | np.isnan(values)).all())
    except (KeyError, TypeError, ValueError, OverflowError):
        is_whole = False
    if not is_whole:
        raise RichSemError(
            f"{source}: its APs of classes at step {record.get('step')} are not what a run writes (as many names, "
            "letters of r, c, f or -, and numbers from 0 to 1); mend or delete that line"
        )
    return ClassAps(
        int(record["step"]), tuple(names), tuple("" if each == _UNKNOWN else each for each in letters), values
    )
