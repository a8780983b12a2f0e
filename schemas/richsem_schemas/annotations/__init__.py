"""Detection annotations, read the same way by the pipeline and the trainer."""

from richsem_schemas.annotations.detection_data import Category, DetectionData, check_vocabulary, read_annotations
from richsem_schemas.annotations.json_file import AnnotationFormat

__all__ = ["AnnotationFormat", "Category", "DetectionData", "check_vocabulary", "read_annotations"]
