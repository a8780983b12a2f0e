"""Which classes an incompletely annotated batch may say "no" to."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class FederatedClasses:
    """The classes that take part in S class losses.

    Attributes:
        ids: int64 [S, K], rows of the vocabulary, each at most once a loss.
        taught: bool [S, K], False where `ids` only fills up.
    """

    ids: Tensor
    taught: Tensor

    def mask(self, classes: int) -> Tensor:
        """As bool [S, C], True where the class takes part."""
        empty = torch.zeros(len(self.ids), classes, dtype=torch.bool, device=self.ids.device)
        return empty.scatter(1, self.ids, self.taught)


def federated_weights(image_counts_C: Tensor, *, power: float = 0.5) -> Tensor:
    """How eagerly each class is drawn: image_count^power, float32 [C]; row 0 ("none") never.

    Args:
        image_counts_C: training pictures that show the class; row = row of the vocabulary.
        power: 0.5 in the reference.
    """
    weights_C = image_counts_C.float() ** power
    weights_C[0] = 0.0
    return weights_C.where(image_counts_C > 0, 0.0)


def draw_federated(
    labels_G: Tensor, weights_C: Tensor, *, total: int, losses: int, generator: torch.Generator
) -> FederatedClasses:
    """All classes of the batch, topped up to `total` by classes drawn by weight without replacement.

    The host never waits for the device: the number of columns follows from shapes alone.

    Args:
        labels_G: int64, classes of the batch's objects, repeats allowed; 0 counts as no label.
        weights_C: float32, of `federated_weights`; classes of weight 0 are never drawn (but taught where present).
        total: classes a loss; fewer where too few have weight, more where the batch alone has more.
        losses: S, each with a draw of its own.
        generator: on any device; the same draw for the same state on the same kind of device.

    Returns:
        S draws of K = min(C, max(total, G)) columns.

    Source:
        Zhou et al. 2021 (arXiv 2103.07461, federated loss) as the reference uses it: 50 in total, positives included.
        Drawn by exponential races, which is the same distribution as successive draws.
    """
    classes = len(weights_C)
    arrivals_SC = torch.empty(losses, classes, device=generator.device).exponential_(generator=generator)
    arrivals_SC = arrivals_SC.to(weights_C.device, non_blocking=True) / weights_C
    arrivals_SC = arrivals_SC.where(weights_C > 0, torch.inf)
    arrivals_SC[:, labels_G] = -1.0
    arrivals_SC[:, 0] = torch.inf
    earliest, ids_SK = arrivals_SC.topk(min(classes, max(total, len(labels_G))), largest=False, sorted=True)
    is_early = torch.arange(ids_SK.shape[1], device=ids_SK.device) < total
    return FederatedClasses(ids_SK, (earliest < 0) | (is_early & earliest.isfinite()))
