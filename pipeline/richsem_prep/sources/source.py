"""A dataset opened at its root, whatever its layout."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from richsem_prep.sources import Rejected, SourceEntry
from richsem_schemas.io.files import FileHash
from richsem_schemas.io.places import Place
from richsem_schemas.vocabularies.lvis import lvis_categories
from richsem_schemas.vocabularies.vocabulary import NONE_NAME, Vocabulary


@dataclass(frozen=True)
class Source:
    """A dataset opened at its root.

    Attributes:
        vocabulary: names of the classes; row = `category_id`.
        absent: classes of the dataset that the root doesn't hold.
        root: where the pictures lie.
        class_count: classes of the dataset, those that the root doesn't hold included.
        entries: lists everything that the root holds, in a fixed order.
        has_boxes: every entry has boxes.
        has_captions: entries may have captions.
        annotations: the file that the boxes are from, as in `Plan`.
        annotations_file: its size and hash.
        notes: what the user should know of the data, a line each.
    """

    vocabulary: Vocabulary
    absent: tuple[str, ...]
    root: Place
    class_count: int
    entries: Callable[[], Iterator[SourceEntry | Rejected]]
    has_boxes: bool = False
    has_captions: bool = False
    annotations: str | None = None
    annotations_file: FileHash | None = None
    notes: tuple[str, ...] = ()


def lvis_vocabulary() -> Vocabulary:
    """The names of LVIS v1; row = `category_id`."""
    return Vocabulary(name="lvis-v1", class_names=(NONE_NAME, *(category.name for category in lvis_categories())))
