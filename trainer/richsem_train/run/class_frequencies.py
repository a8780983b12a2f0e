"""The frequencies of a detector's classes: from its training annotations to what it is scored by."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.scoring.class_frequencies import ClassFrequencies
from richsem_schemas.vocabularies.frequencies import Frequency
from richsem_train.data.category_rows import NO_CATEGORY

_FORMERLY_GIVEN = "as the training annotations gave them"
"""Of checkpoints that don't say by which rule: they have the letters of the annotations, or none."""


def frequencies_by_id(letters: Sequence[str], rule: str, category_ids: NDArray[np.int64]) -> ClassFrequencies | None:
    """The frequencies of a vocabulary by the category ids of a split; None where it has none.

    Args:
        letters: `r`, `c`, `f`, or empty, by row.
        rule: in words; empty in older checkpoints.
        category_ids: int64 [C], of the rows, as `ids_of_rows` has it.
    """
    of_letter: dict[str, Frequency] = {"r": "r", "c": "c", "f": "f"}
    known = {
        category_id: of_letter[letter]
        for category_id, letter in zip(category_ids.tolist(), letters, strict=True)
        if category_id != NO_CATEGORY and letter
    }
    return ClassFrequencies(known, rule or _FORMERLY_GIVEN) if any(letters) else None
