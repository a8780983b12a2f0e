"""The regions that a picture's cascade is trained on, always as many, whatever the picture holds."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from richsem_train.models.centernet_cascade.box_coding import areas, clipped
from richsem_train.numerics import iou
from richsem_train.outputs.centernet_cascade import Objects, Regions


def match_regions(boxes_BR4: Tensor, is_real_BR: Tensor, objects: Objects, *, threshold: float) -> Regions:
    """Regions and the objects that each overlaps most; positive from an IoU of `threshold` on.

    Several regions may answer for one object. Those without area stand for nothing. Of equal overlaps the first counts.
    """
    overlap_BRM = iou(boxes_BR4[:, :, None], objects.boxes_xyxy_px[:, None])
    overlap_BR, object_BR = overlap_BRM.where(objects.is_real[:, None], -1.0).max(-1)
    is_real_BR = is_real_BR & (areas(boxes_BR4) > 0)
    return Regions(boxes_BR4, is_real_BR, object_BR, is_real_BR & (overlap_BR >= threshold))


def draw_chances(counts: Sequence[int], proposals: int, generators: Sequence[torch.Generator]) -> Tensor:
    """A random number in [0, 1) for each candidate of a batch, float32 [B, K + M], on the CPU.

    What a draw gets depends on its own pictures alone.

    Args:
        counts: objects of each picture; M is the most of them, and at least 1.
        proposals: of each picture, K.
        generators: on the CPU, one a draw; draws are of equal numbers of consecutive pictures.
    """
    pictures, rest = divmod(len(counts), len(generators))
    assert not rest, "draws are of equal numbers of pictures"
    most = [max(1, *counts[first : first + pictures]) for first in range(0, len(counts), pictures)]
    return torch.cat(
        [
            functional.pad(torch.rand(pictures, proposals + own, generator=generator), (0, max(most) - own))
            for own, generator in zip(most, generators, strict=True)
        ]
    )


def sample_regions(
    boxes_BK4: Tensor,
    is_real_BK: Tensor,
    objects: Objects,
    chances_BN: Tensor,
    *,
    count: int,
    positive_share: float = 0.25,
    threshold: float,
) -> Regions:
    """A random choice among proposals and objects, positives first.

    Args:
        boxes_BK4: proposals, xyxy pixels.
        is_real_BK: bool.
        objects: M of them stand behind the proposals as regions of their own.
        chances_BN: of the K + M candidates, `draw_chances`; the greatest are taken.
        count: regions a picture; fewer come back where there are fewer candidates. Where a picture lacks them, the last
            stand for nothing.
        positive_share: at most so many of them are positive; negatives take all places that are left.
        threshold: of IoU, as in `match_regions`.

    Source:
        Ren et al. 2015 (arXiv 1506.01497), section 3.1.3 and detectron2's sampling: there by permutations, of shapes
        that depend on the picture.
    """
    candidates = match_regions(
        torch.cat([boxes_BK4, objects.boxes_xyxy_px.to(boxes_BK4)], dim=1),
        torch.cat([is_real_BK, objects.is_real], dim=1),
        objects,
        threshold=threshold,
    )
    most = min(int(count * positive_share), chances_BN.shape[1])
    best_BP, places_BP = chances_BN.where(candidates.is_positive, -1.0).topk(most)
    is_taken_BN = torch.zeros_like(candidates.is_positive).scatter(1, places_BP, best_BP >= 0)
    is_negative_BN = candidates.is_real & ~candidates.is_positive
    order_BN = (2 + chances_BN).where(is_taken_BN, chances_BN.where(is_negative_BN, -1.0))
    order_BR, places_BR = order_BN.topk(min(count, order_BN.shape[1]))
    return Regions(
        candidates.boxes_xyxy_px.gather(1, places_BR[..., None].expand(-1, -1, 4)),
        order_BR >= 0,
        candidates.object.gather(1, places_BR),
        order_BR >= 2,
    )


def object_regions(objects: Objects) -> Regions:
    """Each object's own box as its region."""
    pictures, most = objects.is_real.shape
    is_real_BM = objects.is_real & (areas(objects.boxes_xyxy_px) > 0)
    number_BM = torch.arange(most, device=is_real_BM.device).expand(pictures, -1)
    return Regions(objects.boxes_xyxy_px, is_real_BM, number_BM, is_real_BM)


def best_regions(boxes_BK4: Tensor, is_real_BK: Tensor, image_hw_B2: Tensor, *, count: int) -> Regions:
    """The first proposals, which are the best, within their pictures, answering for nothing."""
    boxes_BR4, is_real_BR = clipped(boxes_BK4[:, :count], image_hw_B2), is_real_BK[:, :count]
    return Regions(
        boxes_BR4,
        is_real_BR & (areas(boxes_BR4) > 0),
        torch.zeros_like(is_real_BR, dtype=torch.long),
        torch.zeros_like(is_real_BR),
    )
