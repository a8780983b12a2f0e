"""How many instances the categories of annotation files have, from head to tail: the supplement's figure 3."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.annotations.annotation_file import AnnotationFile, CategoryRecord
from richsem_schemas.annotations.read_annotation_file import format_by_content, read_annotation_file
from richsem_schemas.errors import SourceError
from richsem_schemas.vocabularies.lvis import FREQUENCY_NAMES

FEW = 10
"""The paper calls fewer instances of a category extremely few."""


@dataclass(frozen=True)
class CategoryCount:
    """A category and its instances."""

    id: int
    name: str
    instances: int


@dataclass(frozen=True)
class FrequencyShare:
    """What the categories of one of LVIS's frequencies come to.

    Attributes:
        categories: how many they are.
        instances: how many instances they have.
        of_categories: share of all categories, from 0 to 1.
        of_instances: share of all instances.
    """

    categories: int
    instances: int
    of_categories: float
    of_instances: float


@dataclass(frozen=True)
class Frequency:
    """The frequencies of one annotation file.

    An instance is an annotated box; crowd regions are none, and boxes are counted however they are drawn.

    Attributes:
        file: the annotations' path or URL.
        label: what they are called in the figure.
        pictures: listed ones, those without boxes included.
        counts: the listed categories, most instances first, ties by id.
        frequencies: by LVIS's letters, as the file gives them; None where it gives them not to all.
        notes: what the reader left out.
    """

    file: str
    label: str
    pictures: int
    counts: tuple[CategoryCount, ...]
    frequencies: dict[str, FrequencyShare] | None
    notes: tuple[str, ...]

    @property
    def categories(self) -> int:
        """Listed categories."""
        return len(self.counts)

    @property
    def instances(self) -> int:
        """Of all categories."""
        return sum(count.instances for count in self.counts)

    @property
    def without_instances(self) -> int:
        """Categories without any."""
        return self.categories - len(self.present)

    @property
    def below_ten(self) -> int:
        """Categories of fewer than ten instances, those without any included."""
        return sum(count.instances < FEW for count in self.counts)

    @property
    def head_over_tail(self) -> float:
        """Instances of the most frequent category over those of the least frequent one that has any."""
        return self.present[0] / self.present[-1]

    @property
    def head_tenth_over_tail_tenth(self) -> float:
        """The mean of the most frequent tenth of the categories that have instances over that of the least frequent.

        A tenth is rounded up.
        """
        tenth = -(-len(self.present) // 10)
        return sum(self.present[:tenth]) / sum(self.present[-tenth:])

    @property
    def present(self) -> tuple[int, ...]:
        """Instances of the categories that have any, descending."""
        return tuple(count.instances for count in self.counts if count.instances)


def count_frequency(path: Path, label: str | None = None) -> Frequency:
    """Count the instances of each category of an annotation file of any format that is read.

    Args:
        path: JSON of COCO, LVIS, Objects365 or Visual Genome, or OpenImages' CSV; which, its content tells.
        label: a name for it; the file's own where it is None.

    Raises:
        SourceError: the file can't be read, or has no instance.
    """
    found = read_annotation_file(path, format_by_content(path))
    instances = _instances(found)
    if not any(instances.values()):
        raise SourceError(f"{path}: has no boxes, so that no category has a frequency; give annotations with boxes")
    counts = [
        CategoryCount(number, record.name, instances[number]) for number, record in sorted(found.categories.items())
    ]
    notes = {"crowd regions, which are no instances": int(found.boxes.is_crowd.sum()), **found.problems}
    return Frequency(
        str(path),
        label or path.stem,
        len(found.image_ids),
        tuple(sorted(counts, key=lambda count: -count.instances)),
        _shares(found.categories, instances),
        tuple(f"{number:,} {what}" for what, number in notes.items() if number),
    )


def frequency_content(found: Frequency) -> dict[str, Any]:
    """All figures of a file as JSON has them."""
    names = (
        "file label pictures categories without_instances below_ten instances head_over_tail "
        "head_tenth_over_tail_tenth frequencies notes counts"
    )
    return {name: getattr(found, name) for name in names.split()}


def _instances(found: AnnotationFile) -> dict[int, int]:
    """Boxes by category id, crowd regions aside."""
    ids: NDArray[np.int64] = found.boxes.category_ids[~found.boxes.is_crowd]
    counted = np.bincount(ids, minlength=max(found.categories) + 1)
    return {category_id: int(counted[category_id]) for category_id in found.categories}


def _shares(categories: Mapping[int, CategoryRecord], instances: Mapping[int, int]) -> dict[str, FrequencyShare] | None:
    if any(record.frequency is None for record in categories.values()):
        return None
    total = sum(instances.values())
    shares = {}
    for letter in FREQUENCY_NAMES:
        ids = [category_id for category_id, record in categories.items() if record.frequency == letter]
        count = sum(instances[category_id] for category_id in ids)
        shares[letter] = FrequencyShare(len(ids), count, len(ids) / len(categories), count / total)
    return shares
