"""The 1203 LVIS v1 categories and the 997 of them that ImageNet-21k has pictures of."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

FREQUENCY_NAMES = {"r": "rare", "c": "common", "f": "frequent"}
"""LVIS's letters: of a category seen in 1 to 10 pictures of its training split, in 11 to 100, in more."""


@dataclass(frozen=True, slots=True)
class LvisCategory:
    """One LVIS v1 category.

    Attributes:
        id: LVIS `category_id`, 1..1203; also the row of the text bank, whose row 0 is "none".
        name: as LVIS writes it, underscores and brackets included.
        synset: the WordNet synset LVIS names, e.g. `aerosol.n.02`.
        wnid: `n` and the synset's WordNet 3.0 noun offset, the name of its ImageNet folder; None for `stop_sign`, whose
            synset WordNet doesn't have.
        frequency: one of `FREQUENCY_NAMES`.
        image_count: training images with the category; what the federated loss draws by.
        instance_count: training boxes of the category.
        in_imagenet21k: one of the 997 of the published INet-LVIS list.
    """

    id: int
    name: str
    synset: str
    wnid: str | None
    frequency: Literal["r", "c", "f"]
    image_count: int
    instance_count: int
    in_imagenet21k: bool


@cache
def lvis_categories() -> tuple[LvisCategory, ...]:
    """All 1203 categories in the order of their ids.

    Source:
        The LVIS v1 annotations; wnids from WordNet 3.0 (see NOTICE).
    """
    table = resources.files("richsem_schemas").joinpath("data/lvis_v1_categories.json").read_text(encoding="utf-8")
    fields = LvisCategory.__slots__
    return tuple(LvisCategory(**{field: row[field] for field in fields}) for row in json.loads(table))


@cache
def inet_lvis_categories() -> tuple[LvisCategory, ...]:
    """The 997 categories of INet-LVIS (277 rare, 390 common, 330 frequent) in the order of their ids."""
    return tuple(category for category in lvis_categories() if category.in_imagenet21k)


def class_ids_by_wnid(categories: Iterable[LvisCategory]) -> dict[str, int]:
    """Map the name of an ImageNet class folder to its category id; categories without a wnid are left out.

    No two LVIS categories share a wnid today. Should a table ever have such a clash it is refused, since a folder's
    pictures can have one label only.

    Raises:
        ValueError: two of `categories` have the same wnid.
    """
    class_ids: dict[str, int] = {}
    for category in categories:
        if category.wnid is None:
            continue
        if category.wnid in class_ids:
            raise ValueError(
                f"{category.wnid} is the wnid of the categories {class_ids[category.wnid]} and {category.id}; "
                "a class folder has one label: leave one of them out"
            )
        class_ids[category.wnid] = category.id
    return class_ids
