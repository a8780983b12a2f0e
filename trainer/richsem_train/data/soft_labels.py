"""From the regions of a view and their labels to what the losses learn from."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from richsem_schemas.cache.codec import LabelledView
from richsem_schemas.cache.soft_labels import TopKSoftLabels, unit_rows
from richsem_schemas.cache.view import View, without_rest
from richsem_schemas.pictures.boxes import xyxy_px_to_cxcywh_norm
from richsem_train.choices import SoftForm
from richsem_train.data.cache.source import TrainingCache
from richsem_train.targets import SoftLabels, Target, whole_image


def target_of(
    view: View, *, image_id: int, original_hw: tuple[int, int] | None = None, is_extra: bool = False
) -> Target:
    """The regions of a view, whose category ids are rows of the vocabulary, as truth.

    It is as large as `render` shows it; `original_hw` is the size of the picture as decoded, None is the same.
    """
    image_hw = without_rest(view).canvas_hw
    return Target(
        boxes_cxcywh_norm=torch.from_numpy(xyxy_px_to_cxcywh_norm(view.regions["box_xyxy_px"], image_hw)),
        labels=torch.from_numpy(view.regions["category_id"].astype(np.int64)),
        image_id=image_id,
        image_hw=image_hw,
        original_hw=original_hw or image_hw,
        is_extra=is_extra,
    )


def cached_target(
    labelled: LabelledView,
    cache: TrainingCache,
    *,
    image_id: int,
    original_hw: tuple[int, int] | None = None,
    is_extra: bool = False,
) -> Target:
    """The truth about a view of a cache.

    Where a region of it has no label, the whole view is unlabelled: its other labels would teach that there is nothing
    in that region. As a whole image it has those labels that are known, and no boxes.
    """
    form, supervision = cache.expected.labels, cache.expected.supervision
    labels_R = cache.rows[labelled.view.regions["category_id"]]
    target = target_of(labelled.view, image_id=image_id, original_hw=original_hw, is_extra=is_extra)
    if supervision == "image":
        return whole_image(target, torch.from_numpy(np.unique(labels_R[labels_R > 0])))
    is_labelled = bool((labels_R > 0).all())
    if supervision != "labelled" or not is_labelled:
        labels_R = np.zeros_like(labels_R)
    return replace(
        target,
        labels=torch.from_numpy(labels_R),
        supervision="unlabelled" if supervision == "labelled" and not is_labelled else supervision,
        soft_labels=None if form == "hard" else soft_labels(labelled.labels, labelled.embeddings, form),
        is_hard=form == "hard" and is_labelled,
    )


def soft_labels(
    labels: TopKSoftLabels,
    embeddings_RD: NDArray[np.float32] | None,
    form: SoftForm,
    *,
    is_known_R: NDArray[np.bool_] | None = None,
) -> SoftLabels:
    """The teacher's belief about R regions, in one of the two forms.

    `is_known_R` is False for regions that the teacher hasn't seen; None where it has seen all. Embeddings come out with
    unit norm again, which rounding had moved.
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
