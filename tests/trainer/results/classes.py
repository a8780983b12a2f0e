"""Vocabularies of a few rows, and detections of their classes."""

from collections.abc import Mapping

import numpy as np

from richsem_schemas.scoring.detections import PictureDetections
from richsem_train.results.prediction import ClassTable


def class_table(names: Mapping[int, str], frequencies: Mapping[int, str] | None = None) -> ClassTable:
    """Of these rows; the others up to them have no name."""
    rows = range(max(names) + 1)
    return ClassTable(
        tuple(names.get(row, "") for row in rows), tuple((frequencies or {}).get(row, "") for row in rows)
    )


def detections(*rows: list[float]) -> PictureDetections:
    """Row of the class, both corners of the box, score; of each."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return PictureDetections(table[:, 0].astype(np.int64), table[:, 1:5], table[:, 5])
