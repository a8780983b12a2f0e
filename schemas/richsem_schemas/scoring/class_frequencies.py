"""Which classes are rare, common and frequent in a score, and who says so."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from richsem_schemas.annotations import Category
from richsem_schemas.vocabularies.frequencies import Frequency, derived_frequencies


@dataclass(frozen=True)
class ClassFrequencies:
    """Letters of classes, and the rule that they go by.

    Attributes:
        letters: by category id.
        rule: in words, such as "as lvis_v1_val.json gives them".
    """

    letters: Mapping[int, Frequency]
    rule: str


def frequencies_of(categories: Sequence[Category], source: str) -> ClassFrequencies:
    """The frequencies that an annotation file gives, where it does for every category; else those of its pictures.

    Args:
        categories: of the file, with the pictures of each.
        source: the file's name, for the rule.
    """
    return given_frequencies(categories, source) or _counted_frequencies(categories, source)


def scored_frequencies(
    categories: Sequence[Category], source: str, trained: ClassFrequencies | None
) -> ClassFrequencies:
    """The frequencies of the classes that are scored: given, else those of the training split, else of their own file.

    Frequent is what a detector has seen often, so that the training split counts. A class that it doesn't have was
    never seen, and is rare.

    Args:
        categories: of the scored file.
        source: its name, for the rule.
        trained: of the training split, by the scored file's category ids; None where it isn't known.
    """
    if given := given_frequencies(categories, source):
        return given
    if trained is None:
        own = _counted_frequencies(categories, source)
        return ClassFrequencies(own.letters, f"{own.rule}, the scored split, for want of the training split's")
    return ClassFrequencies({each.id: trained.letters.get(each.id, "r") for each in categories}, trained.rule)


def given_frequencies(categories: Sequence[Category], source: str) -> ClassFrequencies | None:
    """The frequencies that an annotation file gives; None unless it does for every category."""
    letters = {each.id: each.frequency for each in categories if each.frequency is not None}
    return ClassFrequencies(letters, f"as {source} gives them") if len(letters) == len(categories) else None


def _counted_frequencies(categories: Sequence[Category], source: str) -> ClassFrequencies:
    letters, rule = derived_frequencies([each.image_count for each in categories])
    by_id = {each.id: letter for each, letter in zip(categories, letters, strict=True)}
    return ClassFrequencies(by_id, f"by {rule}; pictures as of {source}")
