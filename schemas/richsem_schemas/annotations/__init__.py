"""Detection annotations, read the same way by the pipeline and the trainer."""

from richsem_schemas.annotations.annotation_file import AnnotationFormat
from richsem_schemas.annotations.detection_data import (
    Category,
    DetectionData,
    check_vocabulary,
    read_annotations,
    read_annotations_below,
)

__all__ = [
    "AnnotationFormat",
    "Category",
    "DetectionData",
    "check_vocabulary",
    "read_annotations",
    "read_annotations_below",
]
