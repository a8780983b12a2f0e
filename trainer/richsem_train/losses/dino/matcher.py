"""Which query answers for which object."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from richsem_train.devices import sent
from richsem_train.numerics import NonFiniteError, cxcywh_to_xyxy, giou
from richsem_train.targets import Target

Match = tuple[Tensor, Tensor]
"""Queries and objects of one picture, int64 [min(Q, G)] each, on the CPU; pair by pair, by rising query."""

# The focal loss's, since the cost imitates it.
_ALPHA, _GAMMA = 0.25, 2.0
# Inside the logarithms, as in the reference: it bounds the cost of a class that is thought impossible.
_LOG_FLOOR = 1e-8


@dataclass(frozen=True)
class HungarianMatcher:
    """The cheapest one-to-one assignment of queries to objects, picture by picture.

    The cost of a pair is `class_cost` x focal-style class cost + `bbox_cost` x L1 - `giou_cost` x GIoU, in fp32;
    without the class term for unlabelled pictures.

    Source:
        Deformable DETR and the reference. Differs: all layers are matched at once, by one transfer from the device;
        only the logits of classes that are there are looked at; what isn't finite raises.
    """

    class_cost: float = 2.0
    bbox_cost: float = 5.0
    giou_cost: float = 2.0

    @torch.no_grad()
    def match_stages(
        self, stages: Mapping[str, tuple[Tensor, Tensor]], targets: Sequence[Target]
    ) -> dict[str, list[list[Match]]]:
        """Match the layers of several stages with a single transfer from the device.

        Args:
            stages: by name, class logits [S, B, Q, C] and boxes (cxcywh, normalised) [S, B, Q, 4] of S layers; they may
                differ in layers and queries, not in pictures.
            targets: B of them, on the same device.

        Returns:
            By stage, layer and picture.

        Raises:
            NonFiniteError: a cost isn't finite.
        """
        cost_BXG = self._costs(list(stages.values()), targets)
        rows = [logits.shape[0] * logits.shape[2] for logits, _ in stages.values()]
        counts = [len(target.labels) for target in targets]
        matches: dict[str, list[list[Match]]] = {}
        for (name, (logits, boxes)), part_BXG in zip(stages.items(), cost_BXG.cpu().split(rows, dim=1), strict=True):
            cost_SBQG = part_BXG.unflatten(1, (len(logits), -1)).transpose(0, 1).numpy()
            if not _finite(cost_SBQG, counts):
                raise _non_finite(name, cost_SBQG, logits, boxes, targets)
            matches[name] = [
                [_assign(cost_QG[:, :count]) for cost_QG, count in zip(cost_BQG, counts, strict=True)]
                for cost_BQG in cost_SBQG
            ]
        return matches

    @torch.no_grad()
    def costs(self, logits_SBQC: Tensor, boxes_SBQ4: Tensor, targets: Sequence[Target]) -> Tensor:
        """The cost of every query for every object, float32 [S, B, Q, G]; G is the most objects of a picture.

        Columns beyond a picture's own objects hold nothing of meaning.
        """
        cost_BXG = self._costs([(logits_SBQC, boxes_SBQ4)], targets)
        return cost_BXG.unflatten(1, (len(logits_SBQC), -1)).transpose(0, 1)

    def _costs(self, stages: Sequence[tuple[Tensor, Tensor]], targets: Sequence[Target]) -> Tensor:
        """Of all layers' queries side by side, float32 [B, X, G]; layer by layer of each stage."""
        labels_BG, truth_BG4 = _side_by_side(targets)
        is_taught_B = torch.tensor([target.supervision != "unlabelled" for target in targets])
        class_cost_B = sent(self.class_cost * is_taught_B, labels_BG.device)
        logits_BXG = torch.cat([_logits_of(labels_BG, logits) for logits, _ in stages], dim=1)
        boxes_BX14 = torch.cat([boxes.transpose(0, 1).flatten(1, 2) for _, boxes in stages], dim=1).float()[:, :, None]
        truth_B1G4 = truth_BG4[:, None]
        distance = (boxes_BX14 - truth_B1G4).abs().sum(-1)
        overlap = giou(cxcywh_to_xyxy(boxes_BX14), cxcywh_to_xyxy(truth_B1G4))
        classes = _class_costs(logits_BXG) * class_cost_B[:, None, None]
        return classes + self.bbox_cost * distance - self.giou_cost * overlap


def _side_by_side(targets: Sequence[Target]) -> tuple[Tensor, Tensor]:
    """Labels [B, G] and boxes float32 [B, G, 4] of all pictures, rubbish where one has fewer than the most objects."""
    counts_B = torch.tensor([len(target.labels) for target in targets])
    most = int(counts_B.max())
    labels_N = torch.cat([target.labels for target in targets])
    boxes_N4 = torch.cat([target.boxes_cxcywh_norm for target in targets]).float()
    rows_BG = (counts_B.cumsum(0) - counts_B)[:, None] + torch.arange(most)
    rows_BG = sent(rows_BG.clamp(max=max(len(labels_N) - 1, 0)), labels_N.device)
    return labels_N[rows_BG], boxes_N4[rows_BG]


def _logits_of(labels_BG: Tensor, logits_SBQC: Tensor) -> Tensor:
    """Those of each picture's labels alone, [B, S * Q, G]."""
    layers, _, queries, _ = logits_SBQC.shape
    columns_BSQG = labels_BG[:, None, None].expand(-1, layers, queries, -1)
    return logits_SBQC.transpose(0, 1).gather(-1, columns_BSQG).flatten(1, 2)


def _class_costs(logits: Tensor) -> Tensor:
    """Focal loss of a query if it had to be the class, less that if it hadn't: float32, of the same shape."""
    chance = logits.float().sigmoid()
    as_object = _ALPHA * (1 - chance) ** _GAMMA * -(chance + _LOG_FLOOR).log()
    as_background = (1 - _ALPHA) * chance**_GAMMA * -(1 - chance + _LOG_FLOOR).log()
    return as_object - as_background


def _assign(cost_QG: NDArray[np.float32]) -> Match:
    queries, objects = linear_sum_assignment(cost_QG)
    return torch.from_numpy(queries), torch.from_numpy(objects)


def _finite(cost_SBQG: NDArray[np.float32], counts: Sequence[int]) -> bool:
    return all(bool(np.isfinite(cost_SBQG[:, b, :, :count]).all()) for b, count in enumerate(counts))


def _non_finite(
    stage: str, cost_SBQG: NDArray[np.float32], logits_SBQC: Tensor, boxes_SBQ4: Tensor, targets: Sequence[Target]
) -> NonFiniteError:
    """Say where, now that the time it takes doesn't matter."""
    found = []
    for b, target in enumerate(targets):
        if not np.isfinite(cost_SBQG[:, b, :, : len(target.labels)]).all():
            parts = {
                "class logits": logits_SBQC[:, b],
                "predicted boxes": boxes_SBQ4[:, b],
                "true boxes": target.boxes_cxcywh_norm[None],
            }
            for what, values in parts.items():
                layers = (~values.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
                where = "" if what == "true boxes" else f" ({stage}, layers {layers})"
                if layers:
                    found.append(f"{what} of picture {target.image_id}, number {b} of the batch{where}")
    return NonFiniteError(f"not finite: {'; '.join(found) or 'the costs of matching'}")
