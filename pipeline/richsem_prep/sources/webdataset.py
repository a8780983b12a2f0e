"""Any tars of pictures: every member that is called like a picture is one, without a label."""

from collections.abc import Iterator

from richsem_prep.sources.entry import Rejected, SourceEntry
from richsem_prep.sources.tar_files import find_tars, member_entry, tar_files
from richsem_schemas.errors import SourceError
from richsem_schemas.io.places import Place
from richsem_schemas.io.words import printable
from richsem_schemas.pictures.names import PICTURE_ENDINGS
from richsem_schemas.vocabularies.vocabulary import NO_LABEL

_LAYOUT = "uncompressed tars of pictures, such as 00000.tar"
_SHOWN = 3

PICTURE_SUFFIXES = tuple(ending.encode() for ending in PICTURE_ENDINGS)
"""How members end that are taken for pictures, in lower case."""


def list_webdataset(root: Place) -> Iterator[SourceEntry | Rejected]:
    """List the pictures in the tars at any depth of ROOT, by the bytes of the names; one tar at a time is in memory.

    Members that aren't called like a picture (captions, classes, arrays) are ignored.

    Raises:
        SourceError: at once where ROOT is missing, empty or without a tar; while listing where a folder can't be read;
            at the end where no tar had a picture.
    """
    tars, rejected = find_tars(root, layout=_LAYOUT)
    if not tars:
        found = "; ".join(f"{item.name}: {item.reason}" for item in rejected[:_SHOWN]) or "there is no tar in it"
        raise SourceError(f"{root} has no tars of pictures: {found}; expected {_LAYOUT}. Point --root at them")
    return _list_tars(root, tars, rejected)


def is_picture(path: bytes) -> bool:
    """Whether a member is called like a picture."""
    return path.lower().endswith(PICTURE_SUFFIXES)


def _list_tars(root: Place, tars: list[bytes], rejected: list[Rejected]) -> Iterator[SourceEntry | Rejected]:
    yield from rejected
    is_empty, reasons = True, [f"{item.name}: {item.reason}" for item in rejected[:_SHOWN]]
    for tar in tars:
        for item in _list_tar(root, tar):
            if not isinstance(item, Rejected):
                is_empty = False
            elif len(reasons) < _SHOWN:
                reasons.append(f"{item.name}: {item.reason}")
            yield item
    if is_empty:
        raise SourceError(
            f"the tars in {root} hold no pictures ({'; '.join(reasons)}); members are expected to end in .jpg, .png, "
            ".webp, ..."
        )


def _list_tar(root: Place, tar: bytes) -> Iterator[SourceEntry | Rejected]:
    members, rejected = tar_files(root, tar)
    yield from rejected
    pictures = [(path, member) for path, member in members.items() if is_picture(path)]
    if not pictures and not rejected:
        yield Rejected(printable(tar), "a tar without a member that is called like a picture (.jpg, .png, .webp, ...)")
    for path, member in pictures:
        yield member_entry(tar, path, member, NO_LABEL)
