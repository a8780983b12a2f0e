"""Any folder of pictures: the top-level folder is the class, and pictures outside of one have none."""

from collections.abc import Iterator, Mapping

from richsem_prep.sources.entry import Rejected, SourceEntry, require_pictures
from richsem_prep.sources.walk import Entry, file_entry, is_folder, scan_root, walk_files
from richsem_schemas.io.places import Place
from richsem_schemas.io.words import printable
from richsem_schemas.vocabularies.vocabulary import NO_LABEL

_LAYOUT = "pictures, or folders of pictures, one folder a class"
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".zip", ".7z", ".rar")


def folder_classes(root: Place) -> list[str]:
    """Names of the top-level folders with at least one file at any depth, sorted; names as `printable` shows them.

    Raises:
        SourceError: ROOT is missing or empty, or a folder can't be listed.
    """
    folders = (entry.name for entry in scan_root(root, layout=_LAYOUT) if is_folder(entry))
    return sorted({printable(folder) for folder in folders if _has_file(root, folder)})


def list_folder(root: Place, class_ids: Mapping[str, int]) -> Iterator[SourceEntry | Rejected]:
    """List every file below ROOT as a picture, by the bytes of the names.

    Hidden files are skipped; archives are rejected, not opened.

    A folder that `class_ids` hasn't counts as without a label.

    Raises:
        SourceError: at once where ROOT is missing or empty; while listing where a folder can't be read; at the end
            where there was not a single picture.
    """
    files = map(_reject_archive, _list_files(root, scan_root(root, layout=_LAYOUT), class_ids))
    return require_pictures(
        files, f"{root} has no file that could be a picture; expected {_LAYOUT}. Point --root at it"
    )


def _list_files(root: Place, entries: list[Entry], class_ids: Mapping[str, int]) -> Iterator[SourceEntry | Rejected]:
    for entry in entries:
        if is_folder(entry):
            yield from walk_files(root, entry.name, class_ids.get(printable(entry.name), NO_LABEL))
        else:
            yield file_entry(entry, entry.name, NO_LABEL)


def _reject_archive(item: SourceEntry | Rejected) -> SourceEntry | Rejected:
    if isinstance(item, SourceEntry) and item.name.lower().endswith(_ARCHIVES):
        return Rejected(item.name, "an archive; unpack it")
    return item


def _has_file(root: Place, folder: bytes) -> bool:
    return any(isinstance(_reject_archive(item), SourceEntry) for item in walk_files(root, folder, NO_LABEL))
