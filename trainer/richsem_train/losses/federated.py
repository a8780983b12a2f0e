"""Which classes an incompletely annotated batch may say "no" to."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from richsem_train.devices import sent


@dataclass(frozen=True, eq=False)
class FederatedClasses:
    """The classes that take part in S class losses, in each of A draws.

    Attributes:
        ids: int64 [S, A, K], rows of the vocabulary, each at most once a loss and draw.
        taught: bool [S, A, K], False where `ids` only fills up.
    """

    ids: Tensor
    taught: Tensor


def federated_weights(image_counts_C: Tensor) -> Tensor:
    """How eagerly each class is drawn: image_count^0.5, float32 [C]; row 0 ("none") never.

    Counted are training pictures that show the class. The power is the reference's.
    """
    weights_C = image_counts_C.float() ** 0.5
    weights_C[0] = 0.0
    return weights_C.where(image_counts_C > 0, 0.0)


def draw_federated(
    labels_G: Tensor,
    draws_G: Tensor,
    weights_C: Tensor,
    *,
    total: int,
    losses: int,
    generators: Sequence[torch.Generator],
) -> FederatedClasses:
    """All classes of each draw's pictures, topped up to `total` by classes drawn by weight without replacement.

    The host never waits for the device: the number of columns follows from shapes alone.

    Args:
        labels_G: int64, classes of the batch's objects, repeats allowed; 0 counts as no label.
        draws_G: int64, the draw that each object's picture belongs to.
        weights_C: float32, of `federated_weights`; classes of weight 0 are never drawn (but taught where present).
        total: classes a loss; fewer where too few have weight, more where a draw alone has more.
        losses: S, each with classes of its own.
        generators: one for each of A draws, on any device; the same classes for the same state on the same kind of
            device.

    Returns:
        K = min(C, max(total, G)) columns for each loss and draw.

    Source:
        Zhou et al. 2021 (arXiv 2103.07461, federated loss) as the reference uses it: 50 in total, positives included.
        Drawn by exponential races, which is the same distribution as successive draws.
    """
    classes = len(weights_C)
    races = [torch.empty(losses, classes, device=each.device).exponential_(generator=each) for each in generators]
    arrivals_SAC = sent(torch.stack(races, dim=1), weights_C.device) / weights_C
    arrivals_SAC = arrivals_SAC.where(weights_C > 0, torch.inf)
    arrivals_SAC[:, draws_G, labels_G] = -1.0
    arrivals_SAC[..., 0] = torch.inf
    earliest, ids_SAK = arrivals_SAC.topk(min(classes, max(total, len(labels_G))), largest=False, sorted=True)
    is_early_K = torch.arange(ids_SAK.shape[-1], device=ids_SAK.device) < total
    return FederatedClasses(ids_SAK, (earliest < 0) | (is_early_K & earliest.isfinite()))
