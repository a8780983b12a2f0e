"""Proposals: a heatmap of objects' centres on each level of the pyramid, and the box round each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.ops import nms

from richsem_train.devices import in_float64
from richsem_train.outputs.centernet_cascade import PYRAMID_STRIDES, CellPredictions, Grid

_TOWER_LAYERS = 4
_INIT_STD = 0.01
_INIT_SIDE = 8.0
_PRIOR_PROBABILITY = 0.01

_MIN_PROBABILITY = 1e-4
_MIN_SIDE_PX = 0.01
_NMS_IOU = 0.9
_NONE = -1.0
"""Below any score."""


class CenterNetHead(nn.Module):
    """A tower of convolutions shared by all levels; from it a heatmap without classes, and four sides of a box.

    Args:
        width: channels of the pyramid and of the tower, E.

    Source:
        Zhou et al. 2021, CenterNet2 (arXiv 2103.07461), proposals only. As there, half precision ends before the
        predictions: bfloat16 can't tell 255 px from 256, nor most scores from each other.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        # 32 groups, as published; fewer for widths that 32 does not divide, or where a group would be one channel: on a
        # map of one cell that is one number, which has no norm.
        groups = math.gcd(32, width)
        groups = max(groups // 2, 1) if groups == width else groups
        self.tower = nn.Sequential()
        for _ in range(_TOWER_LAYERS):
            self.tower.extend([nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(groups, width), nn.ReLU()])
        self.heatmap = nn.Conv2d(width, 1, 3, padding=1)
        self.ltrb = nn.Conv2d(width, 4, 3, padding=1)
        self.scales = nn.ParameterList([torch.ones(1) for _ in PYRAMID_STRIDES])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=_INIT_STD)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        nn.init.constant_(self.ltrb.bias, _INIT_SIDE)  # type: ignore[arg-type]
        nn.init.constant_(self.heatmap.bias, -math.log(1 / _PRIOR_PROBABILITY - 1))  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor]) -> CellPredictions:
        """What it says of the cells of maps [B, E, h, w], strides 8 to 128."""
        levels = [self._level(map_BEhw, scale) for map_BEhw, scale in zip(maps, self.scales, strict=True)]
        heatmaps, sides = zip(*levels, strict=True)
        grid = Grid.of([(map_BEhw.shape[2], map_BEhw.shape[3]) for map_BEhw in maps], maps[0].device)
        return CellPredictions(torch.cat(heatmaps, 1), torch.cat(sides, 1), grid)

    def _level(self, map_BEhw: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        seen_BEhw = self.tower(map_BEhw)
        with torch.autocast(seen_BEhw.device.type, enabled=False):
            seen_BEhw = seen_BEhw.to(self.heatmap.weight.dtype)
            sides_B4hw = (scale * self.ltrb(seen_BEhw)).relu()
            return self.heatmap(seen_BEhw).flatten(1), sides_B4hw.flatten(2).transpose(1, 2)


@dataclass(frozen=True, eq=False)
class Proposals:
    """Where objects may be: K boxes a picture, best first; they carry no gradient.

    Attributes:
        boxes_xyxy_px: float32 [B, K, 4]; may reach beyond the picture. A unit box where there is none.
        scores: float32 [B, K], in 0..1; 0 where there is none.
        is_real: bool [B, K], False where a picture has fewer.
    """

    boxes_xyxy_px: Tensor
    scores: Tensor
    is_real: Tensor


@torch.no_grad()
def decode(predictions: CellPredictions, image_hw_B2: Tensor, *, pre_top_k: int, post_top_k: int) -> Proposals:
    """The boxes of the best cells, without those that overlap a better one by more than 0.9.

    Shapes follow from the grid alone, and the only operator whose result's shape depends on values is one `nms`, of
    all levels and pictures together.

    Args:
        predictions: of the head.
        image_hw_B2: height and width of the pictures without padding, pixels.
        pre_top_k: cells that a level may propose.
        post_top_k: boxes to keep of each picture, K; fewer where levels propose fewer.

    Returns:
        Scores are roots of probabilities above 1e-4. Cells that are padding propose nothing, nor does any cell a box
        that misses the picture.

    Source:
        CenterNet2's decoding. Differs: there padding proposes, too, and boxes beside the picture are kept until the
        cascade clips them; equal scores at the end of the list are all kept.
    """
    boxes_BN4 = _boxes(predictions)
    scores_BN = _scores(predictions, boxes_BN4, image_hw_B2)
    scores_BP, cells_BP = _best_of_each_level(scores_BN, predictions.grid, pre_top_k)
    boxes_BP4 = _picked(boxes_BN4, cells_BP)
    scores_BP = scores_BP.where(_survive(boxes_BP4, scores_BP), _NONE)
    scores_BK, places_BK = scores_BP.topk(min(post_top_k, scores_BP.shape[1]))
    is_real_BK = scores_BK > _NONE
    boxes_BK4 = _picked(boxes_BP4, places_BK).where(is_real_BK[..., None], _unit_box(boxes_BP4))
    return Proposals(boxes_BK4, scores_BK.clamp(min=0), is_real_BK)


def _boxes(predictions: CellPredictions) -> Tensor:
    """Corners [B, N, 4] in pixels, at least 0.01 apart."""
    left_top, right_bottom = (predictions.ltrb * predictions.grid.strides_px[:, None]).split(2, dim=-1)
    low_BN2 = predictions.grid.centres_px - left_top
    high_BN2 = torch.maximum(predictions.grid.centres_px + right_bottom, low_BN2 + _MIN_SIDE_PX)
    return torch.cat([low_BN2, high_BN2], -1)


def _scores(predictions: CellPredictions, boxes_BN4: Tensor, image_hw_B2: Tensor) -> Tensor:
    probabilities_BN = predictions.heatmap_logits.sigmoid()
    meets_BN2 = (boxes_BN4[..., 2:] > 0) & (boxes_BN4[..., :2] < image_hw_B2.flip(-1)[:, None])
    proposes_BN = meets_BN2.all(-1) & predictions.grid.cells_of_pictures(image_hw_B2)
    return probabilities_BN.sqrt().where(proposes_BN & (probabilities_BN > _MIN_PROBABILITY), _NONE)


def _best_of_each_level(scores_BN: Tensor, grid: Grid, top_k: int) -> tuple[Tensor, Tensor]:
    """Scores and cells, both [B, P]."""
    scores, cells = [], []
    for level_Bn, first in zip(scores_BN.split(grid.sizes, dim=1), grid.firsts, strict=True):
        best_Bk, places_Bk = level_Bn.topk(min(top_k, level_Bn.shape[1]))
        scores.append(best_Bk)
        cells.append(places_Bk + first)
    return torch.cat(scores, 1), torch.cat(cells, 1)


def _picked(values_BNX: Tensor, places_BK: Tensor) -> Tensor:
    return values_BNX.gather(1, places_BK[..., None].expand(-1, -1, values_BNX.shape[-1]))


def _survive(boxes_BP4: Tensor, scores_BP: Tensor) -> Tensor:
    """Which boxes overlap no better one of their picture by more than 0.9, bool [B, P]; False where there is none."""
    device = scores_BP.device
    # float64: pictures stand side by side, and far from 0 float32 has no fractions of pixels left.
    boxes_BP4, scores_BP = in_float64(boxes_BP4), in_float64(scores_BP)
    is_real_BP = scores_BP > _NONE
    least = boxes_BP4[..., 0].amin()
    apart = boxes_BP4[..., 2].amax() - least + 1
    pictures_B1 = torch.arange(len(boxes_BP4), device=boxes_BP4.device)[:, None]
    moved_BP4 = boxes_BP4 + _to_the_right(pictures_B1 * apart)
    # Boxes that aren't there lie on one place beside all pictures, where the first of them removes the others.
    aside_4 = _unit_box(boxes_BP4) + _to_the_right(least + len(boxes_BP4) * apart)
    moved_BP4 = moved_BP4.where(is_real_BP[..., None], aside_4)
    kept = nms(moved_BP4.flatten(0, 1), scores_BP.flatten(), _NMS_IOU)
    survive_BP = torch.zeros_like(is_real_BP)
    survive_BP.view(-1)[kept] = True
    return (survive_BP & is_real_BP).to(device)


def _unit_box(boxes_xyxy: Tensor) -> Tensor:
    """[4], beside such boxes."""
    return torch.cat([boxes_xyxy.new_zeros(2), boxes_xyxy.new_ones(2)])


def _to_the_right(by: Tensor) -> Tensor:
    """What to add to corners, [...] to [..., 4]."""
    return torch.stack([by, torch.zeros_like(by)] * 2, -1)
