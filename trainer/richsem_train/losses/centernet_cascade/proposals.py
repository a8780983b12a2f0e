"""What the proposal head is taught: centres of objects as a heatmap on each level, and boxes about them."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from richsem_train.devices import sent
from richsem_train.numerics import at_least_float32
from richsem_train.outputs.centernet_cascade import PYRAMID_STRIDES, CellPredictions, Grid

_HALF_DIAGONALS_PX = ((0.0, 80.0), (64.0, 160.0), (128.0, 320.0), (256.0, 640.0), (512.0, math.inf))
"""Of the boxes that each level accepts, both ends included."""

_RADIUS2_OF_AREA = 2 / 81
_MIN_RADIUS2_PX = 16.0
_MIN_HEAT = 1e-4

_MIN_PROBABILITY = 1e-4
_TRUSTED_PROBABILITY = 0.85
"""From here on a cell without an object is taken for one that was not annotated."""

_ALPHA, _BETA, _GAMMA = 0.25, 4, 2
_HEATMAP_WEIGHT = 0.5

_NEIGHBOURS_XY = [(x, y) for y in (-1, 0, 1) for x in (-1, 0, 1)]
_MIDDLE = _NEIGHBOURS_XY.index((0, 0))


@dataclass(frozen=True, eq=False)
class CellTargets:
    """What N cells of B pictures are taught.

    Attributes:
        heatmap: float32 [B, N], in 0..1, 1 in the cells that hold an object's centre.
        positives: float32 [B, N], how many centres the cell holds of objects that its level accepts.
        ltrb: float32 [B, N, 4], in strides; ones where there is no box.
        has_box: bool [B, N].
        learns: bool [B, N], False in padding and in pictures that don't teach.
    """

    heatmap: Tensor
    positives: Tensor
    ltrb: Tensor
    has_box: Tensor
    learns: Tensor


def cell_targets(
    boxes_BM4: Tensor, is_object_BM: Tensor, grid: Grid, *, image_hw_B2: Tensor, teaches_B: Tensor
) -> CellTargets:
    """What each cell is to say. All shapes follow from the arguments' own.

    Args:
        boxes_BM4: xyxy in pixels, M >= 1 rows for each picture.
        is_object_BM: False where a row only fills up.
        grid: the cells.
        image_hw_B2: height and width of the pictures without padding, pixels.
        teaches_B: False for pictures whose objects and background teach no proposals.

    Source:
        CenterNet2 (arXiv 2103.07461), proposals only. Levels accept boxes by half their diagonal. Heat is
        exp(-d2/r2), with d the distance to an object's centre, 0 in the cell that holds it, and r2 =
        max(2 area / 81, 16); the hottest object's, on all levels. A box is learnt in 3x3 cells about its centre, where
        they lie strictly inside of it; boxes that claim the same cell leave it to the one of the least d2/r2, equal
        ones to the first.
    """
    claims = _claim_cells(boxes_BM4, is_object_BM, grid, image_hw_B2=image_hw_B2, teaches_B=teaches_B)
    object_BN = claims.owner.where(claims.has_owner, 0)
    owned_BN4 = claims.boxes.gather(1, object_BN[..., None].expand(-1, -1, 4))
    ltrb_BN4 = _sides(grid.centres_px, owned_BN4) / grid.strides_px[:, None]
    return CellTargets(
        heatmap=_heat(claims, is_object_BM, grid) * claims.learns,
        positives=_positives(claims),
        ltrb=ltrb_BN4.where(claims.has_owner[..., None], 1.0),
        has_box=claims.has_owner,
        learns=claims.learns,
    )


def count_positives(
    boxes_BM4: Tensor, is_object_BM: Tensor, grid: Grid, *, image_hw_B2: Tensor, teaches_B: Tensor
) -> Tensor:
    """What heatmap and box losses are divided by, float64 [2]: heatmap positives, cells with a box.

    The arguments are those of `cell_targets`. Any grid that covers the pictures has the same counts, so they are known
    before a batch and its padding are.
    """
    claims = _claim_cells(boxes_BM4, is_object_BM, grid, image_hw_B2=image_hw_B2, teaches_B=teaches_B)
    return torch.stack([claims.is_positive.sum(), claims.has_owner.sum()]).double()


def proposal_losses(
    predictions: CellPredictions, targets: CellTargets, *, positives: float, cells: float
) -> dict[str, Tensor]:
    """Sums over all cells, divided by totals: `loss_heatmap` and `loss_proposal_giou`, float32 scalars.

    Args:
        predictions: of the head.
        targets: for its grid.
        positives: total of heatmap positives, at least 1.
        cells: total of cells with a box, at least 1.
    """
    return {
        "loss_heatmap": _heatmap_loss(predictions.heatmap_logits, targets) / positives,
        "loss_proposal_giou": _box_loss(predictions.ltrb, targets) / cells,
    }


@dataclass(frozen=True, eq=False)
class _Claims:
    """Which cells each object claims: 3x3 on each of L levels, with the one that holds its centre in the middle.

    Attributes:
        boxes: float32 [B, M, 4] xyxy px.
        radius2: float32 [B, M], px.
        cells: int64 [B, M, L, 9]; 0 where there is none.
        exists: bool [B, M, L, 9], whether there is such a cell that learns.
        is_positive: bool [B, M, L], whether the middle one is to see a centre.
        owner: int64 [B, N], the object whose box the cell learns.
        has_owner: bool [B, N].
        learns: bool [B, N].
    """

    boxes: Tensor
    radius2: Tensor
    cells: Tensor
    exists: Tensor
    is_positive: Tensor
    owner: Tensor
    has_owner: Tensor
    learns: Tensor


def _claim_cells(
    boxes_BM4: Tensor, is_object_BM: Tensor, grid: Grid, *, image_hw_B2: Tensor, teaches_B: Tensor
) -> _Claims:
    boxes_BM4 = at_least_float32(boxes_BM4)
    sides_BM2 = boxes_BM4[..., 2:] - boxes_BM4[..., :2]
    radius2_BM = (_RADIUS2_OF_AREA * sides_BM2.prod(-1)).clamp(min=_MIN_RADIUS2_PX)
    learns_BN = grid.cells_of_pictures(image_hw_B2) & teaches_B[:, None]
    cells_BML9, exists_BML9 = _cells_around(_centres(boxes_BM4), grid)
    exists_BML9 &= learns_BN.gather(1, cells_BML9.flatten(1)).view_as(cells_BML9)
    exists_BML9 &= is_object_BM[..., None, None]
    low_L, high_L = sent(torch.tensor(_HALF_DIAGONALS_PX), boxes_BM4.device, boxes_BM4.dtype).unbind(-1)
    half_diagonal_BM1 = sides_BM2.norm(dim=-1, keepdim=True) / 2
    accepts_BML = (half_diagonal_BM1 >= low_L) & (half_diagonal_BM1 <= high_L)
    claimed_BML9 = exists_BML9 & accepts_BML[..., None]
    owner_BN, has_owner_BN = _owners(boxes_BM4, radius2_BM, cells_BML9, claimed_BML9, grid)
    return _Claims(
        boxes=boxes_BM4,
        radius2=radius2_BM,
        cells=cells_BML9,
        exists=exists_BML9,
        is_positive=claimed_BML9[..., _MIDDLE],
        owner=owner_BN,
        has_owner=has_owner_BN,
        learns=learns_BN,
    )


def _centres(boxes_BM4: Tensor) -> Tensor:
    return (boxes_BM4[..., :2] + boxes_BM4[..., 2:]) / 2


def _sides(points_xy: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """From points to the sides of boxes: left, top, right, bottom, all positive where a point lies inside."""
    return torch.cat([points_xy - boxes_xyxy[..., :2], boxes_xyxy[..., 2:] - points_xy], -1)


def _cells_around(centres_BM2: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """The 3x3 cells about points on each level, int64 [B, M, L, 9], and whether the map has them, bool."""
    counts = [[columns, rows, first] for (rows, columns), first in zip(grid.shapes, grid.firsts, strict=True)]
    counts_L13 = sent(torch.tensor(counts), centres_BM2.device)[:, None]
    strides_L1 = sent(torch.tensor(PYRAMID_STRIDES), centres_BM2.device, centres_BM2.dtype)[:, None]
    neighbours_92 = sent(torch.tensor(_NEIGHBOURS_XY), centres_BM2.device)
    holding_BML12 = (centres_BM2[:, :, None] / strides_L1).floor().long()[..., None, :]
    xy_BML92 = holding_BML12 + neighbours_92
    exists_BML9 = ((xy_BML92 >= 0) & (xy_BML92 < counts_L13[..., :2])).all(-1)
    cells_BML9 = counts_L13[..., 2] + xy_BML92[..., 1] * counts_L13[..., 0] + xy_BML92[..., 0]
    return cells_BML9.where(exists_BML9, 0), exists_BML9


def _owners(
    boxes_BM4: Tensor, radius2_BM: Tensor, cells_BML9: Tensor, claimed_BML9: Tensor, grid: Grid
) -> tuple[Tensor, Tensor]:
    """Which object's box each cell learns, int64 [B, N], and whether any."""
    pictures, objects = radius2_BM.shape
    points_BML92 = grid.centres_px[cells_BML9]
    claimed_BML9 = claimed_BML9 & (_sides(points_BML92, boxes_BM4[:, :, None, None]) > 0).all(-1)
    distance_BML9 = (points_BML92 - _centres(boxes_BM4)[:, :, None, None]).square().sum(-1)
    distance_BML9 = distance_BML9 / radius2_BM[..., None, None]
    distance_BML9[..., _MIDDLE] = 0.0
    distance_BK, cells_BK = distance_BML9.where(claimed_BML9, torch.inf).flatten(1), cells_BML9.flatten(1)
    least_BN = distance_BK.new_full((pictures, len(grid.centres_px)), torch.inf)
    least_BN = least_BN.scatter_reduce(1, cells_BK, distance_BK, "amin")
    wins_BK = claimed_BML9.flatten(1) & (distance_BK == least_BN.gather(1, cells_BK))
    object_BML9 = torch.arange(objects, device=cells_BK.device)[:, None, None].expand_as(cells_BML9)
    owner_BN = torch.full_like(least_BN, objects, dtype=torch.int64)
    owner_BN = owner_BN.scatter_reduce(1, cells_BK, object_BML9.flatten(1).where(wins_BK, objects), "amin")
    return owner_BN, owner_BN < objects


def _positives(claims: _Claims) -> Tensor:
    middles_BK, is_positive_BK = claims.cells[..., _MIDDLE].flatten(1), claims.is_positive.flatten(1)
    none_BN = claims.boxes.new_zeros(claims.learns.shape)
    return none_BN.scatter_add(1, middles_BK, is_positive_BK.to(none_BN.dtype))


def _heat(claims: _Claims, is_object_BM: Tensor, grid: Grid) -> Tensor:
    """[B, N], before padding and pictures that don't teach are left out."""
    centres_BM2 = _centres(claims.boxes)
    nearest = []
    for (rows, columns), centres_n2 in zip(grid.shapes, grid.centres_px.split(grid.sizes), strict=True):
        centres_hw2 = centres_n2.view(rows, columns, 2)
        y_BhM = (centres_hw2[:, :1, 1] - centres_BM2[:, None, :, 1]).square() / claims.radius2[:, None]
        x_BwM = (centres_hw2[0, :, None, 0] - centres_BM2[:, None, :, 0]).square() / claims.radius2[:, None]
        y_BhM = y_BhM.masked_fill(~is_object_BM[:, None], torch.inf)
        # Cells by objects, a level at a time: the only tensor of that size.
        nearest.append((y_BhM[:, :, None] + x_BwM[:, None]).amin(-1).flatten(1))
    heat_BN = (-torch.cat(nearest, 1)).exp()
    heat_BN = heat_BN.where(heat_BN >= _MIN_HEAT, 0.0)
    holds_BK = claims.exists[..., _MIDDLE].flatten(1).to(heat_BN.dtype)
    return heat_BN.scatter_reduce(1, claims.cells[..., _MIDDLE].flatten(1), holds_BK, "amax")


def _heatmap_loss(logits_BN: Tensor, targets: CellTargets) -> Tensor:
    probability_BN = at_least_float32(logits_BN).sigmoid().clamp(_MIN_PROBABILITY, 1 - _MIN_PROBABILITY)
    missed = (-probability_BN.log() * (1 - probability_BN) ** _GAMMA * targets.positives).sum()
    counts_BN = targets.learns & (probability_BN < _TRUSTED_PROBABILITY)
    weight_BN = (1 - targets.heatmap) ** _BETA * counts_BN
    imagined = (-(1 - probability_BN).log() * probability_BN**_GAMMA * weight_BN).sum()
    return _HEATMAP_WEIGHT * (_ALPHA * missed + (1 - _ALPHA) * imagined)


def _box_loss(ltrb_BN4: Tensor, targets: CellTargets) -> Tensor:
    overlap_BN = _giou_of_sides(at_least_float32(ltrb_BN4), targets.ltrb)
    return ((1 - overlap_BN) * targets.has_box).sum()


def _giou_of_sides(ltrb: Tensor, others_ltrb: Tensor) -> Tensor:
    """Generalised IoU of boxes about the same point, [..., 4] to [...]; its IoU is of overlap + 1 and union + 1."""
    overlap = _area(torch.minimum(ltrb, others_ltrb))
    union = _area(ltrb) + _area(others_ltrb) - overlap
    hull = _area(torch.maximum(ltrb, others_ltrb))
    return (overlap + 1) / (union + 1) - (hull - union) / hull


def _area(ltrb: Tensor) -> Tensor:
    left, top, right, bottom = ltrb.unbind(-1)
    return (left + right) * (top + bottom)
