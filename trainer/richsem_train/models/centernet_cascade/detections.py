"""From scores of regions to detections."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from richsem_train.devices import in_float64
from richsem_train.models.detector import BestPairs

LEAST_SCORE = 0.02
"""What a detection's score is above."""

MOST_PAIRS = 10_000
"""Before suppression, a picture: an untrained detector would give all."""

_MOST_OVERLAP = 0.5


@torch.no_grad()
def best_pairs(
    scores_BRC: Tensor,
    boxes_xyxy_px_BR4: Tensor,
    *,
    image_hw: Sequence[tuple[int, int]],
    original_hw: Sequence[tuple[int, int]],
    vocabulary_C: Tensor,
    keep: int,
) -> list[BestPairs]:
    """The best pairs of a region and a class in each picture, without those that a better one of their class overlaps.

    Args:
        scores_BRC: in [0, 1]; those of at most 0.02 are no detection. What is no number stays.
        boxes_xyxy_px_BR4: of all classes, within the pictures, pixels of the batch.
        image_hw: of each picture in the batch without padding.
        original_hw: of each picture as decoded; boxes come back in pixels of it.
        vocabulary_C: bool, the rows that are classes.
        keep: pairs a picture at most.

    Source:
        detectron2's `fast_rcnn_inference` (IoU above 0.5 suppresses). Differs: only the 10,000 best pairs of a picture
        are looked at; where `keep` of them survive, that changes nothing.
    """
    rows_V = vocabulary_C.nonzero()[:, 0].to(scores_BRC.device)
    scores_BRV = scores_BRC.index_select(2, rows_V)
    best_BP, pairs_BP = scores_BRV.flatten(1).topk(min(MOST_PAIRS, scores_BRV[0].numel()))
    picture_N, place_N = (~(best_BP <= LEAST_SCORE)).nonzero(as_tuple=True)
    pair_N = pairs_BP[picture_N, place_N]
    region_N, column_N = pair_N // len(rows_V), pair_N % len(rows_V)
    scores_N, boxes_N4 = best_BP[picture_N, place_N], boxes_xyxy_px_BR4[picture_N, region_N]
    # float64: a thousand classes apart from each other leave float32 no fraction of a pixel. Many boxes go class by
    # class, since the cost of a suppression grows with their square.
    wide_N4, class_N = in_float64(boxes_N4).nan_to_num(0.0), picture_N * len(rows_V) + column_N
    kept = batched_nms(wide_N4, in_float64(scores_N), class_N.to(wide_N4.device), _MOST_OVERLAP).to(class_N.device)
    kept_of = [kept[picture_N[kept] == picture][:keep] for picture in range(len(image_hw))]
    return [
        BestPairs(scores_N[own], rows_V[column_N[own]], _rescaled(boxes_N4[own], hw, original))
        for own, hw, original in zip(kept_of, image_hw, original_hw, strict=True)
    ]


def _rescaled(boxes_xyxy_px: Tensor, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> Tensor:
    down, across = (wanted / given for given, wanted in zip(from_hw, to_hw, strict=True))
    return boxes_xyxy_px * boxes_xyxy_px.new_tensor([across, down, across, down])
