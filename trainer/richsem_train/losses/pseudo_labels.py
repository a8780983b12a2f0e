"""Classes that the teacher is sure of, as labels."""

from dataclasses import replace

import torch
from torch import Tensor

from richsem_schemas.errors import RichSemError
from richsem_train.losses.soft_labels import SoftLoss
from richsem_train.targets import SoftLabels, Target


def with_pseudo_labels(target: Target, teacher: SoftLoss, *, threshold: float = 0.05) -> Target:
    """A picture's boxes with every class the teacher gives more than `threshold` as label; before anything is drawn.

    A box of several such classes appears once for each, a box of none disappears, soft labels follow the boxes.

    Returns:
        A "labelled" target.

    Raises:
        RichSemError: the boxes have no soft labels.

    Source:
        The reference's unlabelled ImageNet pictures. Differs: "none" (row 0) is never a label; top-k labels show only
        the stored classes, which are all above 1 / K.
    """
    if target.supervision != "pseudo":
        return target
    if target.soft_labels is None:
        raise RichSemError(
            f"picture {target.image_id} shall learn pseudo labels but has no soft labels to take them from; "
            "use a label set, or extra.supervision=unlabelled"
        )
    rows, labels = _sure_of(target.soft_labels, teacher, threshold)
    return replace(
        target,
        boxes_cxcywh_norm=target.boxes_cxcywh_norm[rows],
        labels=labels,
        soft_labels=_rows_of(target.soft_labels, rows),
        supervision="labelled",
    )


def _sure_of(soft_labels: SoftLabels, teacher: SoftLoss, threshold: float) -> tuple[Tensor, Tensor]:
    known = soft_labels.is_known
    if soft_labels.embeddings is not None:
        probs_GC = teacher.log_probs(soft_labels.embeddings).exp()
        probs_GC[:, 0] = 0.0
        is_sure_GC = probs_GC > threshold
        rows, labels = (is_sure_GC if known is None else is_sure_GC & known[:, None]).nonzero(as_tuple=True)
        return rows, labels
    assert soft_labels.class_ids is not None
    assert soft_labels.log_probs is not None
    is_sure_GK = (soft_labels.log_probs.exp() > threshold) & (soft_labels.class_ids > 0)
    if known is not None:
        is_sure_GK &= known[:, None]
    rows = is_sure_GK.nonzero(as_tuple=True)[0]
    return rows, soft_labels.class_ids[is_sure_GK]


def _rows_of(soft_labels: SoftLabels, rows: Tensor) -> SoftLabels:
    kept = {name: value[rows] for name, value in vars(soft_labels).items() if isinstance(value, torch.Tensor)}
    return replace(soft_labels, **kept)
