"""Partial annotations: a part of the boxes is missing, as in the supplement's figure 2."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from richsem_prep.analyses.partial_file import OnProgress, read_to_write_again, write_without
from richsem_schemas.annotations.annotation_file import AnnotationFile
from richsem_schemas.annotations.boxes import AnnotatedBoxes, clean_boxes
from richsem_schemas.errors import RichSemError


@dataclass(frozen=True)
class Dropped:
    """What was left out of an annotation file, and what stays.

    Attributes:
        file: the annotations.
        out: the partial ones.
        ratio: of the boxes to leave out, as it was asked for.
        seed: of the draw.
        pictures: all of them; they stay.
        categories: all of them; they stay.
        boxes: of the file, crowd regions aside.
        dropped: boxes left out.
        emptied_pictures: pictures that have lost their last box.
        crowd_regions: they stay.
        not_exhaustive: pairs of a picture and a category that were added to LVIS's lists; none in files without them.
    """

    file: Path
    out: Path
    ratio: float
    seed: int
    pictures: int
    categories: int
    boxes: int
    dropped: int
    emptied_pictures: int
    crowd_regions: int
    not_exhaustive: int

    @property
    def kept(self) -> int:
        """Boxes that stay."""
        return self.boxes - self.dropped


def drop_annotations(path: Path, out: Path, *, ratio: float, seed: int, on_progress: OnProgress) -> Dropped:
    """Write an annotation file of COCO's or LVIS's format without some of its boxes.

    Every category keeps a box of those it has, and of one seed the boxes that are left out at a ratio are among those
    of every higher one. `write_without` says what else stays.

    Args:
        path: the annotations; read twice, never held.
        out: written whole or not at all.
        ratio: of the boxes to leave out, 0 to 1; fewer where categories would be left without any.
        seed: of the draw.
        on_progress: called now and then.

    Raises:
        RichSemError: a file of another format, `out` is the file itself or a folder, or the ratio is none.
    """
    if not 0 <= ratio <= 1:
        raise RichSemError(f"--ratio {ratio}: the share of boxes to drop is from 0 to 1")
    found = read_to_write_again(path, out, option="--out")
    is_dropped = choose_dropped(found, ratio=ratio, seed=seed)
    not_exhaustive = write_without(path, found, is_dropped, out, on_progress)
    counts = _counts(found, is_dropped)
    return Dropped(file=path, out=out, ratio=ratio, seed=seed, not_exhaustive=not_exhaustive, **counts)


def choose_dropped(found: AnnotationFile, *, ratio: float, seed: int) -> NDArray[np.bool_]:
    """Which of an annotation file's M boxes are left out, bool [M].

    All boxes are drawn in one order, of which `ratio` times their number, rounded, are left out from the front. Of each
    category the last one in this order stands out of it: one that can be learned from, where there is one.
    """
    boxes = found.boxes
    order = np.random.default_rng(seed).permutation(len(boxes))
    order = order[~boxes.is_crowd[order]]
    # A category whose only box left has no area would have none to learn from.
    last = order[np.argsort(_is_learnable(boxes, found.hws_px)[order], kind="stable")][::-1]
    _, first = np.unique(boxes.category_ids[last], return_index=True)
    is_kept = np.zeros(len(boxes), np.bool_)
    is_kept[last[first]] = True
    is_dropped = np.zeros(len(boxes), np.bool_)
    is_dropped[order[~is_kept[order]][: round(ratio * len(order))]] = True
    return is_dropped


def _is_learnable(boxes: AnnotatedBoxes, hws_px: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Which boxes training keeps, bool [M]."""
    # Numbered in the place of categories, which cleaning hands through.
    kept, _ = clean_boxes(replace(boxes, category_ids=np.arange(len(boxes))), hws_px)
    is_learnable = np.zeros(len(boxes), np.bool_)
    is_learnable[kept.category_ids] = True
    return is_learnable


def _counts(found: AnnotationFile, is_dropped: NDArray[np.bool_]) -> dict[str, int]:
    """Fields of `Dropped` that count."""
    boxes = found.boxes
    with_boxes, still = (np.unique(boxes.image_index[~boxes.is_crowd & mask]) for mask in (True, ~is_dropped))
    return {
        "pictures": len(found.image_ids),
        "categories": len(found.categories),
        "boxes": int((~boxes.is_crowd).sum()),
        "dropped": int(is_dropped.sum()),
        "emptied_pictures": len(with_boxes) - len(still),
        "crowd_regions": int(boxes.is_crowd.sum()),
    }
