"""How far one box is from another: shifts of the centre in sides of the first, and logarithms of the sides' ratios."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from richsem_train.devices import sent

# A side grows by at most 1000 / 16, so that an untrained head gives finite boxes.
_MOST_GROWTH = math.log(1000 / 16)
# Pixels. Regions without area have finite deltas, which no loss counts.
_LEAST_SIDE = 1e-6


def encode_boxes(boxes_xyxy: Tensor, wanted_xyxy: Tensor, weights: Sequence[float]) -> Tensor:
    """Weighted deltas from boxes to wanted ones, [..., 4]: of x, y, width and height; finite for boxes without area.

    Source:
        Girshick et al. 2014 (arXiv 1311.2524), appendix C; torchvision's `BoxCoder` has the same.
    """
    centre, sides = _centre_and_sides(boxes_xyxy)
    wanted_centre, wanted_sides = _centre_and_sides(wanted_xyxy)
    sides, wanted_sides = sides.clamp(min=_LEAST_SIDE), wanted_sides.clamp(min=_LEAST_SIDE)
    deltas = torch.cat([(wanted_centre - centre) / sides, (wanted_sides / sides).log()], dim=-1)
    return deltas * _like(deltas, weights)


def decode_boxes(deltas: Tensor, boxes_xyxy: Tensor, weights: Sequence[float]) -> Tensor:
    """The boxes that weighted deltas lead to, [..., 4]: the reverse of `encode_boxes`."""
    centre, sides = _centre_and_sides(boxes_xyxy)
    shift, growth = (deltas / _like(deltas, weights)).split(2, dim=-1)
    centre, half_sides = centre + shift * sides, growth.clamp(max=_MOST_GROWTH).exp() * sides / 2
    return torch.cat([centre - half_sides, centre + half_sides], dim=-1)


def clipped(boxes_xyxy_px_BR4: Tensor, image_hw_B2: Tensor) -> Tensor:
    """Boxes within their pictures of so many pixels."""
    limits_B14 = image_hw_B2.flip(-1).repeat(1, 2)[:, None].to(boxes_xyxy_px_BR4)
    return boxes_xyxy_px_BR4.clamp(min=0).minimum(limits_B14)


def areas(boxes_xyxy: Tensor) -> Tensor:
    """Width times height, [..., 4] to [...]; 0 where a side is negative."""
    return (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).clamp(min=0).prod(dim=-1)


def _centre_and_sides(boxes_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    low, high = boxes_xyxy.split(2, dim=-1)
    return (low + high) / 2, high - low


def _like(deltas: Tensor, weights: Sequence[float]) -> Tensor:
    return sent(torch.tensor(weights, dtype=deltas.dtype), deltas.device)
