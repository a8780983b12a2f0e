"""Pictures in, pictures with boxes and a JSON file out; what finds the boxes is a callable."""

import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from richsem_schemas.errors import PictureError
from richsem_schemas.io.files import write_atomically
from richsem_schemas.pictures.decode import MAX_PICTURE_BYTES, decode_picture, gunzip_picture
from richsem_train.results.detections import PictureDetections, require_finite
from richsem_train.results.pictures import choose_drawn, contact_sheet, draw_detections, number_for_name

PREDICTIONS = "predictions.json"
SHEET = "sheet.jpg"

_JPEG_QUALITY = 92
_LONGEST_NAME, _LONGEST_NAME_BYTES = 120, 200
"""Of a name without what is added to it: file systems take 255 bytes, and 22 are a temporary's."""

_SHEET_PICTURES, _SHEET_COLUMNS, _SHEET_SIDE = 24, 4, 640
_LOSSLESS = {".png", ".bmp", ".gif", ".ppm", ".tif", ".tiff"}
"""Such pictures are drawn as PNG, others as JPEG."""


@dataclass(frozen=True)
class Predicted:
    """What `predict` did.

    Attributes:
        pictures: files written, in the order of the paths, without `predictions.json`.
        failed: paths that could not be read or decoded, and why.
        number_for_name: a label such as `#12` that was drawn for a name, since no font has its letters; None where all
            names were drawn.
    """

    pictures: tuple[Path, ...]
    failed: tuple[tuple[Path, str], ...]
    number_for_name: str | None


def predict(
    paths: Sequence[Path],
    detect: Callable[[Image.Image], PictureDetections],
    out: Path,
    *,
    names: Mapping[int, str],
    frequencies: Mapping[int, str] | None = None,
    category_ids: Mapping[int, int] | None = None,
    score_threshold: float = 0.3,
    most: int = 30,
    on_picture: Callable[[Path, str | None], None] = lambda _path, _problem: None,
) -> Predicted:
    """Find and draw the objects of each picture.

    Writes `out/NAME.jpg` (or `.png` for pictures of lossless formats) a picture, `NAME-2` where two have one name, and
    at the end `out/predictions.json` with all that was found, also below the threshold, and of several pictures
    `out/sheet.jpg`, the first of them side by side. Each file is written whole or not at all; files of these names are
    replaced.

    Args:
        paths: picture files; one that can't be used is left out and reported, the others go on.
        detect: finds the objects of an upright RGB picture, in its pixels.
        out: a folder, made if absent; nothing is written elsewhere.
        names: by row of the vocabulary.
        frequencies: "r", "c" or "f" by row, if known.
        category_ids: of the annotations, by row; negative where they have none. None: each row is its id.
        score_threshold: worse detections are not drawn.
        most: how many detections are drawn at most.
        on_picture: called after each path, with the reason where it failed.

    Raises:
        OSError: `out` can't be written.
        RichSemError: a picture's detections aren't finite; nothing is written of it.
    """
    output_names = name_outputs(paths)
    records, pictures, failed = [], [], []
    cells: list[Image.Image] = []
    number: str | None = None
    for path, output_name in zip(paths, output_names, strict=True):
        try:
            image = _read(path)
        except (PictureError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            failed.append((path, reason))
            on_picture(path, reason)
            continue
        found = _finite(detect(image), path)
        draw = partial(
            draw_detections, image, found, names=names, frequencies=frequencies, score_threshold=score_threshold
        )
        drawn = draw(most=most)
        for index in choose_drawn(found, score_threshold=score_threshold, most=most):
            number = number or number_for_name(int(found.category_ids[index]), names)
        if len(cells) < _SHEET_PICTURES and len(paths) > 1:
            cells.append(_cell(draw(most=most, legend=False)))
        write_atomically(out / output_name, _encoded(drawn, output_name))
        pictures.append(out / output_name)
        records.append(_record(path, output_name, image, found, names, frequencies or {}, category_ids or {}))
        on_picture(path, None)
    if cells:
        captions = [record["name"] for record in records[: len(cells)]]
        sheet = contact_sheet(cells, _SHEET_COLUMNS, captions, legend=bool(frequencies))
        write_atomically(out / SHEET, _encoded(sheet, SHEET))
    report = {
        "pictures": records,
        "failed": [{"source": str(path), "reason": reason} for path, reason in failed],
    }
    text = json.dumps(report, indent=1, allow_nan=False)
    write_atomically(out / PREDICTIONS, (text + "\n").encode())
    return Predicted(tuple(pictures), tuple(failed), number)


def output_files(paths: Sequence[Path], out: Path) -> list[Path]:
    """All files that `predict` may write for these pictures."""
    names = [*name_outputs(paths), PREDICTIONS, *([SHEET] if len(paths) > 1 else [])]
    return [out / name for name in names]


def name_outputs(paths: Sequence[Path]) -> list[str]:
    """A plain file name for each path, no two alike even where case doesn't count, none leading out of its folder."""
    taken = {SHEET, PREDICTIONS}
    names = []
    for path in paths:
        letters = re.sub(r"[^\w.-]+", "_", path.stem).lstrip(".")[:_LONGEST_NAME]
        # The last letter may be cut in two.
        stem = letters.encode()[:_LONGEST_NAME_BYTES].decode(errors="ignore") or "picture"
        extension = "png" if path.suffix.lower() in _LOSSLESS else "jpg"
        name, copy = f"{stem}.{extension}", 1
        while name.lower() in taken:
            copy += 1
            name = f"{stem}-{copy}.{extension}"
        taken.add(name.lower())
        names.append(name)
    return names


def _read(path: Path) -> Image.Image:
    if not path.is_file():
        raise PictureError("a folder or a device, not a picture file" if path.exists() else "no such file")
    size = path.stat().st_size
    if size > MAX_PICTURE_BYTES:
        raise PictureError(f"{size:,} bytes; at most {MAX_PICTURE_BYTES:,} are read")
    return decode_picture(gunzip_picture(path.read_bytes()))


def _finite(found: PictureDetections, path: Path) -> PictureDetections:
    require_finite(found.scores, found.boxes_xyxy_px, lambda _: str(path))
    return found


def _cell(drawn: Image.Image) -> Image.Image:
    """A picture no larger than its place in the sheet."""
    small = drawn.copy()
    small.thumbnail((_SHEET_SIDE, _SHEET_SIDE))
    return small


def _encoded(image: Image.Image, name: str) -> bytes:
    buffer = io.BytesIO()
    if name.endswith(".png"):
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def _record(
    path: Path,
    output_name: str,
    image: Image.Image,
    found: PictureDetections,
    names: Mapping[int, str],
    frequencies: Mapping[int, str],
    category_ids: Mapping[int, int],
) -> dict[str, Any]:
    columns = zip(found.category_ids.tolist(), found.scores.tolist(), found.boxes_xyxy_px.tolist(), strict=True)
    return {
        "name": output_name,
        "source": str(path),
        "height": image.height,
        "width": image.width,
        "detections": [
            {
                "name": names.get(row, str(row)),
                "category_id": None if category_ids.get(row, row) < 0 else category_ids.get(row, row),
                "frequency": frequencies.get(row) or None,
                "score": round(score, 6),
                "box_xyxy_px": [round(edge, 2) for edge in box],
            }
            for row, score, box in columns
        ],
    }
