"""Anchors for the queries: the encoder's tokens that look most like objects."""

import torch
from torch import Tensor
from torch.nn import functional

from richsem_train.models.dino.token_grid import along_sides, token_grid

_PROPOSAL_SIDE = 0.05
_MARGIN = 0.01
TOKENS_AT_ONCE = 8192
"""Pieces small enough that logits of a large vocabulary fit beside each other."""


def encoder_proposals(padding_masks: list[Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """One square box a token, 0.05 x 2^level wide, around the token's centre.

    Args:
        padding_masks: bool [B, h, w] a level, True where padded; pictures lie at the top left.
        dtype: of the boxes.

    Returns:
        Boxes [B, S, 4] cxcywh before the sigmoid, relative to the picture without padding, and which are valid,
        bool [B, S]. A token that is padding, or whose box has a number outside of 0.01..0.99, is not valid; its box
        is inf.

    Source:
        Zhu et al. 2021, Deformable DETR (arXiv 2010.04159), two-stage.
    """
    shapes = tuple((mask_Bhw.shape[1], mask_Bhw.shape[2]) for mask_Bhw in padding_masks)
    grid = token_grid(shapes, dtype, padding_masks[0].device)
    centres_BS2 = grid.centres(grid.sizes - along_sides(padding_masks, lambda side_Bx: side_Bx.sum(1)))
    sides_S1 = _PROPOSAL_SIDE * torch.exp2(grid.level.to(dtype))[:, None]
    boxes_BS4 = torch.cat([centres_BS2, sides_S1.expand_as(centres_BS2)], dim=-1)
    padding_BS = torch.cat([mask.flatten(1) for mask in padding_masks], dim=1)
    valid_BS = ((boxes_BS4 > _MARGIN) & (boxes_BS4 < 1 - _MARGIN)).all(dim=-1) & ~padding_BS
    return boxes_BS4.logit().masked_fill(~valid_BS[..., None], torch.inf), valid_BS


def at_least_tokens(
    memory_BSE: Tensor, proposals_BS4: Tensor, valid_BS: Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The same with invalid tokens appended up to `count`, so that small pictures have enough for all queries."""
    lacking = count - memory_BSE.shape[1]
    if lacking <= 0:
        return memory_BSE, proposals_BS4, valid_BS
    return (
        functional.pad(memory_BSE, (0, 0, 0, lacking)),
        functional.pad(proposals_BS4, (0, 0, 0, lacking), value=torch.inf),
        functional.pad(valid_BS, (0, lacking), value=False),
    )


def best_tokens(scores_BS: Tensor, valid_BS: Tensor, count: int) -> Tensor:
    """Indices [B, count] of the tokens with the highest scores, best first; invalid ones only where others run out."""
    return scores_BS.masked_fill(~valid_BS, -torch.inf).topk(count, dim=1).indices


def gathered(values_BSX: Tensor, indices_BQ: Tensor) -> Tensor:
    """Rows [B, Q, X] of `values_BSX` [B, S, X] picked in each picture."""
    return values_BSX.gather(1, indices_BQ[..., None].expand(-1, -1, values_BSX.shape[-1]))
