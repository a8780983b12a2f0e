"""The attention layer around the sampling: projections, offsets and weights."""

import math

import torch
from torch import Tensor, nn

from richsem_train.choices import Backend
from richsem_train.models.dino.deformable_attention.backends import deformable_attention
from richsem_train.models.dino.token_grid import token_grid


class DeformableAttention(nn.Module):
    """Queries look at a few learned points of every map, around their reference points.

    The parts are named as in published checkpoints: `sampling_offsets`, `attention_weights`, `value_proj`,
    `output_proj`.

    Args:
        embed_dim: width E of queries, maps and output; divisible by `heads`.
        levels: number of maps L.
        heads: attention heads H.
        points: points a head looks at in each map, P.
        backend: who samples; see `choose_backend`.

    Raises:
        ValueError: `embed_dim` is not divisible by `heads`.

    Source:
        Zhu et al. 2020 (arXiv 2010.04159), section 4 and its appendix on initialisation: at the start the heads look
        in evenly spread directions, the points of a head ever farther out, all equally weighted.
    """

    def __init__(self, embed_dim: int, *, levels: int, heads: int, points: int, backend: Backend = "torch") -> None:
        super().__init__()
        if embed_dim % heads:
            raise ValueError(f"a width of {embed_dim} can't be shared evenly by {heads} heads; choose a multiple")
        self.levels, self.heads, self.points, self.backend = levels, heads, points, backend
        self.sampling_offsets = nn.Linear(embed_dim, heads * levels * points * 2)
        self.attention_weights = nn.Linear(embed_dim, heads * levels * points)
        self.value_proj = nn.Linear(embed_dim, embed_dim)
        self.output_proj = nn.Linear(embed_dim, embed_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start as the paper does."""
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(_star(self.heads, self.levels, self.points).flatten())
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self,
        query_BQE: Tensor,
        reference_points_BQLX: Tensor,
        input_BSE: Tensor,
        spatial_shapes: tuple[tuple[int, int], ...],
        padding_mask_BS: Tensor | None,
    ) -> Tensor:
        """Attend.

        Args:
            query_BQE: queries, their position embedding added.
            reference_points_BQLX: X = 2: points (x, y); X = 4: boxes (cx, cy, w, h), whose offsets count in half boxes
                spread over the points. Relative to each map's padded size, float32.
            input_BSE: the maps, flattened row by row and laid end to end.
            spatial_shapes: (height, width) of each map.
            padding_mask_BS: True where a position is padding, whose value counts as zero.

        Returns:
            [B, Q, E].

        Raises:
            ValueError: reference points are neither points nor boxes, or shapes don't belong together.
        """
        value_BSE = self.value_proj(input_BSE)
        if padding_mask_BS is not None:
            value_BSE = value_BSE.masked_fill(padding_mask_BS[..., None], 0)
        value_BSHD = value_BSE.unflatten(-1, (self.heads, -1))
        # A bfloat16 has 8 bits: a location in a map of 160 columns would be off by a third of a cell.
        with torch.autocast(query_BQE.device.type, enabled=False):
            exact_BQE = query_BQE.to(self.sampling_offsets.weight.dtype)
            per_point = (self.heads, self.levels, self.points)
            offsets_BQHLP2 = self.sampling_offsets(exact_BQE).unflatten(-1, (*per_point, 2))
            weights_BQHLP = self.attention_weights(exact_BQE).unflatten(-1, (self.heads, -1)).softmax(-1)
            locations_BQHLP2 = _locations(offsets_BQHLP2, reference_points_BQLX, spatial_shapes)
            attended_BQE = deformable_attention(
                value_BSHD,
                spatial_shapes,
                locations_BQHLP2,
                weights_BQHLP.unflatten(-1, (self.levels, self.points)),
                backend=self.backend,
            )
        attended: Tensor = self.output_proj(attended_BQE)
        return attended


def _star(heads: int, levels: int, points: int) -> Tensor:
    """Offsets [H, L, P, 2] in cells: a direction a head, on the unit square's rim, times 1..P."""
    angles_H = torch.arange(heads, dtype=torch.float32) * (2 * math.pi / heads)
    directions_H2 = torch.stack((angles_H.cos(), angles_H.sin()), -1)
    directions_H2 = directions_H2 / directions_H2.abs().amax(-1, keepdim=True)
    reach_P = torch.arange(1, points + 1, dtype=torch.float32)
    star_HP2 = directions_H2[:, None] * reach_P[:, None]
    return star_HP2[:, None].expand(heads, levels, points, 2)


def _locations(
    offsets_BQHLP2: Tensor, reference_points_BQLX: Tensor, spatial_shapes: tuple[tuple[int, int], ...]
) -> Tensor:
    reference_BQ1L1X = reference_points_BQLX[:, :, None, :, None]
    if reference_points_BQLX.shape[-1] == 2:
        sizes_L2 = token_grid(spatial_shapes, torch.float32, offsets_BQHLP2.device).sizes
        return reference_BQ1L1X + offsets_BQHLP2 / sizes_L2[:, None]
    if reference_points_BQLX.shape[-1] == 4:
        points = offsets_BQHLP2.shape[-2]
        return reference_BQ1L1X[..., :2] + offsets_BQHLP2 * reference_BQ1L1X[..., 2:] * (0.5 / points)
    raise ValueError(
        f"reference points have {reference_points_BQLX.shape[-1]} coordinates; points have 2 and boxes have 4"
    )
