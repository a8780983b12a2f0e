"""Detection datasets: pictures as an annotation file lists them, with their boxes."""

import errno
import os
from collections.abc import Iterator
from stat import S_ISREG

import numpy as np
from numpy.typing import NDArray

from richsem_prep.sources.entry import PictureBoxes, Rejected, SourceEntry, require_pictures
from richsem_schemas.annotations import DetectionData
from richsem_schemas.errors import SourceError
from richsem_schemas.io.places import Place, RemotePath
from richsem_schemas.io.words import printable
from richsem_schemas.pictures.originals import WHOLE_FILE
from richsem_schemas.vocabularies.vocabulary import NO_LABEL

MAX_BOXES = 10_000
"""Most boxes of one picture; its KEY.json must stay below a megabyte."""

_ODD_NAMES = {errno.ENAMETOOLONG, errno.ELOOP}


def list_detection(data: DetectionData, row_of: NDArray[np.int32]) -> Iterator[SourceEntry | Rejected]:
    """List the pictures of a dataset in the order of its annotations; those that are not there are rejected.

    `row_of` [largest id + 1] is the vocabulary's row of each category id; 0 leaves boxes without a class.

    Raises:
        SourceError: at the end where there was not a single picture.
    """
    sizes = data.root.sizes_below() if isinstance(data.root, RemotePath) else None
    items = (_entry(data, index, name, row_of, sizes) for index, name in enumerate(data.files))
    yield from require_pictures(
        items, f"{data.root}: not one of the {len(data):,} annotated pictures is there; name their --images"
    )


def _entry(
    data: DetectionData, index: int, name: str, row_of: NDArray[np.int32], sizes: dict[str, int] | None
) -> SourceEntry | Rejected:
    file = os.fsencode(name)
    shown = printable(file)
    try:
        size = _size(data.root / name) if sizes is None else sizes.get(name)
    except (FileNotFoundError, NotADirectoryError):
        size = None
    except OSError as error:
        if error.errno in _ODD_NAMES:
            return Rejected(f"{shown[:200]}…" if len(shown) > 200 else shown, str(error.strerror))
        raise SourceError(f"{data.root / name} can't be looked at: {error.strerror}; make it readable") from error
    if size is None:
        return Rejected(shown, "missing, though it is annotated")
    if size < 0:
        return Rejected(shown, "not a regular file")
    boxes = _boxes(data, index, row_of)
    if len(boxes.rows) > MAX_BOXES:
        return Rejected(shown, f"{len(boxes.rows):,} boxes; a picture may have at most {MAX_BOXES:,}")
    return SourceEntry(shown, file, WHOLE_FILE, size, NO_LABEL, boxes)


def _size(path: Place) -> int:
    """Bytes of a file; negative where it is something else."""
    status = path.stat()
    return status.st_size if S_ISREG(status.st_mode) else -1


def _boxes(data: DetectionData, index: int, row_of: NDArray[np.int32]) -> PictureBoxes:
    _, category_ids = data.objects(index)
    height, width = data.hws_px[index].tolist()
    hw = None if data.are_relative else (height, width)
    return PictureBoxes(data.boxes_xyxy(index), row_of[category_ids], hw)
