"""Pictures in, pictures with boxes and a JSON file out; what finds the boxes is a callable."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from richsem_schemas.scoring.detections import PictureDetections
from richsem_train.results.coco_results import CocoResults
from richsem_train.results.gallery import Gallery, Predicted, SheetForm, Shown
from richsem_train.results.pictures import FREQUENCY_LEGEND, choose_drawn, draw_detections, number_for_name
from richsem_train.results.prediction import ClassTable, Prediction

_SHEET_COLUMNS, _SHEET_SIDE = 4, 640


def predict(
    paths: Sequence[Path],
    detect: Callable[[Image.Image], PictureDetections],
    out: Path,
    *,
    classes: ClassTable,
    score_threshold: float = 0.3,
    coco: CocoResults | None = None,
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
        coco: what also takes all that was found, and writes it into files of its own.
        on_picture: called after each path, with the reason where it failed.

    Raises:
        OSError: `out` can't be written.
        RichSemError: a picture's detections aren't finite; nothing is written of it.
    """
    legend = FREQUENCY_LEGEND if classes.have_frequencies else ()
    gallery = Gallery(out, SheetForm(_SHEET_COLUMNS, _SHEET_SIDE, legend))

    def show(image: Image.Image, path: Path) -> Shown:
        found = detect(image)
        found.require_finite(str(path))
        if coco is not None:
            coco.add(path, found, (image.height, image.width))
        chosen = choose_drawn(found, score_threshold=score_threshold)
        numbers = (number_for_name(row, classes) for row in chosen.category_ids.tolist())
        return Shown(
            draw_detections(image, chosen, classes),
            partial(draw_detections, image, chosen, classes, legend=False),
            {"detections": detection_records(found, classes)},
            next(filter(None, numbers), None),
        )

    gallery.add_pictures(paths, show, on_picture)
    gallery.finish({})
    if coco is not None:
        coco.write()
    return gallery.done


def detection_records(found: PictureDetections, classes: ClassTable) -> list[dict[str, Any]]:
    """Detections for JSON, in their order."""
    prediction = Prediction.of(found, classes)
    columns = zip(
        prediction.class_names,
        prediction.category_ids.tolist(),
        found.category_ids.tolist(),
        found.scores.tolist(),
        found.boxes_xyxy_px.tolist(),
        strict=True,
    )
    return [
        {
            "name": name,
            "category_id": None if category_id < 0 else category_id,
            "frequency": classes.frequencies[row] or None,
            "score": round(score, 6),
            "box_xyxy_px": [round(edge, 2) for edge in box],
        }
        for name, category_id, row, score, box in columns
    ]
