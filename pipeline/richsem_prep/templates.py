"""Prompts: the templates and how class names stand in them."""

from typing import Literal

from open_clip import OPENAI_IMAGENET_TEMPLATES

from richsem_schemas.manifest import TextSpec, Vocabulary
from richsem_schemas.sealed_json import json_sha256

NamePolicy = Literal["raw", "clean"]

TEMPLATES: tuple[str, ...] = ("{}.", *(template("{}") for template in OPENAI_IMAGENET_TEMPLATES))
"""81: the bare name with a full stop, and OpenAI's 80 for ImageNet."""


def prompted_name(name: str, policy: NamePolicy) -> str:
    """What stands in the templates for a class name.

    `raw` leaves it as the dataset writes it, underscores and brackets included, as the reference does. `clean` (ours)
    writes "bow_(decorative_ribbons)" as "bow decorative ribbons".
    """
    if policy == "raw":
        return name
    return " ".join("".join(" " if letter in "_()" else letter for letter in name).split())


def prompts_of(name: str, row: int) -> list[str]:
    """All prompts of one class; row 0 is the bare word "none", without templates, as in the reference."""
    return [name] if row == 0 else [template.format(name) for template in TEMPLATES]


def text_spec(vocabulary: Vocabulary, policy: NamePolicy) -> TextSpec:
    """What identifies the text of a label set."""
    names = [prompted_name(name, policy) for name in vocabulary.class_names]
    return TextSpec(
        vocabulary=vocabulary.name,
        names=policy,
        classes=len(names),
        templates=len(TEMPLATES),
        prompts_sha256=json_sha256([names, TEMPLATES]),
    )
