"""From the labels of a cached view to what the losses learn from."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from richsem_schemas.cache.codec import LabelledView
from richsem_schemas.cache.soft_labels import TopKSoftLabels, unit_rows
from richsem_schemas.errors import RichSemError
from richsem_train.choices import Supervision
from richsem_train.data.cache.nearest import ABSENT
from richsem_train.data.transforms import xyxy_px_to_cxcywh_norm
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
        boxes_cxcywh_norm=torch.from_numpy(xyxy_px_to_cxcywh_norm(view.regions["box_xyxy_px"], view.canvas_hw)),
        labels=torch.from_numpy(category_ids_R),
        image_id=image_id,
        image_hw=view.canvas_hw,
        original_hw=view.canvas_hw,
        supervision="unlabelled" if supervision == "labelled" and not is_labelled else supervision,
        soft_labels=None if form == "hard" else soft_labels(labelled.labels, labelled.embeddings, form),
        is_hard=form == "hard" and is_labelled,
    )


def soft_labels(
    labels: TopKSoftLabels,
    embeddings_RD: NDArray[np.float32] | None,
    form: Literal["topk", "embedding"],
    *,
    is_known_R: NDArray[np.bool_] | None = None,
) -> SoftLabels:
    """The teacher's belief about R regions, in one of the two forms.

    Args:
        labels: of the regions.
        embeddings_RD: where they are asked for.
        form: which of the two.
        is_known_R: False for regions that the teacher hasn't seen; None where it has seen all.

    Returns:
        Embeddings have unit norm again, which rounding had moved.
    """
    is_known = None if is_known_R is None else torch.from_numpy(is_known_R)
    if form == "embedding":
        assert embeddings_RD is not None, "open_training_cache refuses caches without embeddings"
        embeddings = torch.from_numpy(unit_rows(embeddings_RD).astype(np.float32))
        return SoftLabels(embeddings=embeddings, is_known=is_known)
    return SoftLabels(
        class_ids=torch.from_numpy(labels.class_ids.astype(np.int64)),
        log_probs=torch.from_numpy(labels.log_probs.astype(np.float32)),
        log_rest=torch.from_numpy(labels.log_rest.astype(np.float32)),
        is_known=is_known,
    )


def borrowed(
    views: Sequence[LabelledView], rows_S: NDArray[np.int64]
) -> tuple[TopKSoftLabels, NDArray[np.float32] | None, NDArray[np.bool_] | None]:
    """Labels and embeddings of some regions, for other sights of the same things.

    Args:
        views: at least one; their R regions are counted one view after the other.
        rows_S: regions; `ABSENT` for what none of them shows.

    Returns:
        Labels and embeddings of S regions, and which of them are known, as `soft_labels` takes them; what isn't has a
        label that is well formed and says nothing.
    """
    is_known_S = rows_S != ABSENT
    kept = [view.labels for view in views]
    embeddings = [view.embeddings for view in views if view.embeddings is not None]
    top_k = kept[0].class_ids.shape[1]
    # One row more, for whatever is absent, whose row -1 is the last.
    labels = TopKSoftLabels(
        np.concatenate([*(each.class_ids for each in kept), np.arange(top_k, dtype=np.int32)[None]])[rows_S],
        np.concatenate([*(each.log_probs for each in kept), np.full((1, top_k), -np.log(top_k), np.float16)])[rows_S],
        np.concatenate([*(each.log_rest for each in kept), np.full(1, -np.inf, np.float32)])[rows_S],
    )
    embeddings_SD = None
    if len(embeddings) == len(views):
        dim = embeddings[0].shape[1]
        embeddings_SD = np.concatenate([*embeddings, np.eye(1, dim, dtype=np.float32)])[rows_S]
    return labels, embeddings_SD, None if is_known_S.all() else is_known_S
