"""Contrastive denoising: true boxes and labels, spoilt a little or a lot, for the decoder to repair or to reject."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from richsem_train.targets import Target

PADDING_BOX = 0.5
"""Every number of the box of a query that stands for nothing."""


@dataclass(frozen=True, eq=False)
class DenoisingQueries:
    """Queries made of the truth, in groups that don't see each other; N = groups * group_size of them a picture.

    A group holds M positive queries, then M negative ones, with M the most objects of any picture of the batch;
    where a picture has fewer, the rest is padding.

    Attributes:
        labels: int64 [B, N], rows of the vocabulary after noise; 0 at padding.
        boxes: [B, N, 4] cxcywh in [0, 1] after noise, relative to the picture without padding; 0.5 at padding.
        padding: bool [B, N], True where a query stands for nothing.
        groups: number of groups.
        group_size: queries a group, 2 * M.
        positives: for each picture, indices of the positive queries and of their objects, both int64 [groups * G].
    """

    labels: Tensor
    boxes: Tensor
    padding: Tensor
    groups: int
    group_size: int
    positives: tuple[tuple[Tensor, Tensor], ...]

    @property
    def count(self) -> int:
        """Queries a picture, N."""
        return self.groups * self.group_size

    def attention_mask(self, queries: int) -> Tensor:
        """Who must not see whom, the denoising queries first.

        Args:
            queries: matching queries that follow.

        Returns:
            bool [N + queries, N + queries], True where a row must not see a column: matching queries see no denoising
            ones, since those know the truth; groups don't see each other.
        """
        group_N = torch.arange(self.count, device=self.labels.device) // self.group_size
        mask = torch.zeros(self.count + queries, self.count + queries, dtype=torch.bool, device=self.labels.device)
        mask[: self.count, : self.count] = group_N[:, None] != group_N
        mask[self.count :, : self.count] = True
        return mask

    def to(self, device: torch.device) -> "DenoisingQueries":
        """The same on another device."""
        return replace(
            self,
            labels=self.labels.to(device),
            boxes=self.boxes.to(device),
            padding=self.padding.to(device),
            positives=tuple((queries.to(device), objects.to(device)) for queries, objects in self.positives),
        )


def draw_denoising(
    targets: Sequence[Target],
    *,
    dn_queries: int,
    label_noise: float,
    box_noise: float,
    num_classes: int,
    generator: torch.Generator,
) -> DenoisingQueries | None:
    """Spoil the truth of a batch.

    Args:
        targets: one a picture.
        dn_queries: positive queries a picture to aim at; there are max(1, dn_queries // M) groups. 0: none.
        label_noise: half of this share of the labels is replaced by random rows. Labels of unlabelled pictures, and
            labels that are row 0, stay row 0.
        box_noise: 1.0 moves a corner by at most half the box's side in positive queries, by half to a whole side in
            negative ones.
        num_classes: rows of the vocabulary.
        generator: the only source of randomness; its device draws.

    Returns:
        None where no picture has an object.

    Source:
        Zhang et al. 2022, DINO (arXiv 2203.03605), section 3.3.
    """
    counts = [len(target.labels) for target in targets]
    most = max(counts, default=0)
    if most == 0 or dn_queries <= 0:
        return None
    groups = max(1, dn_queries // most)
    labels_BM, boxes_BM4, padding_BM = _padded_truth(targets, most)
    labels_BN = labels_BM.repeat(1, 2 * groups)
    padding_BN = padding_BM.repeat(1, 2 * groups)
    is_negative_N = torch.arange(2 * groups * most, device=labels_BN.device) // most % 2 == 1
    boxes_BN4 = _noisy_boxes(boxes_BM4.repeat(1, 2 * groups, 1), is_negative_N, box_noise, generator)
    return DenoisingQueries(
        labels=_noisy_labels(labels_BN, label_noise, num_classes, generator),
        boxes=boxes_BN4.masked_fill(padding_BN[..., None], PADDING_BOX),
        padding=padding_BN,
        groups=groups,
        group_size=2 * most,
        positives=tuple(_positives(count, most, groups, labels_BN.device) for count in counts),
    )


def _padded_truth(targets: Sequence[Target], most: int) -> tuple[Tensor, Tensor, Tensor]:
    labels_BM = targets[0].labels.new_zeros(len(targets), most)
    boxes_BM4 = targets[0].boxes_cxcywh_norm.new_full((len(targets), most, 4), PADDING_BOX)
    padding_BM = torch.ones_like(labels_BM, dtype=torch.bool)
    for row, target in enumerate(targets):
        count = len(target.labels)
        labels_BM[row, :count] = 0 if target.supervision == "unlabelled" else target.labels
        boxes_BM4[row, :count] = target.boxes_cxcywh_norm
        padding_BM[row, :count] = False
    return labels_BM, boxes_BM4, padding_BM


def _noisy_labels(labels_BN: Tensor, noise: float, num_classes: int, generator: torch.Generator) -> Tensor:
    shape, draws_on = labels_BN.shape, generator.device
    chance_BN = torch.rand(shape, generator=generator, device=draws_on).to(labels_BN.device)
    random_BN = torch.randint(num_classes, shape, generator=generator, device=draws_on).to(labels_BN.device)
    return torch.where((chance_BN < noise / 2) & (labels_BN != 0), random_BN, labels_BN)


def _noisy_boxes(boxes_BN4: Tensor, is_negative_N: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    shape, draws_on = boxes_BN4.shape, generator.device
    sign_BN4 = torch.randint(2, shape, generator=generator, device=draws_on).to(boxes_BN4) * 2 - 1
    size_BN4 = torch.rand(shape, generator=generator, device=draws_on).to(boxes_BN4) + is_negative_N[:, None]
    half_BN2 = boxes_BN4[..., 2:] / 2
    corners_BN4 = torch.cat([boxes_BN4[..., :2] - half_BN2, boxes_BN4[..., :2] + half_BN2], dim=-1)
    moved = (corners_BN4 + sign_BN4 * size_BN4 * half_BN2.repeat(1, 1, 2) * noise).clamp(0, 1)
    # Corners of negative queries may have passed each other.
    sides = (moved[..., 2:] - moved[..., :2]).clamp(min=0)
    return torch.cat([(moved[..., :2] + moved[..., 2:]) / 2, sides], dim=-1)


def _positives(count: int, most: int, groups: int, device: torch.device) -> tuple[Tensor, Tensor]:
    objects_G = torch.arange(count, device=device)
    starts = torch.arange(groups, device=device)[:, None] * 2 * most
    return (starts + objects_G).flatten(), objects_G.repeat(groups)
