"""A text bank of its own, outside of any cache: another vocabulary or other prompts for the embeddings of one."""

from collections.abc import Iterator
from dataclasses import dataclass

from richsem_schemas.cache.field_types import NamePolicy
from richsem_schemas.cache.manifest import TeacherIdentity, TextManifest, TextSpec
from richsem_schemas.cache.text_bank import TextBank, read_bank, write_bank
from richsem_schemas.errors import CorruptCacheError, RichSemError
from richsem_schemas.io.places import Place
from richsem_schemas.vocabularies.vocabulary import NONE_NAME

MAX_CLASSES = 2**17
"""Rows of a text bank; ImageNet-21k has 21,841 classes."""


class TextFolderManifest(TextManifest):
    """A `text.json` that stands for itself: what a label set's spec says of its text is here, too."""

    vocabulary: str
    names: NamePolicy
    teacher: TeacherIdentity


@dataclass(frozen=True, eq=False)
class TextFolder:
    """A text bank, and what identifies it.

    Attributes:
        vocabulary: its name, such as `coco`.
    """

    bank: TextBank
    teacher: TeacherIdentity
    vocabulary: str
    names: NamePolicy

    @property
    def spec(self) -> TextSpec:
        """The text of a label set's spec."""
        return TextSpec(
            vocabulary=self.vocabulary,
            names=self.names,
            classes=len(self.bank.class_names),
            templates=len(self.bank.templates),
            prompts_sha256=self.bank.prompts_sha256,
        )


def text_path(folder: Place) -> Place:
    """The sealed manifest of a text folder, its features beside it; written last."""
    return folder / "text.json"


def write_text_folder(folder: Place, text: TextFolder) -> None:
    """Write features first, then the manifest that holds their hash."""
    more = {"vocabulary": text.vocabulary, "names": text.names, "teacher": text.teacher}
    write_bank(text.bank, text_path(folder), TextFolderManifest, **more)


def read_text_folder(folder: Place) -> TextFolder:
    """Read what `richsem-prep text` wrote.

    Raises:
        RichSemError: there is none.
        CorruptCacheError: it is not what was written, or doesn't fit together.
    """
    path = text_path(folder)
    try:
        manifest = TextFolderManifest.read(path)
        bank = read_bank(manifest, path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RichSemError(
            f"{folder} holds no text ({error.filename} is missing); make one with `richsem-prep text`"
        ) from None
    for problem in _problems(bank, manifest.teacher):
        raise CorruptCacheError(f"{path}: {problem}; make it anew with `richsem-prep text`")
    return TextFolder(bank, manifest.teacher, manifest.vocabulary, manifest.names)


def _problems(bank: TextBank, teacher: TeacherIdentity) -> Iterator[str]:
    classes = len(bank.class_names)
    if not 0 < classes <= MAX_CLASSES or bank.class_names[0] != NONE_NAME:
        yield f"row 0 of {classes} classes is not {NONE_NAME!r}, or they are more than {MAX_CLASSES:,}"
    if len(set(bank.class_names)) < classes:
        yield "a class name stands twice"
    if bank.features.shape != (classes, teacher.embed_dim):
        yield f"its features are not {teacher.embed_dim} numbers a class"
    yield from bank.problems(teacher)
