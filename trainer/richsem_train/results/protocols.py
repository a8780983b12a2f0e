"""Protocols of scoring: which detections count, and what that is called."""

from collections.abc import Mapping
from dataclasses import dataclass

from richsem_schemas.annotations import METRIC_OF, AnnotationFormat, Metric
from richsem_schemas.errors import RichSemError
from richsem_train.choices import Protocol

FIXED_OF_CATEGORY = 10_000
"""Detections a class, over all pictures, of Fixed AP on LVIS (arXiv 2102.01066, section 4)."""

_NAMES: Mapping[Metric, str] = {
    "lvis": "LVIS's protocol",
    "coco": "COCO's protocol",
    "boxes": "COCO's protocol without sizes of objects",
}
_COCO_OF_CATEGORY = 100


@dataclass(frozen=True)
class Limits:
    """How many detections count, the best ones; None is any number.

    Attributes:
        of_picture: of all classes together.
        of_category: over all pictures.
    """

    of_picture: int | None
    of_category: int | None = None

    def most(self, *, pictures: int, categories: int) -> int:
        """Detections of so many pictures and categories at most."""
        if self.of_category is not None:
            return self.of_category * categories
        assert self.of_picture is not None, "one of the two limits is there"
        return self.of_picture * pictures


FIXED = Limits(None, FIXED_OF_CATEGORY)


def format_for(protocol: Protocol | None, written: AnnotationFormat) -> AnnotationFormat:
    """The format to read annotations as, whose metric the protocol is; None is that of the format itself.

    Raises:
        RichSemError: LVIS's protocol, and files that don't say which classes were looked for.
    """
    if protocol == "lvis" and METRIC_OF[written] == "boxes":
        raise RichSemError(
            f"--protocol lvis: annotations of {written} don't say which classes were looked for in a picture, as those "
            "of LVIS do; leave --protocol out, or take fixed"
        )
    if protocol == "lvis":
        return "lvis"
    return "coco" if protocol == "coco" and written == "lvis" else written


def limits_of(protocol: Protocol | None, detections: int) -> Limits:
    """The limits of a protocol; `detections` is that of a picture in all but Fixed AP."""
    return FIXED if protocol == "fixed" else Limits(detections)


def protocol_words(metric: Metric, limits: Limits) -> str:
    """A protocol in words, with its limits."""
    if limits.of_category is not None:
        return (
            f"Fixed AP (arXiv 2102.01066), the best {limits.of_category:,} detections of each class, any number a "
            f"picture, matched by {_NAMES[metric]}"
        )
    most = f"at most {limits.of_picture:,} detections a picture"
    return f"{_NAMES[metric]}, {most}" + ("" if metric == "lvis" else f", {_COCO_OF_CATEGORY} of them of a class")
