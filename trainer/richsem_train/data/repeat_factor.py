"""Pictures of rare categories are shown more often: repeated, or drawn by category."""

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.errors import RichSemError
from richsem_schemas.vocabularies.frequencies import derived_frequencies

EPOCH_STREAM = 101
"""Sets the order of epochs apart from other random numbers of the same seed."""

LVIS_THRESHOLD = 0.001
"""Of LVIS's 100,170 training pictures these are 100: its common categories are repeated, its frequent ones are not."""

_MOST_OF_COMMON = 100
"""Pictures of a common category in LVIS."""


def repeat_factors(
    category_ids: NDArray[np.int64], offsets: NDArray[np.int64], *, threshold: float = 0.001
) -> NDArray[np.float64]:
    """How often each picture is to be seen in an epoch.

    A category c in a fraction f(c) of all pictures has the factor max(1, sqrt(threshold / f(c))); a picture has the
    largest factor of its categories, 1 without any.

    Args:
        category_ids: [M], of all boxes, picture by picture.
        offsets: [N + 1], where the boxes of each picture start.
        threshold: the fraction of pictures below which a category is repeated.

    Returns:
        float64 [N], 1 or more.

    Source:
        Gupta et al. 2019 (arXiv 1908.03195), appendix B.2; as in the reference, pictures without boxes count in f.
    """
    images = len(offsets) - 1
    factors = np.ones(images)
    if not len(category_ids):
        return factors
    owners, rows, counts = _categories_of_pictures(category_ids, offsets)
    category_factors = np.maximum(1.0, np.sqrt(threshold / (counts / images)))
    np.maximum.at(factors, owners, category_factors[rows])
    return factors


def auto_threshold(category_ids: NDArray[np.int64], offsets: NDArray[np.int64]) -> float:
    """A threshold for data of any size: rare and common categories are repeated, frequent ones are not.

    As on LVIS, whose threshold is that share of pictures at which its categories begin to be frequent. A category in n
    pictures has the factor sqrt(F / n), where F are the fewest pictures of a frequent category
    (`derived_frequencies`), or where none is frequent the most of any, and at most LVIS's 100. So no factor is above
    10, the largest of LVIS, and where all categories have more than 100 pictures nothing is repeated.

    Args:
        category_ids: [M], of all boxes, picture by picture.
        offsets: [N + 1], where the boxes of each picture start.

    Returns:
        A fraction of pictures, `LVIS_THRESHOLD` or more, at most 1.
    """
    if not len(category_ids):
        return LVIS_THRESHOLD
    _, _, counts = _categories_of_pictures(category_ids, offsets)
    letters, _ = derived_frequencies(counts)
    frequent = [count for count, letter in zip(counts.tolist(), letters, strict=True) if letter == "f"]
    border = min(frequent, default=int(counts.max()))
    return max(LVIS_THRESHOLD, min(border, _MOST_OF_COMMON) / (len(offsets) - 1))


def class_aware_factors(
    category_ids: NDArray[np.int64], offsets: NDArray[np.int64], *, pictures: int
) -> NDArray[np.float64]:
    """How often each picture is to be seen in an epoch that gives every category the same share.

    As if each picture of the epoch were drawn in two steps: a category, all alike, then one of the pictures that show
    it, all alike. Those without boxes are never shown, those of rare categories many times.

    Args:
        category_ids: [M], of all boxes, picture by picture.
        offsets: [N + 1], where the boxes of each picture start.
        pictures: of an epoch.

    Returns:
        float64 [N], 0 or more; `epoch_indices` makes `pictures` or one more of them.

    Raises:
        RichSemError: there are no boxes.

    Source:
        Shen et al. 2016 (arXiv 1512.05830); the reference draws with replacement by the same weights.
    """
    if not len(category_ids):
        raise RichSemError(
            "the training split has no boxes, so no category has pictures to be drawn; set "
            "detection.class_aware_pictures to null, or check detection.train.annotations"
        )
    owners, rows, counts = _categories_of_pictures(category_ids, offsets)
    factors = np.zeros(len(offsets) - 1)
    np.add.at(factors, owners, 1 / counts[rows])
    # Half a picture more, so that rounding never makes the sum fall below the whole number.
    factors *= (pictures + 0.5) / len(counts)
    return factors


def _categories_of_pictures(
    category_ids: NDArray[np.int64], offsets: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Each category of each picture once: the picture and the category's row; and how many pictures each row has."""
    owners = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    present, row = np.unique(category_ids, return_inverse=True)
    # Sorted here: `np.unique` takes a hundred times as long for the millions of a dataset.
    pairs = np.sort(owners * len(present) + row)
    pairs = pairs[np.diff(pairs, prepend=-1) != 0]
    rows = pairs % len(present)
    return pairs // len(present), rows, np.bincount(rows)


def epoch_indices(factors: NDArray[np.float64], seed: int, epoch: int) -> NDArray[np.int64]:
    """The pictures of one epoch, in their order.

    Fractions are rounded systematically: one draw u, and picture i comes floor(c_i + u) - floor(c_{i-1} + u) times,
    where c are the cumulated factors. In expectation over u that is its factor, it is never off by one or more, and
    the length of an epoch is floor(sum) or one more.

    Args:
        factors: [N], 0 or more.
        seed: of the run.
        epoch: counted from 0.

    Returns:
        int64, positions of pictures, permuted.

    Source:
        The reference rounds each factor by a draw of its own, so the lengths of its epochs vary by hundreds.
    """
    rng = np.random.default_rng([seed, EPOCH_STREAM, epoch])
    marks = np.floor(np.cumsum(factors) + rng.random()).astype(np.int64)
    copies = np.diff(marks, prepend=0)
    return rng.permutation(np.repeat(np.arange(len(factors), dtype=np.int64), copies))
