"""What analyses need of an annotation file: how frequent categories are, and which were looked for in a picture."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from richsem_prep.sources.datasets import DATASETS
from richsem_prep.sources.detection_dataset import DetectionDataset
from richsem_schemas.annotations.annotation_file import AnnotationFile, AnnotationFormat
from richsem_schemas.annotations.picture_files import UnusableNameError
from richsem_schemas.annotations.read_annotation_file import read_annotation_file
from richsem_schemas.cache.manifest import Plan
from richsem_schemas.errors import RichSemError


@dataclass(frozen=True, eq=False)
class Annotations:
    """An annotation file in LVIS's or COCO's format.

    Attributes:
        source: the file or its address, for messages.
        content: with the lists that LVIS's metric needs, where they were asked for.
    """

    source: str
    content: AnnotationFile

    @property
    def frequencies(self) -> Mapping[str, str] | None:
        """r, c or f by the name of a category; None where the file says it of none."""
        return {each.name: each.frequency for each in self.content.categories.values() if each.frequency} or None

    @property
    def has_negatives(self) -> bool:
        """Whether it says which categories were looked for in a picture."""
        return self.content.metric_fields is not None

    def pictures(self, names: Iterable[str], planned: str | None) -> NDArray[np.int64]:
        """Which pictures of the file those of a cache are, by their names there.

        Args:
            names: of the cache's pictures.
            planned: the annotations that the cache was made of, for messages.

        Raises:
            RichSemError: some are not in the file.
        """
        names = list(names)
        missing = names
        for rule in self.content.name_rules.values():
            try:
                found = [rule(position) for position in range(len(self.content.image_ids))]
            except UnusableNameError:
                continue
            numbers = {name: number for number, name in enumerate(found) if name is not None}
            if all(name in numbers for name in names) and len(numbers) == len(found):
                return np.array([numbers[name] for name in names], np.int64)
            missing = min(missing, [name for name in names if name not in numbers], key=len)
        shown = missing[0] if missing else names[0]
        raise RichSemError(
            f"--annotations {self.source}: {len(missing):,} of the cache's {len(names):,} pictures, such as {shown!r}, "
            f"are not in it or can't be told apart; name the file that the cache was made of ({planned or 'not known'})"
        )


def read_annotations(path: Path, *, with_negatives: bool, source: str | None = None) -> Annotations:
    """Read an annotation file; of its boxes nothing is needed.

    Args:
        path: the file.
        with_negatives: read the lists that LVIS's metric needs as well, and require them.
        source: what the file is called in messages; None is its path.

    Raises:
        RichSemError: it can't be read, or isn't what it should be.
    """
    file_format: AnnotationFormat = "lvis" if with_negatives else "coco"
    return Annotations(source or str(path), read_annotation_file(path, file_format, is_scored=with_negatives))


def has_lvis_format(plan: Plan) -> bool:
    """Whether the annotations of a cache are in LVIS's format, so that they list what was looked for in a picture."""
    record = DATASETS.get(plan.dataset)
    return isinstance(record, DetectionDataset) and record.file_format == "lvis"
