"""How class names stand in prompts, which of them a teacher reads as one, and what identifies a text bank; no torch."""

from richsem_schemas.cache.field_types import NamePolicy
from richsem_schemas.cache.manifest import TextSpec
from richsem_schemas.cache.text_bank import TextBank, prompts_sha256
from richsem_schemas.vocabularies.vocabulary import Vocabulary

_SHOWN = 5


def prompted_name(name: str, policy: NamePolicy) -> str:
    """The text that stands in templates for a class name.

    `raw` leaves it as the dataset writes it, underscores and brackets included, as the reference does. `clean` (ours)
    writes "bow_(decorative_ribbons)" as "bow decorative ribbons".
    """
    if policy == "raw":
        return name
    return " ".join("".join(" " if letter in "_()" else letter for letter in name).split())


def text_spec(vocabulary: Vocabulary, policy: NamePolicy, templates: tuple[str, ...]) -> TextSpec:
    """The identity of a label set's text: vocabulary, policy and a hash of all prompts."""
    names = [prompted_name(name, policy) for name in vocabulary.class_names]
    return TextSpec(
        vocabulary=vocabulary.name,
        names=policy,
        classes=len(names),
        templates=len(templates),
        prompts_sha256=prompts_sha256(names, templates),
    )


def alike_names(bank: TextBank) -> list[tuple[str, ...]]:
    """Names of classes that have one and the same text embedding, a group each, in the order of their rows.

    Case is nothing to CLIP's tokenizer, and of a prompt it reads 77 tokens. What it reads as one goes through the same
    batches to the same bytes.
    """
    groups: dict[bytes, list[str]] = {}
    for name, features_D in zip(bank.class_names, bank.features, strict=True):
        groups.setdefault(features_D.tobytes(), []).append(name)
    return [tuple(names) for names in groups.values() if len(names) > 1]


def alike_warning(bank: TextBank) -> str | None:
    """A warning of classes that the teacher can't tell apart by their names; None where there are none."""
    groups = alike_names(bank)
    if not groups:
        return None
    shown = "; ".join(" = ".join(map(repr, names[:_SHOWN])) for names in groups[:_SHOWN])
    more = f"; and {len(groups) - _SHOWN:,} more" if len(groups) > _SHOWN else ""
    return (
        f"the teacher reads some class names as one, and these classes share what a soft label gives them evenly: "
        f"{shown}{more}. Rename or merge them if that isn't meant"
    )
