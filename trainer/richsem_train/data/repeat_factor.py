"""Pictures of rare categories are shown more often."""

import numpy as np
from numpy.typing import NDArray

EPOCH_STREAM = 101
"""Sets the order of epochs apart from other random numbers of the same seed."""


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
    owners = np.repeat(np.arange(images), np.diff(offsets))
    present, row = np.unique(category_ids, return_inverse=True)
    pairs = np.unique(owners * len(present) + row)
    frequency = np.bincount(pairs % len(present)) / images
    category_factors = np.maximum(1.0, np.sqrt(threshold / frequency))
    np.maximum.at(factors, owners, category_factors[row])
    return factors


def epoch_indices(factors: NDArray[np.float64], seed: int, epoch: int) -> NDArray[np.int64]:
    """The pictures of one epoch, in their order.

    Fractions are rounded systematically: one draw u, and picture i comes floor(c_i + u) - floor(c_{i-1} + u) times,
    where c are the cumulated factors. In expectation over u that is its factor, it is never off by one or more, and
    the length of an epoch is floor(sum) or one more.

    Args:
        factors: [N], 1 or more.
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
