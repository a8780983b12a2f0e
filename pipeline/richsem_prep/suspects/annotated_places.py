"""Where the boxes of a cache were annotated: picture, and box as the annotations have it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from richsem_prep.analyses.analysed_set import AnalysedSet
from richsem_schemas.cache.listed_boxes import read_listed_boxes
from richsem_schemas.cache.permutation import permuted
from richsem_schemas.errors import CorruptCacheError
from richsem_schemas.pictures.boxes import xyxy_to_xywh


@dataclass(frozen=True)
class Place:
    """One annotated box: its picture's name, and left, top, width and height.

    Attributes:
        hw: of the picture as annotated, pixels; 0 where boxes are fractions.
    """

    picture: str
    box_xywh: tuple[float, float, float, float]
    hw: tuple[int, int]


def annotated_places(
    analysed: AnalysedSet, picture: NDArray[np.int64], annotation: NDArray[np.int64], rows: NDArray[np.int64]
) -> list[Place]:
    """The places of R boxes of a set's cache, from the listing of its plan.

    Args:
        analysed: the set.
        picture: [R], planned positions, counted over all shards.
        annotation: [R], which of its picture's boxes each is.
        rows: [R], the class of each, a row of the vocabulary.

    Raises:
        CorruptCacheError: one isn't listed, or is with another class.
    """
    plan, layout = analysed.cache.manifest.plan, analysed.cache.labels_layout
    listed = read_listed_boxes(layout, plan)
    pictures = permuted(picture, size=plan.listed, seed=plan.seed)
    numbers = listed.offsets[pictures] + annotation
    is_known = numbers < listed.offsets[pictures + 1]
    is_known[is_known] = listed.rows[numbers[is_known]] == rows[is_known]
    if not is_known.all():
        raise CorruptCacheError(
            f"{layout.listing}: {int((~is_known).sum()):,} boxes of label set {analysed.manifest.name} are not in it; "
            "`richsem-prep verify` says what is damaged"
        )
    files = [file.decode(errors="surrogateescape") for file in listed.files.take(pictures).to_pylist()]
    boxes_xywh, hws = xyxy_to_xywh(listed.boxes_xyxy[numbers]).tolist(), listed.hws_px[pictures].tolist()
    return [Place(file, tuple(box), tuple(hw)) for file, box, hw in zip(files, boxes_xywh, hws, strict=True)]
