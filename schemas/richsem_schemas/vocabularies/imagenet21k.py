"""The 21,841 classes of ImageNet-21k."""

from collections.abc import Mapping
from functools import cache
from importlib import resources


@cache
def imagenet21k_names() -> Mapping[str, str]:
    """Name of each class by wnid (the name of its folder), in the order of the wnids; no two names are the same.

    A name is WordNet's first word for the class. Where several classes have that word ("queen" is an ant, a cat and a
    chessman) it is all of WordNet's words for the class, and where that doesn't tell it apart either, these and the
    definition in brackets. Public releases hold fewer classes: the one of winter 2021 has 19,167.

    Source:
        ImageNet's release of fall 2011; words and definitions from WordNet 3.0 (see NOTICE).
    """
    table = resources.files("richsem_schemas").joinpath("data/imagenet21k_classes.tsv").read_text(encoding="utf-8")
    return dict(line.split("\t") for line in table.splitlines())
