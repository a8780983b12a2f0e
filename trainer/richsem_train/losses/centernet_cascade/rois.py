"""What one stage of the cascade is taught about its regions: their classes, how to move, what the teacher thinks."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from richsem_train.losses.centernet_cascade.truth import Truth
from richsem_train.losses.federated import FederatedClasses, draw_federated
from richsem_train.losses.image_labels import image_label_losses
from richsem_train.losses.soft_labels import SoftLoss, teaches
from richsem_train.outputs.centernet_cascade import Objects, Regions
from richsem_train.targets import Target


@dataclass(frozen=True, eq=False)
class Federation:
    """How many classes a stage's class loss sees, and how eagerly each is drawn.

    Attributes:
        weights: float32 [C], `federated_weights`.
        total: of a draw. One of them is the background, as in the reference, which isn't learnt: classes that are there
            are topped up to one less.
    """

    weights: Tensor
    total: int


def draw_stage_classes(
    truth: Truth, regions: Regions, federation: Federation | None, generators: Sequence[torch.Generator]
) -> FederatedClasses | None:
    """The classes that a stage's class loss sees in the pictures of each draw; None for all.

    Source:
        Detic's. Present are classes of objects that a region answers for; in later stages those may be fewer.
    """
    if federation is None:
        return None
    objects = truth.objects
    answers_BM = _answers(regions, objects)
    labels_BM = objects.labels.where((answers_BM > 0) & truth.has_class_loss[:, None], 0)
    pictures = len(truth.targets) // len(generators)
    return draw_federated(
        labels_BM[truth.image, truth.number],
        truth.image // pictures,
        federation.weights,
        total=federation.total - 1,
        losses=1,
        generators=generators,
    )


def class_loss(logits_BRC: Tensor, regions: Regions, truth: Truth, classes: FederatedClasses | None) -> Tensor:
    """Binary cross-entropy, summed over regions and classes that take part; the background says no to all of them."""
    wanted_BR = regions.of_objects(truth.objects.labels).where(regions.is_positive, 0)
    if classes is None:
        ids = torch.arange(logits_BRC.shape[-1], device=logits_BRC.device).expand(1, 1, -1)
        logits_BRK, counts = logits_BRC, ids > 0
    else:
        pictures = len(logits_BRC) // classes.ids.shape[1]
        ids, counts = (each[0].repeat_interleave(pictures, dim=0)[:, None] for each in (classes.ids, classes.taught))
        logits_BRK = logits_BRC.gather(2, ids.expand(-1, logits_BRC.shape[1], -1))
    entropy_BRK = functional.binary_cross_entropy_with_logits(
        logits_BRK, (wanted_BR[..., None] == ids).to(logits_BRK.dtype), reduction="none"
    )
    is_taught_BR = regions.is_real & truth.has_class_loss[:, None]
    return (entropy_BRK * (counts & is_taught_BR[..., None])).sum()


def box_loss(deltas_BR4: Tensor, wanted_BR4: Tensor, is_taught_BR: Tensor) -> Tensor:
    """L1 of deltas, summed over the regions that are taught."""
    return ((deltas_BR4 - wanted_BR4).abs().sum(-1) * is_taught_BR).sum()


def region_soft_loss(soft_loss: SoftLoss, student_logits_BRC: Tensor, regions: Regions, truth: Truth) -> Tensor:
    """Divergence of regions from the soft labels of their objects: the mean of each object's, summed over objects.

    Every object counts as much as any other, so that sums over parts of a step add up, and the number of objects, which
    the host knows, divides them.
    """
    teachers = [target for target in truth.targets if teaches(target) and len(target.labels)]
    if not teachers:
        return student_logits_BRC.sum() * 0
    is_taught_BR = regions.is_positive & truth.is_soft[:, None]
    rows_BR = (truth.first_soft[:, None] + regions.object).where(is_taught_BR, 0)
    divergences_BR = soft_loss(student_logits_BRC.flatten(0, 1), teachers, rows_BR.flatten()).view_as(rows_BR)
    answers_BR = regions.of_objects(_answers(regions, truth.objects)).clamp(min=1)
    return (divergences_BR / answers_BR).where(is_taught_BR, 0).sum()


def largest_region_loss(logits_BRC: Tensor, regions: Regions, areas_BR: Tensor, targets: Sequence[Target]) -> Tensor:
    """The largest region of each picture against the labels of the picture, summed over pictures.

    Source:
        Detic, max-size. Of several regions the last one never counts there: it was meant for the whole picture.
    """
    place_R = torch.arange(areas_BR.shape[1], device=areas_BR.device)
    last_B1 = place_R.where(regions.is_real, -1).amax(1, keepdim=True)
    is_candidate_BR = regions.is_real & ((place_R != last_B1) | (regions.is_real.sum(1, keepdim=True) == 1))
    areas_1BR = areas_BR.where(is_candidate_BR, -1.0)[None]
    return image_label_losses(areas_1BR, logits_BRC[None], [target.image_labels for target in targets])[0]


def _answers(regions: Regions, objects: Objects) -> Tensor:
    """How many regions answer for each object, float32 [B, M]."""
    nobody_BM = torch.zeros(objects.labels.shape, device=objects.labels.device)
    return nobody_BM.scatter_add(1, regions.object, regions.is_positive.to(nobody_BM.dtype))
