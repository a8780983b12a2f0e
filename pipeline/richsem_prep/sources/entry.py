"""Entries of a source: pictures, and things that are none."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.errors import PictureError, SourceError
from richsem_schemas.io.places import Place, RemotePath
from richsem_schemas.pictures.originals import Original, read_original


@dataclass(frozen=True, slots=True, eq=False)
class PictureBoxes:
    """The annotated boxes of one picture; N of them.

    Attributes:
        boxes_xyxy: float32 [N, 4], in pixels of a picture of the annotated size; fractions of its sides where `hw` is
            None.
        rows: int32 [N], rows of the vocabulary; 0 where the boxes have no class.
        hw: annotated height and width, pixels; None where the annotations give no sizes and boxes are fractions.
    """

    boxes_xyxy: NDArray[np.float32]
    rows: NDArray[np.int32]
    hw: tuple[int, int] | None

    def in_picture(self, hw: tuple[int, int]) -> NDArray[np.float32]:
        """The boxes in pixels of the picture at another height and width, float32 [N, 4]."""
        if self.hw == hw:
            return self.boxes_xyxy
        height, width = self.hw or (1, 1)
        return (self.boxes_xyxy * np.array([hw[1] / width, hw[0] / height] * 2)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class SourceEntry:
    r"""One picture of a source: where its bytes lie, which class it has, and what else is annotated.

    Attributes:
        name: in messages and in KEY.json: the path relative to ROOT with `/` between its parts, for a member of a tar
            `n01440764.tar/n01440764_10.JPEG`; bytes that are no UTF-8 are shown as `\xff`.
        file: as in `Original`.
        category_id: row of the vocabulary; 0 where the picture has no label.
        boxes: of a detection picture, possibly none; None where the source knows no boxes.
        caption: None where the source has no captions.
    """

    name: str
    file: bytes
    offset: int
    size: int
    category_id: int
    boxes: PictureBoxes | None = None
    caption: str | None = None

    @property
    def original(self) -> Original:
        """Where its bytes lie."""
        return Original(self.file, self.offset, self.size)


@dataclass(frozen=True, slots=True)
class Rejected:
    """Something in the source that is no picture sample, and why; `name` as in `SourceEntry`."""

    name: str
    reason: str


def require_pictures(items: Iterable[SourceEntry | Rejected], otherwise: str) -> Iterator[SourceEntry | Rejected]:
    """Pass on what is listed.

    Raises:
        SourceError: at the end where there was not a single picture; says `otherwise`.
    """
    is_empty = True
    for item in items:
        is_empty = is_empty and isinstance(item, Rejected)
        yield item
    if is_empty:
        raise SourceError(otherwise)


def read_entry(root: Place, entry: SourceEntry) -> bytes:
    """Read one picture's bytes; `read_original` says how.

    Raises:
        PictureError: as `read_original`, and where the file was removed from a local folder since it was listed. Where
            its folder is gone as well, or empty as that of a disk that isn't mounted, or a link leads nowhere, all that
            lay there may come back: that is an `OSError`.
        OSError: it can't be read now.
    """
    try:
        return read_original(root, entry.original)
    except FileNotFoundError:
        if isinstance(root, RemotePath) or not _was_removed(os.path.join(os.fsencode(root), entry.file)):
            raise
        raise PictureError("missing, though it was there when the source was listed") from None


def _was_removed(path: bytes) -> bool:
    """Whether a file, and not what it lies on, is gone: its folder is there and holds other things."""
    try:
        with os.scandir(os.path.dirname(path)) as neighbours:
            return not os.path.islink(path) and next(neighbours, None) is not None
    except OSError:
        return False
