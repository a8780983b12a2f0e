"""An annotation file without its suspects."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from richsem_prep.analyses.annotations import Annotations
from richsem_prep.analyses.partial_file import OnProgress, read_to_write_again, write_without
from richsem_prep.suspects.find_suspects import Suspect
from richsem_schemas.annotations.annotation_file import AnnotationFile
from richsem_schemas.annotations.boxes import clean_boxes
from richsem_schemas.errors import RichSemError


@dataclass(frozen=True)
class Without:
    """What was left out of an annotation file.

    Attributes:
        out: the new file.
        boxes: of the annotations, crowd regions aside.
        dropped: suspects left out.
    """

    out: Path
    boxes: int
    dropped: int


def write_without_suspects(
    path: Path, out: Path, suspects: Sequence[Suspect], planned: str | None, on_progress: OnProgress
) -> Without:
    """Write an annotation file of COCO's or LVIS's format without some boxes; `partial_file` says what stays.

    Args:
        path: the annotations that the cache was made of.
        out: written whole or not at all.
        suspects: the boxes.
        planned: the annotations that the cache was made of, for messages.
        on_progress: takes the records that are written, and all that will be.

    Raises:
        RichSemError: another format, `out` is the file itself or a folder, or the file hasn't these boxes.
    """
    found = read_to_write_again(path, out, option="--without")
    is_dropped = np.zeros(len(found.boxes), np.bool_)
    if suspects:
        is_dropped[_numbers(found, suspects, Annotations(str(path), found), planned)] = True
    write_without(path, found, is_dropped, out, on_progress)
    return Without(out, int((~found.boxes.is_crowd).sum()), int(is_dropped.sum()))


def _numbers(
    found: AnnotationFile, suspects: Sequence[Suspect], annotations: Annotations, planned: str | None
) -> NDArray[np.int64]:
    """Which of the file's boxes the suspects are: a cache lists a picture's boxes in their order, once they are clean.

    Raises:
        RichSemError: one isn't there, or has another label.
    """
    # Numbered in the place of categories, which cleaning hands through.
    numbered = replace(found.boxes, category_ids=np.arange(len(found.boxes)))
    clean, _ = clean_boxes(numbered, found.hws_px)
    order = np.argsort(clean.image_index, kind="stable")
    numbers, pictures = clean.category_ids[order], clean.image_index[order]
    images = annotations.pictures([each.picture for each in suspects], planned)
    places = np.searchsorted(pictures, images) + np.array([each.annotation for each in suspects], np.int64)
    for place, image, suspect in zip(places.tolist(), images.tolist(), suspects, strict=True):
        is_there = place < len(numbers) and pictures[place] == image
        label = found.categories[int(found.boxes.category_ids[numbers[place]])].name if is_there else None
        if label != suspect.label:
            told = "no such box" if label is None else f"the label {label!r}"
            raise RichSemError(
                f"--annotations {annotations.source}: box {suspect.annotation} of {suspect.picture!r} is labelled "
                f"{suspect.label!r} in the cache, and here is {told}; name the file that the cache was made of "
                f"({planned or 'not known'})"
            )
    return numbers[places]
