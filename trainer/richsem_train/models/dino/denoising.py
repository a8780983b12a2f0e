"""Contrastive denoising: true boxes and labels, spoilt a little or a lot, for the decoder to repair or to reject."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from richsem_train.devices import sent
from richsem_train.numerics import cxcywh_to_xyxy
from richsem_train.outputs.dino import DenoisingQueries
from richsem_train.targets import Target

PADDING_BOX = 0.5
"""Every number of the box of a query that stands for nothing."""


def draw_denoising(
    targets: Sequence[Target],
    *,
    dn_queries: int,
    label_noise: float,
    box_noise: float,
    num_classes: int,
    generators: Sequence[torch.Generator],
) -> DenoisingQueries | None:
    """Spoil the truth of a batch, draw by draw: what a picture gets depends on the pictures of its draw alone.

    Args:
        targets: one a picture.
        dn_queries: positive queries a picture to aim at; there are max(1, dn_queries // M) groups. 0: none.
        label_noise: half of this share of the labels is replaced by random rows. Labels of unlabelled pictures, and
            labels that are row 0, stay row 0.
        box_noise: 1.0 moves a corner by at most half the box's side in positive queries, by half to a whole side in
            negative ones.
        num_classes: rows of the vocabulary.
        generators: the only source of randomness, on the CPU; one for each draw, which are of equal numbers of
            consecutive pictures.

    Returns:
        None where no picture has an object.

    Source:
        Zhang et al. 2022, DINO (arXiv 2203.03605), section 3.3.
    """
    counts = [len(target.labels) for target in targets]
    if not any(counts) or dn_queries <= 0:
        return None
    pictures, rest = divmod(len(targets), len(generators))
    assert not rest, "draws are of equal numbers of pictures"
    most = [max(counts[first : first + pictures]) for first in range(0, len(counts), pictures)]
    groups = [max(1, dn_queries // objects) if objects else 0 for objects in most]
    sizes = [2 * objects * number for objects, number in zip(most, groups, strict=True)]
    device = targets[0].labels.device
    # What only host and generators decide is made there, and brought over at once.
    slots = _slots(counts, _repeated(most, pictures), _repeated(groups, pictures), max(sizes))
    positives = _positives(slots)
    slots = _Slots(*sent(torch.stack(slots), device))
    chance_BN, random_BN, move_BN4 = (
        sent(each, device) for each in _drawn_noise(sizes, pictures, num_classes, generators)
    )
    padding_BN = slots.object < 0
    labels_BN = _true_labels(targets)[slots.object].masked_fill(padding_BN, 0)
    boxes_BN4 = torch.cat([target.boxes_cxcywh_norm for target in targets])[slots.object]
    # Negative queries move as far as positive ones, and half a side more.
    move_BN4 = move_BN4 + slots.is_negative[..., None] * torch.where(move_BN4 < 0, -1, 1)
    return DenoisingQueries(
        labels=labels_BN.where((chance_BN >= label_noise / 2) | (labels_BN == 0), random_BN),
        boxes=_moved(boxes_BN4, box_noise * move_BN4.to(boxes_BN4)).masked_fill(padding_BN[..., None], PADDING_BOX),
        padding=padding_BN,
        group=slots.group,
        groups=tuple(_repeated(groups, pictures)),
        positives=positives,
    )


class _Slots(NamedTuple):
    """The origin of each query, int64 [B, N] each.

    Attributes:
        group: its number in the picture; -1 for none.
        object: a row of all pictures' objects; -1 for none.
        is_negative: 1 where it is to be rejected.
        of_picture: the object, counted in its picture.
    """

    group: Tensor
    object: Tensor
    is_negative: Tensor
    of_picture: Tensor


def _slots(counts: Sequence[int], most: Sequence[int], groups: Sequence[int], count: int) -> _Slots:
    counts_B1, most_B1, groups_B1 = (torch.tensor(each)[:, None] for each in (counts, most, groups))
    half_B1 = most_B1.clamp(min=1)
    query_N = torch.arange(count)
    group_BN = query_N // (2 * half_B1)
    of_picture_BN = query_N % half_B1
    is_drawn_BN = group_BN < groups_B1
    first_B1 = counts_B1.cumsum(0) - counts_B1
    return _Slots(
        group=group_BN.where(is_drawn_BN, -1),
        object=(first_B1 + of_picture_BN).where(is_drawn_BN & (of_picture_BN < counts_B1), -1),
        is_negative=query_N // half_B1 % 2,
        of_picture=of_picture_BN,
    )


def _positives(slots: _Slots) -> tuple[tuple[Tensor, Tensor], ...]:
    is_positive_BN = (slots.object >= 0) & (slots.is_negative == 0)
    queries = [row_N.nonzero()[:, 0] for row_N in is_positive_BN]
    return tuple((each, of_picture_N[each]) for each, of_picture_N in zip(queries, slots.of_picture, strict=True))


def _drawn_noise(
    sizes: Sequence[int], pictures: int, num_classes: int, generators: Sequence[torch.Generator]
) -> tuple[Tensor, Tensor, Tensor]:
    """Chances [B, N] in 0..1, rows of the vocabulary [B, N], and moves [B, N, 4] in -1..1."""
    chances, rows, moves = [], [], []
    for size, generator in zip(sizes, generators, strict=True):
        lacking = max(sizes) - size
        chances.append(functional.pad(torch.rand(pictures, size, generator=generator), (0, lacking)))
        rows.append(functional.pad(torch.randint(num_classes, (pictures, size), generator=generator), (0, lacking)))
        moves.append(functional.pad(2 * torch.rand(pictures, size, 4, generator=generator) - 1, (0, 0, 0, lacking)))
    return torch.cat(chances), torch.cat(rows), torch.cat(moves)


def _true_labels(targets: Sequence[Target]) -> Tensor:
    return torch.cat([target.labels * (target.supervision != "unlabelled") for target in targets])


def _moved(boxes_BN4: Tensor, by_BN4: Tensor) -> Tensor:
    """Boxes whose corners (left, top, right, bottom) have moved by so many half sides, inside of the picture."""
    half_BN2 = boxes_BN4[..., 2:] / 2
    moved = (cxcywh_to_xyxy(boxes_BN4) + by_BN4 * half_BN2.repeat(1, 1, 2)).clamp(0, 1)
    # Corners of negative queries may have passed each other.
    sides = (moved[..., 2:] - moved[..., :2]).clamp(min=0)
    return torch.cat([(moved[..., :2] + moved[..., 2:]) / 2, sides], dim=-1)


def _repeated(of_draws: Sequence[int], pictures: int) -> list[int]:
    """Values of draws, for each of their pictures."""
    return [each for each in of_draws for _ in range(pictures)]
