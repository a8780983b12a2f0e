"""Average precisions by name, and what stands where one has no value."""

import math
from collections.abc import Mapping

NOT_DEFINED = -1.0
"""Value of a metric over no category at all (APr where no category is rare), as `lvis` and `pycocotools` have it."""

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")
"""By LVIS's and COCO's protocol; those of boxes without sizes have the first two and the last three."""

Metrics = Mapping[str, float]
"""Values by name, such as of `evaluation.score`, and others (seconds a step)."""


def is_defined(value: float) -> bool:
    """Whether a metric has a value: not that of no category at all, not NaN."""
    return value != NOT_DEFINED and math.isfinite(value)


def json_metrics(metrics: Metrics) -> dict[str, float | None]:
    """Metrics for a JSON file: those that are not defined are null."""
    return {name: value if is_defined(value) else None for name, value in metrics.items()}
