"""The built-in demo, drawn at its root by whoever opens it first."""

import json
from functools import partial
from pathlib import Path

from richsem_prep.demo.dataset import CATEGORIES, CLASSIFICATION, is_demo, write_demo
from richsem_prep.sources.dataset import Source
from richsem_prep.sources.imagenet import list_imagenet
from richsem_schemas.errors import SourceError
from richsem_schemas.io.places import Place, require_local
from richsem_schemas.vocabularies.vocabulary import NONE_NAME, Vocabulary


def draw_demo(root: Place) -> None:
    """Draw the demo, unless it is there.

    Raises:
        SourceError: `root` is a URL, or holds something else.
    """
    if not is_demo(folder := require_local(root, "the demo")):
        write_demo(folder)


def open_demo(root: Place) -> Source:
    """The demo's classification pictures; `root` holds the whole demo.

    Raises:
        SourceError: its table of categories is damaged.
    """
    folder = require_local(root, "the demo")
    ids = _class_ids(folder)
    names = (NONE_NAME, *sorted(ids, key=ids.__getitem__))
    pictures = folder / CLASSIFICATION
    return Source(
        vocabulary=Vocabulary(name="demo", class_names=names),
        root=pictures,
        entries=partial(list_imagenet, pictures, ids),
        class_count=len(ids),
    )


def _class_ids(root: Path) -> dict[str, int]:
    try:
        return {category["name"]: int(category["id"]) for category in json.loads((root / CATEGORIES).read_bytes())}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{root / CATEGORIES} is damaged ({error}); delete {root}, it is drawn again") from None
