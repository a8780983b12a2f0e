"""Pieces of pictures around boxes that a detector missed or got wrong, for people to look at."""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from richsem_schemas.annotations import DetectionData
from richsem_schemas.errors import PictureError
from richsem_schemas.pictures.boxes import xywh_to_xyxy
from richsem_schemas.scoring.box_errors import NOT_FOUND, BoxErrors, Outcome
from richsem_schemas.scoring.evaluation import GroundTruth
from richsem_train.data.detection import read_annotated_picture

_SURROUNDINGS = 0.6
"""How much of a box's longer side is shown beyond it, on each side."""

_SMALLEST_PX = 48
"""Pieces have at least such a side where the picture has it."""

_SHOWN_PX, _JPEG_QUALITY = 240, 80


@dataclass(frozen=True)
class BoxError:
    """A detection that is wrong, or an object that was not found.

    Attributes:
        outcome: which.
        is_object: whether it is an object.
        category: the class's place, of the detection or of the object.
        score: of the detection; of what lies on a missed object, None where nothing does.
        other: the place of the class of the object that a detection lies on, or of what lies on a missed object.
        picture: number of its picture, from 1.
        found_xywh: the detection; pixels, or fractions of the picture's sides where the annotations have those.
        true_xywh: the object.
    """

    outcome: Outcome
    is_object: bool
    category: int
    score: float | None
    other: int | None
    picture: int
    found_xywh: tuple[float, ...] | None
    true_xywh: tuple[float, ...] | None


@dataclass(frozen=True)
class ShownBox:
    """A piece of a picture with one error in it.

    Attributes:
        error: the error.
        file: name of the picture.
        jpeg: the piece as base64.
        size: width and height of the piece, pixels of the JPEG.
        found: x, y, width and height of the detection in it, the same pixels.
        true: the same of the object.
    """

    error: BoxError
    file: str
    jpeg: str
    size: tuple[int, int]
    found: tuple[float, ...] | None
    true: tuple[float, ...] | None


def missed_objects(truth: GroundTruth, errors: BoxErrors) -> list[BoxError]:
    """The objects that were not found, larger ones first."""
    rows = np.flatnonzero(np.isin(errors.box_outcomes, NOT_FOUND))
    rows = rows[np.argsort(-truth.annotations.areas[rows], kind="stable")]
    return [_missed(truth, errors, row) for row in rows.tolist()]


def wrong_detections(truth: GroundTruth, errors: BoxErrors) -> list[BoxError]:
    """The detections that are wrong, surest first; duplicates, which one box shows poorly, last."""
    is_wrong = (errors.outcomes != Outcome.IGNORED) & (errors.outcomes != Outcome.FOUND)
    rows = np.flatnonzero(is_wrong)
    rows = rows[np.lexsort((-errors.detections.scores[rows], errors.outcomes[rows] == Outcome.DUPLICATE))]
    return [_wrong(truth, errors, row) for row in rows.tolist()]


def spread_over_classes(candidates: Iterable[BoxError], *, most: int, of_a_class: int) -> list[BoxError]:
    """The first so many, of each class at most `of_a_class`."""
    chosen: list[BoxError] = []
    taken: dict[int, int] = {}
    for each in candidates:
        if len(chosen) == most:
            break
        if taken.get(each.category, 0) < of_a_class:
            taken[each.category] = taken.get(each.category, 0) + 1
            chosen.append(each)
    return chosen


def cut_out(
    errors: Sequence[BoxError],
    data: DetectionData,
    truth: GroundTruth,
) -> tuple[dict[BoxError, ShownBox], list[str]]:
    """Cut the pieces out of their pictures, each of which is read once.

    Returns:
        The pieces of those whose pictures can be read; what is wrong with the others.
    """
    index_of = {image_id: index for index, image_id in enumerate(data.image_ids.tolist())}
    shown: dict[BoxError, ShownBox] = {}
    problems = []
    pictures = sorted({error.picture for error in errors})
    for picture in pictures:
        index = index_of[int(truth.image_ids[picture - 1])]
        try:
            image = read_annotated_picture(data, index)
        except PictureError as problem:
            problems.append(str(problem))
            continue
        for error in errors:
            if error.picture == picture:
                shown[error] = _piece(error, image, data.files[index], are_relative=data.are_relative)
    return shown, problems


def _missed(truth: GroundTruth, errors: BoxErrors, row: int) -> BoxError:
    detection = int(errors.box_detections[row])
    is_covered = detection >= 0
    return BoxError(
        Outcome(int(errors.box_outcomes[row])),
        True,
        int(truth.box_categories[row]) - 1,
        float(errors.detections.scores[detection]) if is_covered else None,
        int(errors.detections.category_ids[detection]) - 1 if is_covered else None,
        int(truth.box_images[row]),
        tuple(errors.detections.boxes_xywh_px[detection].tolist()) if is_covered else None,
        tuple(truth.annotations.boxes.boxes_xywh[row].tolist()),
    )


def _wrong(truth: GroundTruth, errors: BoxErrors, row: int) -> BoxError:
    box = int(errors.boxes[row])
    return BoxError(
        Outcome(int(errors.outcomes[row])),
        False,
        int(errors.detections.category_ids[row]) - 1,
        float(errors.detections.scores[row]),
        int(truth.box_categories[box]) - 1 if box >= 0 else None,
        int(errors.detections.image_ids[row]),
        tuple(errors.detections.boxes_xywh_px[row].tolist()),
        tuple(truth.annotations.boxes.boxes_xywh[box].tolist()) if box >= 0 else None,
    )


def _piece(error: BoxError, image: Image.Image, file: str, *, are_relative: bool) -> ShownBox:
    sides = np.array([image.width, image.height] * 2 if are_relative else [1.0] * 4)
    boxes = [None if box is None else np.array(box) * sides for box in (error.found_xywh, error.true_xywh)]
    left, top, right, bottom = _window(np.array([box for box in boxes if box is not None]), image.size)
    scale = min(_SHOWN_PX / max(right - left, bottom - top), 1.0)
    size = max(round((right - left) * scale), 1), max(round((bottom - top) * scale), 1)
    piece = image.crop((left, top, right, bottom)).resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    piece.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    found, true = (None if box is None else _in_piece(box, (left, top), scale) for box in boxes)
    return ShownBox(error, file, base64.b64encode(buffer.getvalue()).decode(), size, found, true)


def _in_piece(box_xywh: NDArray[np.float64], corner: tuple[int, int], scale: float) -> tuple[float, ...]:
    x, y, width, height = box_xywh.tolist()
    return (x - corner[0]) * scale, (y - corner[1]) * scale, max(width * scale, 0.0), max(height * scale, 0.0)


def _window(boxes_xywh: NDArray[np.float64], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """What is shown around boxes [B, 4] of a picture of this width and height, whole pixels within it."""
    corners = xywh_to_xyxy(boxes_xywh)
    low, high = corners[:, :2].min(axis=0), corners[:, 2:].max(axis=0)
    reach = max(float((high - low).max()) * (0.5 + _SURROUNDINGS), _SMALLEST_PX / 2)
    middle = (low + high) / 2
    window = []
    for axis in (0, 1):
        first = int(np.clip(np.floor(middle[axis] - reach), 0, size[axis] - 1))
        last = int(np.clip(np.ceil(middle[axis] + reach), first + 1, size[axis]))
        window.append((first, last))
    return window[0][0], window[1][0], window[0][1], window[1][1]
