"""Detection annotations, read the same way by the pipeline and the trainer."""

from richsem_schemas.annotations.annotation_file import METRIC_OF, AnnotationFormat, Metric
from richsem_schemas.annotations.detection_data import (
    DetectionData,
    check_vocabulary,
    read_annotations,
)
from richsem_schemas.annotations.read_annotation_file import require_readable
from richsem_schemas.annotations.scored_annotations import Category, ScoredAnnotations

__all__ = [
    "METRIC_OF",
    "AnnotationFormat",
    "Category",
    "DetectionData",
    "Metric",
    "ScoredAnnotations",
    "check_vocabulary",
    "read_annotations",
    "require_readable",
]
