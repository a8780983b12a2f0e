"""What a source lists: pictures, and things that are none."""

from dataclasses import dataclass
from pathlib import Path

from richsem_schemas.originals import Original, read_original


@dataclass(frozen=True, slots=True)
class SourceEntry:
    r"""One picture of a source: where its bytes lie and which class it has.

    Attributes:
        name: for people and for KEY.json: the path relative to ROOT with `/` between its parts, for a member of a tar
            `n01440764.tar/n01440764_10.JPEG`; bytes that are no UTF-8 are shown as `\xff`.
        file: as in `Original`.
        offset: as in `Original`.
        size: as in `Original`.
        category_id: row of the vocabulary; 0 where the picture has no label.
    """

    name: str
    file: bytes
    offset: int
    size: int
    category_id: int

    @property
    def original(self) -> Original:
        """Where its bytes lie."""
        return Original(self.file, self.offset, self.size)


@dataclass(frozen=True, slots=True)
class Rejected:
    """Something in the source that is no picture sample, and why; `name` as in `SourceEntry`."""

    name: str
    reason: str


def read_entry(root: Path, entry: SourceEntry) -> bytes:
    """Read one picture's bytes; `read_original` says how."""
    return read_original(root, entry.original)
