"""Conceptual Captions as its usual download script leaves it: the TSV of captions and links, and a folder of pictures.

The script calls a picture `CRC`, or `LINE_CRC` in later versions: the CRC-32 of its link in decimal, and the number of
its line from 0. It leaves out what it can't download, and takes error pages for pictures now and then.
"""

import os
import re
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from richsem_prep.sources.captions import MAX_CAPTION_BYTES, CaptionError, parse_caption
from richsem_prep.sources.entry import Rejected, SourceEntry
from richsem_schemas.errors import SourceError
from richsem_schemas.io.places import Place
from richsem_schemas.io.words import printable
from richsem_schemas.pictures.originals import WHOLE_FILE
from richsem_schemas.vocabularies.vocabulary import NO_LABEL

TSV_NAMES = (
    "Train_GCC-training.tsv",
    "Train-GCC-training.tsv",
    "Train%2FGCC-training.tsv",
    "GCC-training.tsv",
    "cc3m.tsv",
)
"""Names that the file of the training captions has; the first that is there counts."""

PICTURES = "training"
DOWNLOADS = f"{TSV_NAMES[0]} beside {PICTURES}/ with pictures called CRC or LINE_CRC"

_HEADER = b"caption\turl"
_MAX_LINE_BYTES = MAX_CAPTION_BYTES + 2**13
_PICTURE_NAME = re.compile(rb"(?:(0|[1-9]\d{0,8})_)?(0|[1-9]\d{0,9})((?:\.[A-Za-z]{3,4})?)")
_MAX_EXTENSIONS = 100
_NO_LINE = -1


@dataclass(frozen=True, eq=False)
class _Downloads:
    """The pictures in the folder, in a few bytes each; N of them, sorted by CRC, line and extension.

    Attributes:
        crcs: uint32 [N].
        lines: int32 [N]; -1 where the name has none.
        codes: uint8 [N], rows of `extensions`.
        sizes: int64 [N], bytes.
        is_taken: bool [N], whether a line of the TSV has claimed the file.
        extensions: such as b"" and b".jpg".
        strangers: files that aren't called like a download.
    """

    crcs: NDArray[np.uint32]
    lines: NDArray[np.int32]
    codes: NDArray[np.uint8]
    sizes: NDArray[np.int64]
    is_taken: NDArray[np.bool_]
    extensions: tuple[bytes, ...]
    strangers: tuple[Rejected, ...]

    def take(self, crc: int, line: int) -> int | None:
        """The file of a line, which is then taken: its own number's if there is one, else the first of that CRC."""
        # A needle of another type would have NumPy convert all of them first.
        needle = np.uint32(crc)
        first, end = (int(np.searchsorted(self.crcs, needle, side)) for side in ("left", "right"))
        free = [row for row in range(first, end) if not self.is_taken[row]]
        if not free:
            return None
        own = [row for row in free if self.lines[row] == line]
        row = (own or free)[0]
        self.is_taken[row] = True
        return row

    def entry(self, row: int, caption: str | None) -> SourceEntry:
        """The picture in a row."""
        name = self.name(row)
        return SourceEntry(name, name.encode(), WHOLE_FILE, int(self.sizes[row]), NO_LABEL, caption=caption)

    def name(self, row: int) -> str:
        """Path of a row's file, relative to ROOT."""
        prefix = "" if self.lines[row] == _NO_LINE else f"{self.lines[row]}_"
        return f"{PICTURES}/{prefix}{self.crcs[row]}{self.extensions[self.codes[row]].decode()}"


def find_tsv(root: Place) -> Place | None:
    """The TSV of captions in ROOT; None where it or the folder of pictures is missing."""
    if not (root / PICTURES).is_dir():
        return None
    return next((root / name for name in TSV_NAMES if (root / name).is_file()), None)


def list_conceptual_captions(root: Path, tsv: Path, *, with_captions: bool) -> Iterator[SourceEntry | Rejected]:
    """List the pictures that lines of the TSV name, in its order; memory is some bytes a picture.

    Lines without a picture are rejected, as are pictures without a line. Where several lines have the same link, each
    takes the picture of its number, or else the first takes the only one.

    Raises:
        SourceError: while listing where the folder can't be listed; at the end where no line had a picture.
    """
    downloads = _scan_downloads(root)
    yield from downloads.strangers
    for number, line in _lines(tsv):
        yield _match(tsv, number, line, downloads, with_captions)
    if not downloads.is_taken.any():
        raise SourceError(
            f"{root / PICTURES} has no picture that a line of {tsv.name} names; expected {DOWNLOADS}, where CRC is the "
            "CRC-32 of the link in decimal and LINE its line's number from 0"
        )
    for row in np.flatnonzero(~downloads.is_taken).tolist():
        yield Rejected(downloads.name(row), f"no line of {tsv.name} is left that names it")


def _match(
    tsv: Path, number: int, line: bytes | None, downloads: _Downloads, with_captions: bool
) -> SourceEntry | Rejected:
    name = f"{tsv.name}:{number + 1}"
    if line is None:
        return Rejected(name, f"a line of more than {_MAX_LINE_BYTES:,} bytes; a caption and a link have fewer")
    caption_text, tab, link = line.partition(b"\t")
    if not tab or not link or b"\t" in link:
        return Rejected(name, "not a caption, a tab and a link")
    row = downloads.take(zlib.crc32(link), number)
    if row is None:
        return Rejected(name, "not downloaded, or its picture went to an earlier line with the same link")
    try:
        return downloads.entry(row, parse_caption(caption_text) if with_captions else None)
    except CaptionError as error:
        return Rejected(downloads.name(row), str(error))


def _lines(tsv: Path) -> Iterator[tuple[int, bytes | None]]:
    """Number and content of each line, from 0; None stands for one that is too long. A header is skipped."""
    with tsv.open("rb") as file:
        number = 0
        while line := file.readline(_MAX_LINE_BYTES):
            content: bytes | None = line.rstrip(b"\r\n")
            if not line.endswith(b"\n") and len(line) == _MAX_LINE_BYTES:
                content = None
                while (rest := file.readline(_MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                    pass
            if content and not (number == 0 and content == _HEADER):
                yield number, content
            elif content is None:
                yield number, None
            number += 1


def _scan_downloads(root: Path) -> _Downloads:
    """List the folder without holding its names: millions of them would fill the memory."""
    crcs, lines, codes, sizes = array("I"), array("i"), array("B"), array("q")
    extensions: list[bytes] = []
    strangers: list[Rejected] = []
    try:
        with os.scandir(os.path.join(os.fsencode(root), PICTURES.encode())) as entries:
            for entry in entries:
                if entry.name.startswith(b"."):
                    continue
                parsed = _parse_name(entry, extensions)
                if isinstance(parsed, Rejected):
                    strangers.append(parsed)
                    continue
                for column, value in zip((crcs, lines, codes, sizes), parsed, strict=True):
                    column.append(value)
    except OSError as error:
        raise SourceError(f"{root / PICTURES} can't be listed: {error.strerror}; make it readable") from error
    columns = [np.array(column) for column in (crcs, lines, codes, sizes)]
    # By the extension's text: its code depends on the order in which the folder is read.
    texts = np.array(extensions or [b""])[columns[2]]
    order = np.lexsort((texts, columns[1], columns[0]))
    strangers.sort(key=lambda item: item.name)
    crcs_N, lines_N, codes_N, sizes_N = (column[order] for column in columns)
    is_taken_N = np.zeros(len(order), bool)
    return _Downloads(crcs_N, lines_N, codes_N, sizes_N, is_taken_N, tuple(extensions), tuple(strangers))


def _parse_name(entry: os.DirEntry[bytes], extensions: list[bytes]) -> tuple[int, int, int, int] | Rejected:
    name = printable(f"{PICTURES}/".encode() + entry.name)
    match = _PICTURE_NAME.fullmatch(entry.name)
    if match is None or int(match[2]) >= 2**32:
        return Rejected(name, "not called like a downloaded picture: CRC or LINE_CRC")
    if not entry.is_file():
        return Rejected(name, "a broken link" if entry.is_symlink() else "not a regular file")
    if match[3] not in extensions:
        if len(extensions) == _MAX_EXTENSIONS:
            return Rejected(name, f"more than {_MAX_EXTENSIONS} different extensions")
        extensions.append(match[3])
    line = _NO_LINE if match[1] is None else int(match[1])
    return int(match[2]), line, extensions.index(match[3]), entry.stat().st_size
