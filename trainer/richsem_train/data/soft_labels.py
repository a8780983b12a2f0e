"""From the labels of a cached view to what the losses learn from."""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from richsem_schemas.codec import LabelledView
from richsem_schemas.errors import RichSemError
from richsem_schemas.soft_labels import unit_rows
from richsem_train.config import Supervision
from richsem_train.targets import SoftLabels, Target

LabelForm = Literal["topk", "embedding", "hard"]
"""What the semantic branch learns: the stored classes, the whole distribution, or the label as if it were soft."""


def check_teachable(form: LabelForm, supervision: Supervision) -> None:
    """Refuse what contradicts itself.

    Raises:
        RichSemError: hard labels are asked for where labels are not to be used.
    """
    if form == "hard" and supervision != "labelled":
        raise RichSemError(
            f"extra.labels=hard learns the labels of the pictures, extra.supervision={supervision} does without them; "
            "choose extra.labels=topk or embedding, or extra.supervision=labelled"
        )


def view_target(
    labelled: LabelledView,
    form: LabelForm,
    supervision: Supervision,
    *,
    rows: NDArray[np.int64],
    image_id: int,
) -> Target:
    """The truth about a rendered view.

    Where a region of it has no label, the whole view is unlabelled: its other labels would teach that there is nothing
    in that region.

    Args:
        labelled: R regions.
        form: of the soft labels.
        supervision: of labelled regions.
        rows: int64 [P], the vocabulary's row of each class that the cache labels with; 0 where it has none.
        image_id: of the annotations, or negative.
    """
    view = labelled.view
    category_ids_R = rows[view.regions["category_id"]]
    is_labelled = bool((category_ids_R > 0).all())
    if supervision != "labelled" or not is_labelled:
        category_ids_R = np.zeros_like(category_ids_R)
    return Target(
        boxes_cxcywh_norm=torch.from_numpy(_cxcywh_norm(view.regions["box_xyxy_px"], view.canvas_hw)),
        labels=torch.from_numpy(category_ids_R),
        image_id=image_id,
        image_hw=view.canvas_hw,
        original_hw=view.canvas_hw,
        supervision="unlabelled" if supervision == "labelled" and not is_labelled else supervision,
        soft_labels=None if form == "hard" else soft_labels(labelled, form),
        is_hard=form == "hard" and is_labelled,
    )


def soft_labels(labelled: LabelledView, form: Literal["topk", "embedding"]) -> SoftLabels:
    """The teacher's belief about the regions of a view, in one of the two forms.

    Args:
        labelled: R regions; with embeddings, where they are asked for.
        form: which of the two.

    Returns:
        Embeddings have unit norm again, which rounding had moved.
    """
    if form == "embedding":
        assert labelled.embeddings is not None, "open_extra refuses caches without embeddings"
        return SoftLabels(embeddings=torch.from_numpy(unit_rows(labelled.embeddings).astype(np.float32)))
    kept = labelled.labels
    return SoftLabels(
        class_ids=torch.from_numpy(kept.class_ids.astype(np.int64)),
        log_probs=torch.from_numpy(kept.log_probs.astype(np.float32)),
        log_rest=torch.from_numpy(kept.log_rest.astype(np.float32)),
    )


def _cxcywh_norm(boxes_xyxy_px: NDArray[np.float32], canvas_hw: tuple[int, int]) -> NDArray[np.float32]:
    corners = boxes_xyxy_px.astype(np.float64) / (canvas_hw[1], canvas_hw[0], canvas_hw[1], canvas_hw[0])
    boxes = np.empty(corners.shape, np.float32)
    boxes[:, :2] = (corners[:, :2] + corners[:, 2:]) / 2
    boxes[:, 2:] = corners[:, 2:] - corners[:, :2]
    return boxes
