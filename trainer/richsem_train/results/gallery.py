"""Pictures in, pictures with something drawn on them out, a sheet of them, and a JSON file that tells of all."""

import io
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from richsem_schemas.errors import PictureError
from richsem_schemas.io.files import write_atomically
from richsem_train.results.json_list import JsonList, write_object
from richsem_train.results.pictures import LegendEntry, contact_sheet
from richsem_train.results.read_picture import read_picture

PREDICTIONS = "predictions.json"
SHEET = "sheet.jpg"

_JPEG_QUALITY = 92
_LONGEST_NAME, _LONGEST_NAME_BYTES = 120, 200
"""Of a name without what is added to it: file systems take 255 bytes, and 22 are a temporary's."""

_SHEET_PICTURES = 24
_LOSSLESS = {".png", ".bmp", ".gif", ".ppm", ".tif", ".tiff"}
"""Such pictures are drawn as PNG, others as JPEG."""


@dataclass
class Predicted:
    """The outcome of `predict`.

    Attributes:
        pictures: files written, in the order of the paths, without `predictions.json`.
        failed: paths that could not be read or decoded, and why.
        number_for_name: a label such as `#12` that was drawn for a name, since no font has its letters; None where all
            names were drawn.
    """

    pictures: list[Path] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)
    number_for_name: str | None = None


@dataclass(frozen=True, eq=False)
class Shown:
    """What was found in one picture.

    Attributes:
        drawn: the picture with it.
        cell: draws it once more for a sheet, whose legend is below all.
        record: of the JSON file.
        number_for_name: as in `Predicted`.
    """

    drawn: Image.Image
    cell: Callable[[], Image.Image]
    record: Mapping[str, Any]
    number_for_name: str | None


@dataclass(frozen=True)
class SheetForm:
    """How pictures lie on a sheet; each is made no larger than `side`, pixels."""

    columns: int
    side: int
    legend: Sequence[LegendEntry]


@dataclass
class Gallery:
    """What is written, picture by picture.

    Attributes:
        out: its folder.
        sheet: the form of its sheet.
        done: the outcome so far.
    """

    out: Path
    sheet: SheetForm
    done: Predicted = field(default_factory=Predicted)
    _cells: list[Image.Image] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._records = JsonList(self.out / PREDICTIONS, indent=1)

    def add_pictures(
        self,
        paths: Sequence[Path],
        show: Callable[[Image.Image, Path], Shown],
        on_picture: Callable[[Path, str | None], None],
    ) -> None:
        """Write a picture a path.

        Args:
            paths: picture files; one that can't be used is left out and reported, the others go on.
            show: what is to be written of an upright RGB picture and its path.
            on_picture: called after each path, with the reason where it failed.

        Raises:
            OSError: `out` can't be written.
        """
        for path, output_name in zip(paths, name_outputs(paths), strict=True):
            try:
                image = read_picture(path)
            except (PictureError, OSError) as error:
                reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
                self.done.failed.append((path, reason))
                on_picture(path, reason)
                continue
            shown = show(image, path)
            self._add(shown, output_name, {"height": image.height, "width": image.width}, path)
            if len(self._cells) < _SHEET_PICTURES and len(paths) > 1:
                self._cells.append(shown.cell())
                self._cells[-1].thumbnail((self.sheet.side, self.sheet.side))
            on_picture(path, None)

    def _add(self, shown: Shown, output_name: str, size: Mapping[str, int], path: Path) -> None:
        self.done.number_for_name = self.done.number_for_name or shown.number_for_name
        _write_picture(shown.drawn, self.out / output_name)
        self.done.pictures.append(self.out / output_name)
        self._records.add({"name": output_name, "source": str(path), **size, **shown.record})

    def finish(self, head: Mapping[str, Any]) -> None:
        """Write the sheet of several pictures, and the JSON file, which begins with `head`."""
        if self._cells:
            captions = [path.name for path in self.done.pictures[: len(self._cells)]]
            sheet = contact_sheet(self._cells, captions, self.sheet.columns, legend=self.sheet.legend)
            _write_picture(sheet, self.out / SHEET)
        failed = [{"source": str(path), "reason": reason} for path, reason in self.done.failed]
        write_object(self.out / PREDICTIONS, {**head, "pictures": self._records, "failed": failed}, indent=1)


def output_files(paths: Sequence[Path], out: Path, others: Sequence[str] = ()) -> list[Path]:
    """All files that may be written for these pictures, with others of these names."""
    names = [*name_outputs(paths), PREDICTIONS, *others, *([SHEET] if len(paths) > 1 else [])]
    return [out / name for name in names]


def name_outputs(paths: Sequence[Path]) -> list[str]:
    """A plain file name for each path, no two alike even where case doesn't count, none leading out of its folder."""
    taken = {SHEET, PREDICTIONS}
    copies: Counter[str] = Counter()
    names = []
    for path in paths:
        letters = re.sub(r"[^\w.-]+", "_", path.stem).lstrip(".")[:_LONGEST_NAME]
        # The last letter may be cut in two.
        stem = letters.encode()[:_LONGEST_NAME_BYTES].decode(errors="ignore") or "picture"
        extension = "png" if path.suffix.lower() in _LOSSLESS else "jpg"
        name = f"{stem}.{extension}"
        alike = name.lower()
        while name.lower() in taken:
            copies[alike] += 1
            name = f"{stem}-{copies[alike] + 1}.{extension}"
        taken.add(name.lower())
        names.append(name)
    return names


def _write_picture(image: Image.Image, path: Path) -> None:
    buffer = io.BytesIO()
    if path.suffix == ".png":
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    write_atomically(path, buffer.getvalue())
