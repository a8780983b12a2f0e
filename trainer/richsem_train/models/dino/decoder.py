"""Queries that look at the memory and at each other, and move their boxes as they go."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from richsem_train.choices import Backend
from richsem_train.models.dino.deformable_attention import DeformableAttention
from richsem_train.models.dino.heads import MLP, BoxHead

_QUERY_TEMPERATURE = 10_000


def sine_embedding_of_boxes(boxes_cxcywh: Tensor, width: int) -> Tensor:
    """Sines and cosines of a box's numbers.

    Args:
        boxes_cxcywh: [..., 4].
        width: features a number, even.

    Returns:
        [..., 4 * width], in the order y, x, w, h; even features are sines, odd ones cosines.

    Source:
        Liu et al. 2022, DAB-DETR (arXiv 2201.12329); the order is the published weights'. Cosines are taken as sines a
        quarter turn on, equal to 1e-6.
    """
    return _waves_of_boxes(boxes_cxcywh, *_waves(width, boxes_cxcywh))


def _waves(width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Radians a unit and the phase of each feature of a number, [W] each."""
    exponents_F = torch.arange(width // 2, device=like.device, dtype=like.dtype) * 2 / width
    frequency_F = 2 * math.pi / _QUERY_TEMPERATURE**exponents_F
    phase_W = torch.arange(width, device=like.device, dtype=like.dtype) % 2 * (math.pi / 2)
    return torch.stack([frequency_F, frequency_F], dim=-1).flatten(), phase_W


def _waves_of_boxes(boxes_cxcywh: Tensor, frequency_W: Tensor, phase_W: Tensor) -> Tensor:
    x, y, w, h = boxes_cxcywh.unbind(-1)
    boxes_yxwh = torch.stack([y, x, w, h], dim=-1)
    return torch.addcmul(phase_W, boxes_yxwh[..., None], frequency_W).sin_().flatten(-2)


class DecoderLayer(nn.Module):
    """Self-attention among queries, deformable attention to the memory, a feed-forward network; normed after each."""

    def __init__(
        self, hidden_dim: int, *, levels: int, heads: int, points: int, ffn_dim: int, dropout: float, backend: Backend
    ) -> None:
        super().__init__()
        self.cross_attn = DeformableAttention(hidden_dim, levels=levels, heads=heads, points=points, backend=backend)
        self.norm1 = nn.LayerNorm(hidden_dim)
        self.self_attn = nn.MultiheadAttention(hidden_dim, heads, dropout=dropout, batch_first=True)
        self.norm2 = nn.LayerNorm(hidden_dim)
        self.linear1 = nn.Linear(hidden_dim, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, hidden_dim)
        self.norm3 = nn.LayerNorm(hidden_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        queries_BQE: Tensor,
        position_BQE: Tensor,
        reference_boxes_BQL4: Tensor,
        memory_BSE: Tensor,
        spatial_shapes: tuple[tuple[int, int], ...],
        padding_mask_BS: Tensor,
        attention_mask_BQQ: Tensor | None,
    ) -> Tensor:
        """Queries [B, Q, E] after this layer.

        Boxes are cxcywh relative to each level's padded map; the attention mask is added to how much a query (row)
        cares for another (column).
        """
        attended = self._self_attention(queries_BQE + position_BQE, queries_BQE, attention_mask_BQQ)
        queries_BQE = self.norm2(queries_BQE + self.dropout(attended))
        looked = self.cross_attn(
            queries_BQE + position_BQE, reference_boxes_BQL4, memory_BSE, spatial_shapes, padding_mask_BS
        )
        queries_BQE = self.norm1(queries_BQE + self.dropout(looked))
        inner = self.dropout(functional.relu(self.linear1(queries_BQE)))
        output_BQE: Tensor = self.norm3(queries_BQE + self.dropout(self.linear2(inner)))
        return output_BQE

    def _self_attention(self, placed_BQE: Tensor, queries_BQE: Tensor, attention_mask_BQQ: Tensor | None) -> Tensor:
        """The same as `self_attn`, which would want a mask for each head."""
        attention = self.self_attn
        width, heads = attention.embed_dim, attention.num_heads
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        asks_and_keys = functional.linear(placed_BQE, weight[: 2 * width], bias[: 2 * width])
        values_BQE = functional.linear(queries_BQE, weight[2 * width :], bias[2 * width :])
        asks, keys, values = (
            each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in (*asks_and_keys.chunk(2, dim=-1), values_BQE)
        )
        attended_BHQD = functional.scaled_dot_product_attention(
            asks,
            keys,
            values,
            attn_mask=None if attention_mask_BQQ is None else attention_mask_BQQ[:, None],
            dropout_p=attention.dropout if self.training else 0.0,
        )
        output_BQE: Tensor = attention.out_proj(attended_BHQD.transpose(1, 2).flatten(-2))
        return output_BQE


class Decoder(nn.Module):
    """A stack of layers with iterative refinement.

    Args:
        layers: from the first on.
        hidden_dim: width E.
        padded_query_positions: embed boxes relative to the padded batch, as published weights were trained; otherwise
            relative to the picture, whatever the size of its neighbours.
    """

    def __init__(self, layers: Iterable[DecoderLayer], *, hidden_dim: int, padded_query_positions: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(hidden_dim)
        self.ref_point_head = MLP([2 * hidden_dim, hidden_dim, hidden_dim])
        self._features_a_number = hidden_dim // 2
        self.padded_query_positions = padded_query_positions

    def forward(
        self,
        queries_BQE: Tensor,
        anchors_BQ4: Tensor,
        memory_BSE: Tensor,
        spatial_shapes: tuple[tuple[int, int], ...],
        valid_ratios_BL2: Tensor,
        padding_mask_BS: Tensor,
        *,
        attention_mask_BQQ: Tensor | None,
        box_head: BoxHead,
    ) -> tuple[Tensor, Tensor]:
        """All layers, each starting from the boxes of the one before.

        Args:
            queries_BQE: contents.
            anchors_BQ4: cxcywh in [0, 1], relative to the picture without padding; without gradient.
            memory_BSE: of the encoder.
            spatial_shapes: height and width of each level.
            valid_ratios_BL2: share of each level's width and height that is picture.
            padding_mask_BS: True where padded.
            attention_mask_BQQ: True where a query (row) must not see another (column).
            box_head: moves the boxes; here it sees the output before the norm, in the heads after it.

        Returns:
            [layers, B, Q, E], the normed output of each layer; and [layers, B, Q, 4], cxcywh in [0, 1], the boxes that
            each layer's head moves: the anchors, then boxes that carry gradients into the layer before (look forward
            twice).
        """
        ratios_BL4 = torch.cat([valid_ratios_BL2, valid_ratios_BL2], dim=-1)
        if attention_mask_BQQ is not None:
            # Once for all layers, each of which would keep its own for the backward pass.
            attention_mask_BQQ = queries_BQE.new_zeros(()).where(~attention_mask_BQQ, -torch.inf)
        boxes = anchors_BQ4
        waves = _waves(self._features_a_number, boxes)
        outputs, sampled = [], []
        for layer in self.layers:
            boxes_BQL4 = boxes[:, :, None] * ratios_BL4[:, None]
            placed = boxes_BQL4[:, :, 0] if self.padded_query_positions else boxes
            position = self.ref_point_head(_waves_of_boxes(placed, *waves))
            queries_BQE = layer(
                queries_BQE, position, boxes_BQL4, memory_BSE, spatial_shapes, padding_mask_BS, attention_mask_BQQ
            )
            outputs.append(queries_BQE)
            sampled.append(boxes)
            if len(outputs) < len(self.layers):
                with torch.no_grad():
                    boxes = box_head.refine(queries_BQE, boxes)
        outputs_LBQE = torch.stack(outputs)
        references = anchors_BQ4[None]
        if len(outputs) > 1:
            # The same boxes again with gradients, all layers' at once.
            refined = box_head.refine(outputs_LBQE[:-1], torch.stack(sampled[:-1]))
            references = torch.cat([references, refined])
        return self.norm(outputs_LBQE), references
