"""Which classes are rare, common and frequent, told by how many pictures show them."""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

Frequency = Literal["r", "c", "f"]
"""One of `lvis.FREQUENCY_NAMES`."""

LVIS_RULE = "LVIS's rule: rare in 1 to 10 training pictures, common in 11 to 100, frequent in more"
_MOST_OF_RARE, _MOST_OF_COMMON = 10, 100


def derived_frequencies(picture_counts: ArrayLike) -> tuple[list[Frequency], str]:
    """Tell rare, common and frequent classes apart, and say by which rule.

    LVIS's rule holds where it leads to two groups or three. Where it puts all classes into one, as it does with small
    data, thirds of the classes are taken by their counts; classes of one count are never parted, and where
    most have one count these are common.

    Args:
        picture_counts: int [K], training pictures that show each class; a class of none counts as rare.

    Returns:
        A letter a class, and the rule in words.

    Source:
        Gupta et al. 2019 (arXiv 1908.03195), section 3, for the first rule. The second is ours.
    """
    counts = np.asarray(picture_counts, np.int64)
    by_lvis: list[Frequency] = [
        "r" if count <= _MOST_OF_RARE else "c" if count <= _MOST_OF_COMMON else "f" for count in counts.tolist()
    ]
    if len(set(by_lvis)) > 1 or not len(counts):
        return by_lvis, LVIS_RULE
    least_frequent = int(np.quantile(counts, 2 / 3, method="higher"))
    most_rare = int(np.quantile(counts, 1 / 3, method="lower"))
    if most_rare == least_frequent:
        # The middle third and more have one count: they are common, and only those beside it are not.
        most_rare, least_frequent = most_rare - 1, least_frequent + 1
    by_thirds: list[Frequency] = [
        "r" if count <= most_rare else "f" if count >= least_frequent else "c" for count in counts.tolist()
    ]
    return by_thirds, (
        "thirds of the classes, since LVIS's rule tells none apart: "
        f"rare in at most {most_rare:,} training pictures, frequent in {least_frequent:,} or more"
    )
