"""Which boxes are judged, and in which groups: the classes of a cache that the text knows, by their frequency."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.errors import RichSemError
from richsem_schemas.vocabularies.known import known_vocabulary
from richsem_schemas.vocabularies.lvis import FREQUENCY_NAMES, lvis_categories
from richsem_schemas.vocabularies.vocabulary import NO_LABEL, Vocabulary

ALL = "all"

GROUPS = (ALL, *FREQUENCY_NAMES.values())
"""All categories, and those that LVIS calls rare, common and frequent."""

_LETTERS = {name: letter for letter, name in FREQUENCY_NAMES.items()}


@dataclass(frozen=True, eq=False)
class JudgedClasses:
    """The C rows of a cache's vocabulary.

    Attributes:
        names: of them.
        text_rows: int64 [C], the row of the text bank of each class, by name; -1 for "none", and for those that the
            text hasn't: their boxes can't be judged.
        rows_of_text: int64 [T], the way back: the class of each row of the text bank, -1 for those that are none.
        letters: [C] r, c or f; "" where nobody says.
    """

    names: tuple[str, ...]
    text_rows: NDArray[np.int64]
    rows_of_text: NDArray[np.int64]
    letters: NDArray[np.str_]

    @property
    def are_judged(self) -> NDArray[np.bool_]:
        """[C] whose boxes are judged."""
        return self.text_rows >= 0

    @property
    def have_frequencies(self) -> bool:
        """Whether any class is known to be rare, common or frequent."""
        return bool((self.letters != "").any())

    def in_group(self, group: str) -> NDArray[np.bool_]:
        """[C] which classes belong to a group; each of them to `ALL`."""
        return np.ones(len(self.names), np.bool_) if group == ALL else self.letters == _LETTERS[group]


def judged_classes(
    vocabulary: Vocabulary, text_names: tuple[str, ...], frequencies: Mapping[str, str] | None
) -> JudgedClasses:
    """The classes of a vocabulary that a text bank has, by name.

    Args:
        vocabulary: of the cache's boxes.
        text_names: rows of the text bank.
        frequencies: r, c or f by name, from annotations; None is LVIS's own for LVIS's vocabulary, else none.

    Raises:
        RichSemError: the text has not a single one.
    """
    rows = {name: row for row, name in enumerate(text_names)}
    text_rows = np.array([rows.get(name, -1) for name in vocabulary.class_names], np.int64)
    text_rows[NO_LABEL] = -1
    if not (text_rows >= 0).any():
        raise RichSemError(
            f"the labels speak of {len(text_names):,} classes, and not one is among the {vocabulary.name} classes of "
            "the cache's boxes; name a label set with their text, or make one with `richsem-prep rescore`"
        )
    rows_of_text = np.full(len(text_names), -1, np.int64)
    judged = np.flatnonzero(text_rows >= 0)
    rows_of_text[text_rows[judged]] = judged
    letters = _known_letters(vocabulary) if frequencies is None else frequencies
    return JudgedClasses(
        vocabulary.class_names,
        text_rows,
        rows_of_text,
        np.array([letters.get(name, "") for name in vocabulary.class_names], "<U1"),
    )


def _known_letters(vocabulary: Vocabulary) -> Mapping[str, str]:
    if vocabulary != known_vocabulary("lvis"):
        return {}
    return {category.name: category.frequency for category in lvis_categories()}
