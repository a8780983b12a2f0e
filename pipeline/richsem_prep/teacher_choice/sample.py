"""The boxes on which teachers are compared: drawn so that every class has some."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from richsem_prep.sources.class_names import checked_names
from richsem_prep.sources.entry import PictureBoxes
from richsem_schemas.annotations import DetectionData
from richsem_schemas.errors import SourceError
from richsem_schemas.io.places import Place
from richsem_schemas.vocabularies.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class SampledPicture:
    """A picture and its chosen boxes.

    Attributes:
        name: below the folder of the pictures.
        boxes: the chosen ones, with rows of the vocabulary.
    """

    name: str
    boxes: PictureBoxes


@dataclass(frozen=True, eq=False)
class BoxSample:
    """R boxes of C classes.

    Attributes:
        root: folder of the pictures.
        vocabulary: row 0 is "none", then the categories by ascending id.
        pictures: those of the chosen boxes.
        rows: int64 [R], the class of each box, in the order of the pictures.
        counts: int64 [C + 1], boxes of each row in the annotations.
        notes: what the annotations' reader left out.
    """

    root: Place
    vocabulary: Vocabulary
    pictures: tuple[SampledPicture, ...]
    rows: NDArray[np.int64]
    counts: NDArray[np.int64]
    notes: tuple[str, ...]


def draw_sample(data: DetectionData, source: str, *, boxes: int, seed: int) -> BoxSample:
    """Draw boxes of annotations: of each class that has any one at least, then as many of one class as of another.

    The same annotations, number and seed draw the same boxes.

    Raises:
        SourceError: there is no box, only one class, or a name that can't stand in prompts.
    """
    ids = np.array([category.id for category in data.categories])
    names = checked_names(source, [category.name for category in data.categories])
    row_of = np.zeros(data.num_rows, np.int64)
    row_of[ids] = np.arange(1, len(ids) + 1)
    rows_M = row_of[data.category_ids]
    counts = np.bincount(rows_M, minlength=len(names))
    if not len(rows_M):
        raise SourceError(
            f"{source}: has no boxes to show to a teacher; give annotations with boxes, such as those to train on"
        )
    if len(names) < 3:
        raise SourceError(
            f"{source}: has one class, {names[1]!r}, and no teacher can take it for another; soft labels need two "
            "classes or more"
        )
    chosen = np.sort(_drawn(rows_M, shares(counts, boxes), np.random.default_rng(seed)))
    owners = np.searchsorted(data.offsets, chosen, side="right") - 1
    pictures = tuple(
        _picture(data, int(picture), chosen[owners == picture], rows_M) for picture in np.unique(owners).tolist()
    )
    vocabulary = Vocabulary(name="annotations", class_names=names)
    return BoxSample(data.root, vocabulary, pictures, rows_M[chosen], counts, tuple(data.problem_lines()))


def shares(counts: NDArray[np.int64], boxes: int) -> NDArray[np.int64]:
    """How many boxes of each class are taken: all of small classes, equally many of the others, one at the least.

    Args:
        counts: boxes that each class has.
        boxes: in all; of more classes than this each has one, and of what an equal share leaves over the first ones
            have one more each.
    """
    taken: NDArray[np.int64] = np.minimum(counts, 1)
    while (left := boxes - int(taken.sum())) > 0 and (open_ := np.flatnonzero(taken < counts)).size:
        each = left // len(open_)
        if each:
            taken[open_] = np.minimum(taken[open_] + each, counts[open_])
        else:
            taken[open_[:left]] += 1
    return taken


def _drawn(rows_M: NDArray[np.int64], taken: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """So many boxes of each class, any of them alike."""
    order = rng.permutation(len(rows_M))
    by_class = order[np.argsort(rows_M[order], kind="stable")]
    firsts = np.cumsum(np.bincount(rows_M, minlength=len(taken))) - np.bincount(rows_M, minlength=len(taken))
    rank = np.arange(len(by_class)) - firsts[rows_M[by_class]]
    return by_class[rank < taken[rows_M[by_class]]]


def _picture(data: DetectionData, picture: int, chosen: NDArray[np.int64], rows_M: NDArray[np.int64]) -> SampledPicture:
    places = chosen - data.offsets[picture]
    height, width = data.hws_px[picture].tolist()
    boxes = PictureBoxes(
        data.boxes_xyxy(picture)[places],
        rows_M[chosen].astype(np.int32),
        None if data.are_relative else (height, width),
    )
    return SampledPicture(data.files[picture], boxes)
