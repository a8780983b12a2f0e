"""The record of a dataset, and a dataset opened at its root."""

from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass, field
from typing import ClassVar, Literal

from richsem_prep.sources.entry import Rejected, SourceEntry
from richsem_schemas.cache.manifest import ViewGeometry
from richsem_schemas.io.files import FileHash
from richsem_schemas.io.places import Place
from richsem_schemas.vocabularies.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True)
class Source:
    """A dataset opened at its root.

    Attributes:
        vocabulary: names of the classes; row = `category_id`.
        entries: lists everything that the root holds, in a fixed order.
        class_count: classes of the dataset, those that the root doesn't hold included.
        absent: classes of the dataset that the root doesn't hold.
        has_captions: entries may have captions.
        annotations: the file that the boxes are from, as in `Plan`.
        notes: what the user should know of the data, a line each.
    """

    vocabulary: Vocabulary
    root: Place
    entries: Callable[[], Iterator[SourceEntry | Rejected]]
    class_count: int = 0
    absent: tuple[str, ...] = ()
    has_boxes: bool = False
    has_captions: bool = False
    annotations: str | None = None
    annotations_file: FileHash | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """The part of a record that all datasets have: names, and the defaults that suit them.

    Attributes:
        name: as `--dataset` takes it.
        about: one line for help texts.
        folder: where its pictures lie in $RICHSEM_DATA; None is a folder of the dataset's name.
        draw: draws the data at its root unless they are there; None where people bring them.
    """

    name: str
    about: str
    _: KW_ONLY
    folder: str | None = None
    draw: Callable[[Place], None] | None = None
    crops: int = 0
    mosaics: int = 0
    windows: int = 0
    pictures: Literal["copy", "reference"] = "copy"
    teacher: str = "RN50:openai"
    teacher_size: int | None = None
    geometry: ViewGeometry = field(default_factory=ViewGeometry)
    has_boxes: ClassVar[bool]


@dataclass(frozen=True)
class PictureDataset(Dataset):
    """Pictures without boxes: each of one class, or of none.

    Attributes:
        open: looks at the dataset's root, without listing it.
    """

    _: KW_ONLY
    open: Callable[[Place], Source]
    crops: int = 1
    mosaics: int = 4
    has_boxes: ClassVar[bool] = False
