"""Annotations to be scored, from files without pictures."""

from pathlib import Path
from typing import Any, Literal
from unittest import mock

from richsem_schemas.annotations import detection_data, read_annotations
from richsem_schemas.scoring.evaluation import GroundTruth, truth_of


def truth_in(path: Path, *, metric: Literal["lvis", "coco"] = "lvis") -> GroundTruth:
    """What a split of this file is scored by, wherever its pictures are."""
    with mock.patch.object(detection_data, "locate_pictures", _named_by_position):
        return truth_of(read_annotations(path, path.parent, file_format=metric, is_scored=True), metric)


def _named_by_position(count: int, *_: Any, **__: Any) -> tuple[str, ...]:
    return tuple(f"{position}.jpg" for position in range(count))
