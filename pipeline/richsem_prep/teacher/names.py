"""How class names stand in prompts, and what identifies a text bank; needs no torch."""

from typing import Literal

from richsem_schemas.cache.manifest import TextSpec
from richsem_schemas.io.canonical_json import json_sha256
from richsem_schemas.vocabularies.vocabulary import Vocabulary

NamePolicy = Literal["raw", "clean"]


def prompted_name(name: str, policy: NamePolicy) -> str:
    """What stands in the templates for a class name.

    `raw` leaves it as the dataset writes it, underscores and brackets included, as the reference does. `clean` (ours)
    writes "bow_(decorative_ribbons)" as "bow decorative ribbons".
    """
    if policy == "raw":
        return name
    return " ".join("".join(" " if letter in "_()" else letter for letter in name).split())


def text_spec(vocabulary: Vocabulary, policy: NamePolicy, templates: tuple[str, ...]) -> TextSpec:
    """What identifies the text of a label set."""
    names = [prompted_name(name, policy) for name in vocabulary.class_names]
    return TextSpec(
        vocabulary=vocabulary.name,
        names=policy,
        classes=len(names),
        templates=len(templates),
        prompts_sha256=json_sha256([names, list(templates)]),
    )
