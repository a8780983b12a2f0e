"""The card of a dataset repository, written from the manifests of what it holds."""

import re
from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from richsem_schemas.cache.manifest import CacheManifest, LabelManifest
from richsem_schemas.io.words import readable_bytes

_HUB_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]{1,40}")
"""How the hub spells the licences that it knows."""


def dataset_card(repo: str, cache: CacheManifest, label_sets: Sequence[LabelManifest], *, licence: str | None) -> str:
    """README.md of a repository with these label sets; the licence is that of the pictures, if it holds them."""
    # Markdown and YAML: text of anybody's goes through `line`, and what YAML reads through `quoted`.
    cards = Environment(
        loader=PackageLoader(__package__),
        autoescape=False,  # noqa: S701 - no HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    cards.filters |= {"line": _one_line, "quoted": _quoted, "thousands": "{:,}".format, "in_words": readable_bytes}
    cards.tests["known_to_the_hub"] = _HUB_LICENCE.fullmatch
    passes = label_sets[0].spec.views.passes
    return cards.get_template("card.md.j2").render(
        repo=repo,
        cache=cache,
        plan=cache.plan,
        label_sets=label_sets,
        members=", ".join(f'"{kind}-{number}.npy"' for kind, count in passes.items() for number in range(count)),
        licence=licence,
    )


def _one_line(text: str) -> str:
    """Text of anybody's that can't leave its place in a table."""
    return " ".join("".join(" " if letter in "`|<>\n" else letter for letter in text).split())[:100]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
