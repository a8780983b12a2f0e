"""ImageNet as people keep it: a folder per wnid, or a tar per wnid that is read in place."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from richsem_prep.sources.entry import Rejected, SourceEntry, require_pictures
from richsem_prep.sources.tar_files import COMPRESSED, COMPRESSED_REASON, TAR, member_entry, tar_files
from richsem_prep.sources.walk import Entry, file_entry, first_names, is_folder, scan_root, walk_files
from richsem_schemas.errors import SourceError
from richsem_schemas.io.places import Place
from richsem_schemas.io.words import printable

_LAYOUT = "a folder or an uncompressed tar per class, such as n01440764/ or n01440764.tar"


@dataclass(frozen=True, slots=True)
class _ClassPlace:
    """A class in ROOT: the file name of its folder or tar, and things that can't be used."""

    class_name: str
    folder: bytes | None
    tar: bytes | None
    unusable: tuple[Rejected, ...]

    @property
    def is_usable(self) -> bool:
        return self.folder is not None or self.tar is not None


def list_imagenet(root: Place, class_ids: Mapping[str, int]) -> Iterator[SourceEntry | Rejected]:
    """List the pictures of an ImageNet tree, by class name and then by the bytes of the file names.

    Whatever else ROOT holds is ignored: ImageNet-21k has many more classes. Of a class that is both a folder and a tar
    the folder counts. Every file counts as a picture, whatever its extension: broken ones are found when they are
    decoded. One class at a time is in memory.

    Args:
        root: holds a folder or an uncompressed tar per class.
        class_ids: category id of each class, by its folder's name (the wnid).

    Raises:
        SourceError: at once where ROOT is missing, empty, or has none of the classes; while listing where a folder
            can't be read; at the end where there was not a single file.
    """
    places = _class_places(root, class_ids)
    if not any(place.is_usable for place in places):
        found = "; ".join(f"{rejected.name}: {rejected.reason}" for place in places[:3] for rejected in place.unusable)
        found = found or f"found {first_names(scan_root(root, layout=_LAYOUT))}"
        raise SourceError(
            f"{root} has none of the {len(class_ids)} classes asked for; expected {_LAYOUT}; {found}. "
            "Point --root at the folder that holds the classes"
        )
    return require_pictures(
        _list_places(root, places, class_ids),
        f"{root} has folders of the classes asked for but no file in them; expected {_LAYOUT}",
    )


def absent_classes(root: Place, class_ids: Mapping[str, int]) -> list[str]:
    """Names of the classes that ROOT has neither as a folder nor as an uncompressed tar, sorted.

    Raises:
        SourceError: ROOT is missing or empty.
    """
    present = {place.class_name for place in _class_places(root, class_ids) if place.is_usable}
    return sorted(set(class_ids) - present)


def _class_places(root: Place, class_ids: Mapping[str, int]) -> list[_ClassPlace]:
    by_class: dict[str, list[Entry]] = {}
    for entry in scan_root(root, layout=_LAYOUT):
        class_name = _class_of(printable(entry.name), class_ids)
        if class_name is not None:
            by_class.setdefault(class_name, []).append(entry)
    return [_class_place(class_name, by_class[class_name]) for class_name in sorted(by_class)]


def _class_of(name: str, class_ids: Mapping[str, int]) -> str | None:
    for suffix in ("", TAR, *COMPRESSED):
        class_name = name.removesuffix(suffix)
        if name.endswith(suffix) and class_name in class_ids:
            return class_name
    return None


def _class_place(class_name: str, entries: list[Entry]) -> _ClassPlace:
    by_name = {printable(entry.name): entry for entry in entries}
    folder = tar = None
    if class_name in by_name and is_folder(by_name[class_name]):
        folder = by_name.pop(class_name).name
    elif class_name + TAR in by_name and isinstance(file_entry(by_name[class_name + TAR], b"", 0), SourceEntry):
        tar = by_name.pop(class_name + TAR).name
    used = folder or tar
    unusable = tuple(Rejected(name, _why_unusable(name, used)) for name in sorted(by_name))
    return _ClassPlace(class_name, folder, tar, unusable)


def _why_unusable(name: str, used: bytes | None) -> str:
    if used is not None:
        return f"{printable(used)} of the same class is used instead"
    if name.endswith(COMPRESSED):
        return COMPRESSED_REASON
    return f"neither a folder nor a tar; expected {_LAYOUT}"


def _list_places(
    root: Place, places: list[_ClassPlace], class_ids: Mapping[str, int]
) -> Iterator[SourceEntry | Rejected]:
    for place in places:
        yield from place.unusable
        category_id = class_ids[place.class_name]
        if place.folder is not None:
            yield from walk_files(root, place.folder, category_id)
        elif place.tar is not None:
            members, rejected = tar_files(root, place.tar)
            yield from rejected
            yield from (member_entry(place.tar, path, member, category_id) for path, member in members.items())
