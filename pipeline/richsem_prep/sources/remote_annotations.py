"""Annotation files at URLs: read from a copy that is gone afterwards."""

import fnmatch
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from richsem_schemas.annotations.openimages_file import CLASS_FILES, folders_of_classes
from richsem_schemas.annotations.visual_genome_file import PICTURE_FILE
from richsem_schemas.errors import SourceError
from richsem_schemas.io.places import Place, RemotePath

_BESIDE = (PICTURE_FILE, *CLASS_FILES)
"""Files that Visual Genome and OpenImages need beside their boxes."""


@contextmanager
def local_annotations(path: Place) -> Iterator[Path]:
    """An annotation file as a local one, with the files that its format wants beside it.

    A local file is taken as it is; one at a URL is copied into a temporary folder for as long as it is read.

    Raises:
        OSError: it can't be fetched, or there is no room for it.
        SourceError: what reading it raised, with the file named as it is at the URL.
    """
    if not isinstance(path, RemotePath):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="richsem-annotations-") as folder:
        for remote in (path, *_beside(path)):
            with (Path(folder) / remote.name).open("wb") as local:
                remote.copy_to(local.write)
        try:
            yield Path(folder) / path.name
        except SourceError as error:
            raise SourceError(str(error).replace(f"{folder}/", f"{path.parent}/")) from error


def _beside(path: RemotePath) -> Iterator[RemotePath]:
    # All are copied into one folder, so that of files of one name the preferred one comes last.
    for folder in reversed(folders_of_classes(path)):
        if folder.is_dir():
            for item, status in folder.scan():
                if any(fnmatch.fnmatchcase(item.name, pattern) for pattern in _BESIDE) and status.st_size:
                    yield item
