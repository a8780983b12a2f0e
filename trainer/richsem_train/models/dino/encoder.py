"""Deformable self-attention over the maps of all levels."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from richsem_train.choices import Backend
from richsem_train.models.dino.deformable_attention import DeformableAttention
from richsem_train.models.dino.feed_forward import feed_forward
from richsem_train.models.dino.token_grid import Shapes, along_sides, token_grid


class EncoderLayer(nn.Module):
    """Deformable self-attention, then a feed-forward network; each adds to its input and is normed afterwards."""

    def __init__(
        self, hidden_dim: int, *, levels: int, heads: int, points: int, ffn_dim: int, dropout: float, backend: Backend
    ) -> None:
        super().__init__()
        self.self_attn = DeformableAttention(hidden_dim, levels=levels, heads=heads, points=points, backend=backend)
        self.norm1 = nn.LayerNorm(hidden_dim)
        self.linear1 = nn.Linear(hidden_dim, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, hidden_dim)
        self.norm2 = nn.LayerNorm(hidden_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        tokens_BSE: Tensor,
        position_BSE: Tensor,
        reference_points_BSL2: Tensor,
        spatial_shapes: tuple[tuple[int, int], ...],
        padding_mask_BS: Tensor,
    ) -> Tensor:
        """Tokens [B, S, E] that have seen each other."""
        attended_BSE = self.self_attn(
            tokens_BSE + position_BSE, reference_points_BSL2, tokens_BSE, spatial_shapes, padding_mask_BS
        )
        tokens_BSE = self.norm1(tokens_BSE + self.dropout(attended_BSE))
        output_BSE: Tensor = self.norm2(tokens_BSE + self.dropout(self._feed_forward(tokens_BSE)))
        return output_BSE

    def _feed_forward(self, tokens_BSE: Tensor) -> Tensor:
        if self.training and self.dropout.p:
            # What was dropped would have to be kept.
            inner: Tensor = self.linear2(self.dropout(functional.relu(self.linear1(tokens_BSE))))
            return inner
        return feed_forward(tokens_BSE, self.linear1, self.linear2)


class Encoder(nn.Module):
    """A stack of layers; with `checkpoints` the backward pass computes them again, and keeps their inputs alone."""

    def __init__(self, layers: Iterable[EncoderLayer], *, checkpoints: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.checkpoints = checkpoints

    def forward(
        self,
        tokens_BSE: Tensor,
        position_BSE: Tensor,
        spatial_shapes: tuple[tuple[int, int], ...],
        valid_ratios_BL2: Tensor,
        padding_mask_BS: Tensor,
    ) -> Tensor:
        """The memory of the decoder, [B, S, E]; what stands at padded places means nothing.

        The tokens are the maps of all levels, flattened and concatenated; positions have the level's embedding in them.
        """
        reference_points = token_centres(spatial_shapes, valid_ratios_BL2)
        for layer in self.layers:
            inputs = (tokens_BSE, position_BSE, reference_points, spatial_shapes, padding_mask_BS)
            if self.checkpoints and torch.is_grad_enabled():
                tokens_BSE = checkpoint(layer, *inputs, use_reentrant=False)
            else:
                tokens_BSE = layer(*inputs)
        return tokens_BSE


def valid_ratios(padding_masks: list[Tensor], dtype: torch.dtype) -> Tensor:
    """How much of each level is picture: [B, L, 2], share of the width and of the height.

    The masks are True where padded; pictures lie at the top left.
    """
    return 1 - along_sides(padding_masks, lambda side_Bx: side_Bx.mean(1, dtype=dtype))


def token_centres(spatial_shapes: Shapes, valid_ratios_BL2: Tensor) -> Tensor:
    """Where each token looks from, on every level.

    Returns:
        [B, S, L, 2], (x, y) relative to each level's padded map.
    """
    grid = token_grid(spatial_shapes, valid_ratios_BL2.dtype, valid_ratios_BL2.device)
    return grid.centres(valid_ratios_BL2 * grid.sizes)[:, :, None] * valid_ratios_BL2[:, None]
