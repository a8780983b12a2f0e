"""Class names of datasets whose lists are fixed, so that text needs no annotation file."""

import json
from functools import cache
from importlib import resources

from richsem_schemas.vocabularies.lvis import lvis_categories
from richsem_schemas.vocabularies.vocabulary import NONE_NAME, Vocabulary

_LISTS = {"coco": "coco", "objects365": "objects365-v2", "openimages": "openimages-v6"}

KNOWN_VOCABULARIES = ("lvis", *_LISTS)


@cache
def known_vocabulary(name: str) -> Vocabulary:
    """The classes of a dataset; row 0 is "none", then its categories by ascending id.

    `openimages` has the 601 boxable classes of V6 in the order of its class-descriptions file; V4 and V5 name some of
    them otherwise.

    Source:
        The names as the annotations write them, misspellings and spaces at the end included (see NOTICE).
    """
    if name == "lvis":
        return Vocabulary(name="lvis-v1", class_names=(NONE_NAME, *(category.name for category in lvis_categories())))
    table = json.loads(resources.files("richsem_schemas").joinpath("data/class_names.json").read_bytes())
    return Vocabulary(name=_LISTS[name], class_names=(NONE_NAME, *table[_LISTS[name]]))
