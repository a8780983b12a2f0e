"""Pictures in, pictures with boxes and a JSON file out; what finds the boxes is a callable."""

import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from richsem_schemas.errors import PictureError
from richsem_schemas.io.files import write_atomically
from richsem_schemas.scoring.detections import PictureDetections
from richsem_train.results.pictures import choose_drawn, contact_sheet, draw_detections, number_for_name
from richsem_train.results.prediction import ClassTable, Prediction
from richsem_train.results.read_picture import read_picture

PREDICTIONS = "predictions.json"
SHEET = "sheet.jpg"

_JPEG_QUALITY = 92
_LONGEST_NAME, _LONGEST_NAME_BYTES = 120, 200
"""Of a name without what is added to it: file systems take 255 bytes, and 22 are a temporary's."""

_SHEET_PICTURES, _SHEET_COLUMNS, _SHEET_SIDE = 24, 4, 640
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


def predict(
    paths: Sequence[Path],
    detect: Callable[[Image.Image], PictureDetections],
    out: Path,
    *,
    classes: ClassTable,
    score_threshold: float = 0.3,
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
        classes: the rows that `detect` gives.
        score_threshold: worse detections are not drawn.
        on_picture: called after each path, with the reason where it failed.

    Raises:
        OSError: `out` can't be written.
        RichSemError: a picture's detections aren't finite; nothing is written of it.
    """
    done = Predicted()
    records: list[dict[str, Any]] = []
    cells: list[Image.Image] = []
    for path, output_name in zip(paths, name_outputs(paths), strict=True):
        try:
            image = read_picture(path)
        except (PictureError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            done.failed.append((path, reason))
            on_picture(path, reason)
            continue
        found = detect(image)
        found.require_finite(str(path))
        chosen = choose_drawn(found, score_threshold=score_threshold)
        numbers = (number_for_name(row, classes) for row in chosen.category_ids.tolist())
        done.number_for_name = done.number_for_name or next(filter(None, numbers), None)
        _write_picture(draw_detections(image, chosen, classes), out / output_name)
        done.pictures.append(out / output_name)
        records.append({"name": output_name, "source": str(path), **_record(image, found, classes)})
        if len(cells) < _SHEET_PICTURES and len(paths) > 1:
            # The sheet has one legend for all.
            cells.append(draw_detections(image, chosen, classes, legend=False))
            cells[-1].thumbnail((_SHEET_SIDE, _SHEET_SIDE))
        on_picture(path, None)
    _write_report(out, done, records, cells, classes)
    return done


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


def _write_report(
    out: Path, done: Predicted, records: list[dict[str, Any]], cells: list[Image.Image], classes: ClassTable
) -> None:
    if cells:
        captions = [record["name"] for record in records[: len(cells)]]
        sheet = contact_sheet(cells, captions, _SHEET_COLUMNS, legend=classes.have_frequencies)
        _write_picture(sheet, out / SHEET)
    failed = [{"source": str(path), "reason": reason} for path, reason in done.failed]
    text = json.dumps({"pictures": records, "failed": failed}, indent=1, allow_nan=False)
    write_atomically(out / PREDICTIONS, (text + "\n").encode())


def _write_picture(image: Image.Image, path: Path) -> None:
    buffer = io.BytesIO()
    if path.suffix == ".png":
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    write_atomically(path, buffer.getvalue())


def _record(image: Image.Image, found: PictureDetections, classes: ClassTable) -> dict[str, Any]:
    prediction = Prediction.of(found, classes)
    columns = zip(
        prediction.class_names,
        prediction.category_ids.tolist(),
        found.category_ids.tolist(),
        found.scores.tolist(),
        found.boxes_xyxy_px.tolist(),
        strict=True,
    )
    return {
        "height": image.height,
        "width": image.width,
        "detections": [
            {
                "name": name,
                "category_id": None if category_id < 0 else category_id,
                "frequency": classes.frequencies[row] or None,
                "score": round(score, 6),
                "box_xyxy_px": [round(edge, 2) for edge in box],
            }
            for name, category_id, row, score, box in columns
        ],
    }
