"""What model and losses agree on: box formats, how well boxes agree, and where half precision is too little."""

import torch
from torch import Tensor

# Smallest area that divides; truth is never this small (a pixel of a 1333 px side is 5.6e-7).
_MIN_AREA = 1e-12


class NonFiniteError(FloatingPointError):
    """The model's outputs, or the truth, hold NaN or infinity; names the picture and the place."""


def at_least_float32(values: Tensor) -> Tensor:
    """Values in float32, or as they are where wider; half precision loses pixels and scaled cosines."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def cxcywh_to_xyxy(boxes_cxcywh: Tensor) -> Tensor:
    """Corners of boxes given by centre and size: [..., 4] to [..., 4]."""
    centre, size = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def giou(boxes_xyxy: Tensor, others_xyxy: Tensor) -> Tensor:
    """Generalised IoU of boxes that broadcast: [..., 4] and [..., 4] to [...]; all pairs of N and M by a new axis.

    Returns:
        In -1..1; finite, with finite gradients, for boxes without area as well.

    Source:
        Rezatofighi et al. 2019 (arXiv 1902.09630). Equals torchvision's, which indexes with a mask (on a GPU the host
        waits for that) and doesn't broadcast.
    """
    overlap, union = _overlap_and_union(boxes_xyxy, others_xyxy)
    hull = _area(
        torch.minimum(boxes_xyxy[..., :2], others_xyxy[..., :2]),
        torch.maximum(boxes_xyxy[..., 2:], others_xyxy[..., 2:]),
    )
    return overlap / union.clamp(min=_MIN_AREA) - (hull - union) / hull.clamp(min=_MIN_AREA)


def iou(boxes_xyxy: Tensor, others_xyxy: Tensor) -> Tensor:
    """IoU of boxes that broadcast: [..., 4] and [..., 4] to [...]; 0 for boxes without area.

    Source:
        Equals torchvision's, which doesn't broadcast.
    """
    overlap, union = _overlap_and_union(boxes_xyxy, others_xyxy)
    return overlap / union.clamp(min=_MIN_AREA)


def _overlap_and_union(boxes_xyxy: Tensor, others_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    overlap = _area(
        torch.maximum(boxes_xyxy[..., :2], others_xyxy[..., :2]),
        torch.minimum(boxes_xyxy[..., 2:], others_xyxy[..., 2:]),
    )
    areas = _area(boxes_xyxy[..., :2], boxes_xyxy[..., 2:]) + _area(others_xyxy[..., :2], others_xyxy[..., 2:])
    return overlap, areas - overlap


def _area(low_xy: Tensor, high_xy: Tensor) -> Tensor:
    width, height = (high_xy - low_xy).clamp(min=0).unbind(-1)
    return width * height
