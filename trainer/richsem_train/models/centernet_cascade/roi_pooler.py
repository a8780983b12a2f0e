"""From regions of any size to features of one size."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align

from richsem_train.models.centernet_cascade.box_coding import areas
from richsem_train.numerics import at_least_float32

STRIDES = (8, 16, 32)
"""Of the maps that are pooled from: P3 to P5."""

# A region of 224 x 224 px, ImageNet's pictures, is pooled from P4.
_USUAL_SIDE, _USUAL_LEVEL = 224, 4


def levels_of(boxes_xyxy_px: Tensor) -> Tensor:
    """The level that each region is pooled from, [..., 4] to int64 [...], 3 to 5.

    Source:
        Lin et al. 2017 (arXiv 1612.03144), equation 1.
    """
    sides = areas(boxes_xyxy_px).sqrt()
    # Detectron2's 1e-8: no logarithm of 0, and no side of 223.99... for 224.
    levels = (_USUAL_LEVEL + (sides / _USUAL_SIDE + 1e-8).log2()).floor()
    first = round(math.log2(STRIDES[0]))
    return levels.clamp(first, first + len(STRIDES) - 1).long()


def pool_rois(maps: Sequence[Tensor], boxes_xyxy_px_BR4: Tensor, is_real_BR: Tensor, *, side: int) -> Tensor:
    """Features of regions, at least float32 [B * R, F, side, side]; 0 where a region stands for nothing.

    No shape depends on the regions' sizes: every level pools all regions, those of other levels as boxes without area,
    which take no samples and give exact zeros.

    Args:
        maps: [B, F, H, W] of `STRIDES`, and maybe more behind them.
        boxes_xyxy_px_BR4: pixels of the batch; those far outside of it count as nearer ones.
        is_real_BR: bool.
        side: bins in each direction; each samples as often as it has cells.

    Source:
        Mask R-CNN's RoIAlign, moved by half a cell as detectron2 has it (torchvision's `MultiScaleRoIAlign` is not).
    """
    pictures, regions = is_real_BR.shape
    picture_N1 = torch.arange(pictures, device=is_real_BR.device).repeat_interleave(regions)[:, None]
    level_N = levels_of(boxes_xyxy_px_BR4).where(is_real_BR, -1).flatten()
    boxes_N4 = _within_reach(boxes_xyxy_px_BR4, maps[0].shape[-2:]).flatten(0, 1)
    pooled = []
    for stride, features in zip(STRIDES, maps, strict=False):
        wide = at_least_float32(features)
        own_N4 = boxes_N4.where((level_N == round(math.log2(stride)))[:, None], 0.0)
        rois_N5 = torch.cat([picture_N1, own_N4], dim=1).to(wide.dtype)
        pooled.append(roi_align(wide, rois_N5, side, spatial_scale=1 / stride, aligned=True))
    return torch.stack(pooled).sum(0)


def _within_reach(boxes_xyxy_px: Tensor, finest_hw: Sequence[int]) -> Tensor:
    """Boxes that end at most one batch's side outside of the batch.

    The number of samples grows with a box, and what is no number would be read anywhere.
    """
    limit = STRIDES[0] * max(finest_hw)
    return boxes_xyxy_px.nan_to_num(0.0).clamp(-limit, 2 * limit)
