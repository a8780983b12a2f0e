"""The losses of stages: their queries, layer by layer, against the objects that they answer for."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from richsem_train.devices import sent
from richsem_train.losses.dino.matcher import Match
from richsem_train.losses.federated import FederatedClasses
from richsem_train.numerics import cxcywh_to_xyxy, giou
from richsem_train.targets import Target

ALPHA, GAMMA = 0.25, 2
"""Of the focal losses."""

_NO_OBJECT = -1


@dataclass(frozen=True, eq=False)
class Truth:
    """The objects of a batch side by side.

    Attributes:
        labels: int64 [G].
        boxes: float32 [G, 4] cxcywh, normalised.
        taught_labels: int64 [G], 0 in pictures without a class loss.
        is_taught: bool [B], whether a picture has a class loss.
        counts: objects of each picture.
    """

    labels: Tensor
    boxes: Tensor
    taught_labels: Tensor
    is_taught: Tensor
    counts: tuple[int, ...]

    @classmethod
    def of(cls, targets: Sequence[Target]) -> "Truth":
        """The objects of B targets."""
        labels_G = torch.cat([target.labels for target in targets])
        taught = [
            target.labels if target.supervision == "labelled" else torch.zeros_like(target.labels) for target in targets
        ]
        is_taught_B = torch.tensor([target.supervision == "labelled" for target in targets])
        return cls(
            labels_G,
            torch.cat([target.boxes_cxcywh_norm for target in targets]).float(),
            torch.cat(taught),
            sent(is_taught_B, labels_G.device),
            tuple(len(target.labels) for target in targets),
        )

    @property
    def device(self) -> torch.device:
        """Of all tensors."""
        return self.labels.device


def answers(
    matches: Sequence[Match], queries: int, counts: Sequence[int], pictures: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """The pairs of pictures side by side, on the CPU.

    Args:
        matches: of the pictures.
        queries: of a picture, Q.
        counts: objects of each picture.
        pictures: their places in the batch; by default they are the batch.

    Returns:
        int64 [P] each: rows of the batch's queries laid end to end, [B * Q], and of the pictures' objects.
    """
    places = range(len(counts)) if pictures is None else pictures
    firsts = [sum(counts[:picture]) for picture in range(len(counts))]
    rows = [own + place * queries for place, (own, _) in zip(places, matches, strict=True)]
    objects = [own + first for first, (_, own) in zip(firsts, matches, strict=True)]
    return torch.cat(rows), torch.cat(objects)


@dataclass(frozen=True, eq=False)
class TaughtClasses:
    """The classes that take part in each of S class losses; all of them without a federated draw.

    Attributes:
        drawn: by loss and draw.
        pictures: a draw.
    """

    drawn: FederatedClasses | None
    pictures: int

    def __getitem__(self, layers: slice) -> "TaughtClasses":
        if self.drawn is None:
            return self
        return TaughtClasses(FederatedClasses(self.drawn.ids[layers], self.drawn.taught[layers]), self.pictures)

    def select(self, logits_SBQC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [S, B, Q, K], and which classes these are and whether they count, both [S, B, 1, K] or alike."""
        if self.drawn is None:
            ids = torch.arange(logits_SBQC.shape[-1], device=logits_SBQC.device).expand(1, 1, 1, -1)
            return logits_SBQC, ids, torch.ones_like(ids, dtype=torch.bool)
        ids, taught = (
            each.repeat_interleave(self.pictures, dim=1)[:, :, None] for each in (self.drawn.ids, self.drawn.taught)
        )
        return logits_SBQC.gather(-1, ids.expand(*logits_SBQC.shape[:3], -1)), ids, taught


@dataclass(frozen=True, eq=False)
class Stage:
    """The queries of S layers that learn the truth: the decoder's, the encoder's proposals, or denoising ones.

    Attributes:
        logits: [S, B, Q, C].
        boxes: [S, B, Q, 4] cxcywh, normalised.
        matches: the objects that they answer for, by layer and picture; of one layer where they are the same in all.
        weight: float32 [B, Q], how much each query counts.
        classes: those that take part in its S class losses.
    """

    logits: Tensor
    boxes: Tensor
    matches: Sequence[Sequence[Match]]
    weight: Tensor
    classes: TaughtClasses

    def answers(self, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Rows of its queries, [S * B * Q], and of all pictures' objects, int64 [S * P] each, on the CPU."""
        layers, pictures, queries = self.boxes.shape[:3]
        rows, objects = zip(*(answers(of_layer, queries, counts) for of_layer in self.matches), strict=True)
        rows_SP = torch.stack(rows) + pictures * queries * torch.arange(layers)[:, None]
        return rows_SP.flatten(), torch.stack(objects).expand_as(rows_SP).flatten()


def stage_losses(stages: Sequence[Stage], truth: Truth) -> list[dict[str, Tensor]]:
    """Sums over queries, weighted, of each stage's layers: `loss_class`, `loss_bbox` and `loss_giou`, [S] each.

    All stages are computed at once, their queries laid end to end: a launch costs the host more than the device.
    """
    rows, objects = zip(*(stage.answers(truth.counts) for stage in stages), strict=True)
    firsts = [
        sum(stage.weight.numel() * len(stage.boxes) for stage in stages[:number]) for number in range(len(stages))
    ]
    rows_P = torch.cat([own + first for own, first in zip(rows, firsts, strict=True)])
    # One transfer.
    rows_P, objects_P = sent(torch.stack([rows_P, torch.cat(objects)]), truth.device)
    weight_N = torch.cat([stage.weight.expand(stage.boxes.shape[:3]).flatten() for stage in stages])
    terms_2P = _box_terms(stages, truth, rows_P, objects_P) * weight_N[rows_P]
    of_boxes = terms_2P.split([len(own) for own in rows], dim=1)
    of_classes = _class_losses(stages, truth, rows_P, objects_P, weight_N)
    found = []
    for stage, boxes_2P, classes_S in zip(stages, of_boxes, of_classes, strict=True):
        layers = len(stage.boxes)
        loss_bbox, loss_giou = boxes_2P.unflatten(1, (layers, boxes_2P.shape[1] // layers)).sum(-1)
        found.append({"loss_class": classes_S, "loss_bbox": loss_bbox, "loss_giou": loss_giou})
    return found


def _box_terms(stages: Sequence[Stage], truth: Truth, rows_P: Tensor, objects_P: Tensor) -> Tensor:
    """L1 distances and one less the GIoUs, [2, P]."""
    boxes_N4 = torch.cat([stage.boxes.flatten(0, 2) for stage in stages])
    predicted_P4 = boxes_N4.index_select(0, rows_P).float()
    true_P4 = truth.boxes.index_select(0, objects_P)
    overlap_P = giou(cxcywh_to_xyxy(predicted_P4), cxcywh_to_xyxy(true_P4))
    return torch.stack([(predicted_P4 - true_P4).abs().sum(-1), 1 - overlap_P])


def _class_losses(
    stages: Sequence[Stage], truth: Truth, rows_P: Tensor, objects_P: Tensor, weight_N: Tensor
) -> list[Tensor]:
    """Focal losses by stage, [S] each."""
    classes_N = torch.full(weight_N.shape, _NO_OBJECT, dtype=truth.labels.dtype, device=truth.device)
    classes_N[rows_P] = truth.labels[objects_P]
    sizes = [stage.weight.numel() * len(stage.logits) for stage in stages]
    logits, wanted, counts = [], [], []
    for stage, stage_classes_N in zip(stages, classes_N.split(sizes), strict=True):
        logits_SBQK, ids, is_counted = stage.classes.select(stage.logits)
        wanted_SBQK = stage_classes_N.view(*logits_SBQK.shape[:3], 1) == ids
        logits.append(logits_SBQK.flatten(0, 2))
        wanted.append(wanted_SBQK.flatten(0, 2))
        counts.append((is_counted & truth.is_taught[:, None, None]).expand_as(wanted_SBQK).flatten(0, 2))
    focal_NK = focal_loss(torch.cat(logits).float(), torch.cat(wanted).float()) * torch.cat(counts)
    losses = (focal_NK.sum(-1) * weight_N).split(sizes)
    return [loss_N.view(len(stage.logits), -1).sum(1) for stage, loss_N in zip(stages, losses, strict=True)]


def focal_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Focal loss of each logit against what is wanted, 0 or 1, all of one shape.

    Source:
        Lin et al. 2017 (arXiv 1708.02002), alpha 0.25 and gamma 2. The chance of being wrong and its entropy are both
        of one signed logit, which torchvision's `sigmoid_focal_loss` computes in twice the operators.
    """
    against = logits * torch.rsub(wanted, 1, alpha=2)
    share = torch.rsub(wanted, 1 - ALPHA, alpha=1 - 2 * ALPHA)
    return functional.softplus(against) * against.sigmoid().square() * share
