"""Formats of boxes: by two corners (xyxy), by a corner and sides (xywh), by centre and sides (cxcywh)."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Float = TypeVar("Float", bound=np.floating)


def xywh_to_xyxy(boxes_xywh: NDArray[Float]) -> NDArray[Float]:
    """Both corners of boxes [..., 4], of the same type."""
    return np.concatenate([boxes_xywh[..., :2], boxes_xywh[..., :2] + boxes_xywh[..., 2:]], axis=-1)


def xyxy_to_xywh(boxes_xyxy: NDArray[Float]) -> NDArray[Float]:
    """The upper left corner and the sides of boxes [..., 4], of the same type."""
    return np.concatenate([boxes_xyxy[..., :2], boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]], axis=-1)


def xyxy_px_to_cxcywh_norm(boxes_xyxy_px: NDArray[np.floating], hw: tuple[int, int]) -> NDArray[np.float32]:
    """Centres and sides of boxes [..., 4] in pixels, as fractions of a height and width."""
    first, last = boxes_xyxy_px[..., :2].astype(np.float64), boxes_xyxy_px[..., 2:].astype(np.float64)
    sides = np.array([hw[1], hw[0]])
    return np.concatenate([(first + last) / 2 / sides, (last - first) / sides], axis=-1).astype(np.float32)


def iou(boxes_xyxy: NDArray[np.floating], others_xyxy: NDArray[np.floating]) -> NDArray[np.floating]:
    """Area in common over area of either, of boxes that broadcast: [..., 4] and [..., 4] to [...]; 0 without area."""
    corner, far_corner = np.maximum(boxes_xyxy, others_xyxy)[..., :2], np.minimum(boxes_xyxy, others_xyxy)[..., 2:]
    both = np.clip(far_corner - corner, 0, None).prod(axis=-1)
    either = _areas(boxes_xyxy) + _areas(others_xyxy) - both
    return np.asarray(both / np.maximum(either, 1e-12))


def _areas(boxes_xyxy: NDArray[np.floating]) -> NDArray[np.floating]:
    return (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).prod(axis=-1)
