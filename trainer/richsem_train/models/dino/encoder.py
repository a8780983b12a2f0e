"""Deformable self-attention over the maps of all levels."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from richsem_train.choices import Backend
from richsem_train.models.dino.deformable_attention import DeformableAttention


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
        inner = self.dropout(functional.relu(self.linear1(tokens_BSE)))
        output_BSE: Tensor = self.norm2(tokens_BSE + self.dropout(self.linear2(inner)))
        return output_BSE


class Encoder(nn.Module):
    """A stack of layers."""

    def __init__(self, layers: Iterable[EncoderLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

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
            tokens_BSE = layer(tokens_BSE, position_BSE, reference_points, spatial_shapes, padding_mask_BS)
        return tokens_BSE


def valid_ratios(padding_masks: list[Tensor], dtype: torch.dtype) -> Tensor:
    """How much of each level is picture: [B, L, 2], share of the width and of the height.

    The masks are True where padded; pictures lie at the top left.
    """
    widths = [1 - mask_Bhw[:, 0, :].to(dtype).mean(dim=1) for mask_Bhw in padding_masks]
    heights = [1 - mask_Bhw[:, :, 0].to(dtype).mean(dim=1) for mask_Bhw in padding_masks]
    return torch.stack([torch.stack(widths, dim=1), torch.stack(heights, dim=1)], dim=-1)


def cell_centres(height: int, width: int, like: Tensor) -> Tensor:
    """Centres (x, y) of a map's cells in units of cells, [height * width, 2], with the type and device of `like`."""
    y, x = torch.meshgrid(
        torch.arange(height, device=like.device, dtype=like.dtype) + 0.5,
        torch.arange(width, device=like.device, dtype=like.dtype) + 0.5,
        indexing="ij",
    )
    return torch.stack([x.flatten(), y.flatten()], dim=-1)


def token_centres(spatial_shapes: tuple[tuple[int, int], ...], valid_ratios_BL2: Tensor) -> Tensor:
    """Where each token looks from, on every level.

    Returns:
        [B, S, L, 2], (x, y) relative to each level's padded map.
    """
    centres_BS2 = [
        cell_centres(height, width, valid_ratios_BL2)
        / torch.stack([ratios_B2[:, :1] * width, ratios_B2[:, 1:] * height], dim=-1)
        for (height, width), ratios_B2 in zip(spatial_shapes, valid_ratios_BL2.unbind(1), strict=True)
    ]
    return torch.cat(centres_BS2, dim=1)[:, :, None] * valid_ratios_BL2[:, None]
