"""Encoder, choice of anchors, decoder: from the neck's levels to boxes and normed queries."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from richsem_train.models.dino.decoder import Decoder
from richsem_train.models.dino.deformable_attention import DeformableAttention
from richsem_train.models.dino.encoder import Encoder, valid_ratios
from richsem_train.models.dino.heads import BoxHead, LinearClassifier, TextClassifier, inverse_sigmoid
from richsem_train.models.dino.neck import FeatureLevel
from richsem_train.models.dino.query_selection import (
    TOKENS_AT_ONCE,
    at_least_tokens,
    best_tokens,
    encoder_proposals,
    gathered,
)
from richsem_train.models.text_features import TextFeatures
from richsem_train.outputs.dino import DenoisingQueries


class Tokens(NamedTuple):
    """All levels laid end to end.

    Attributes:
        content: [B, S, E].
        position: [B, S, E], with the level's embedding.
        padding: bool [B, S], True where padded.
        spatial_shapes: height and width of each level.
        valid_ratios: [B, L, 2], share of each level's width and height that is picture.
    """

    content: Tensor
    position: Tensor
    padding: Tensor
    spatial_shapes: tuple[tuple[int, int], ...]
    valid_ratios: Tensor


class Anchors(NamedTuple):
    """The proposals of the encoder: [B, Q, C] logits, and [B, Q, 4] boxes cxcywh in [0, 1], both with gradient."""

    logits: Tensor
    boxes: Tensor


class TransformerOutputs(NamedTuple):
    """Inputs of the heads; denoising queries come first.

    Attributes:
        hidden: [layers, B, N + Q, E], normed.
        references: [layers, B, N + Q, 4], the boxes that each layer's head moves.
        anchors: of the Q matching queries.
    """

    hidden: Tensor
    references: Tensor
    anchors: Anchors


class Transformer(nn.Module):
    """DINO's transformer with mixed query selection.

    Contents of queries are learnt and belong to no picture, their anchors are the encoder's best proposals, ranked by a
    classifier of its own, `enc_out_class_embed`. Named as in published checkpoints.

    Source:
        Zhang et al. 2022, DINO (arXiv 2203.03605). Differs: padding and proposals at the very rim are chosen only
        where nothing else is left, so that a picture's queries don't depend on its neighbours in the batch.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        *,
        hidden_dim: int,
        levels: int,
        queries: int,
        enc_out_class_embed: LinearClassifier | TextClassifier,
    ) -> None:
        super().__init__()
        self.queries = queries
        self.level_embed = nn.Parameter(torch.empty(levels, hidden_dim))
        self.tgt_embed = nn.Embedding(queries, hidden_dim)
        self.encoder = encoder
        self.decoder = decoder
        self.enc_output = nn.Linear(hidden_dim, hidden_dim)
        self.enc_output_norm = nn.LayerNorm(hidden_dim)
        self._reset_parameters()
        self.enc_out_class_embed = enc_out_class_embed
        self.enc_out_bbox_embed = BoxHead(hidden_dim)

    def _reset_parameters(self) -> None:
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, DeformableAttention):
                module.reset_parameters()
        nn.init.normal_(self.level_embed)

    def forward(
        self,
        levels: Sequence[FeatureLevel],
        *,
        denoising: DenoisingQueries | None,
        denoising_contents_BNE: Tensor | None,
        box_head: BoxHead,
        text: TextFeatures | None,
    ) -> TransformerOutputs:
        """Encode, choose, decode."""
        tokens = self._flatten(levels)
        memory_BSE = self.encoder(
            tokens.content, tokens.position, tokens.spatial_shapes, tokens.valid_ratios, tokens.padding
        )
        anchors = self._choose_anchors(memory_BSE, [level.padding_mask for level in levels], text)
        contents, boxes = self.tgt_embed.weight.expand(len(memory_BSE), -1, -1), anchors.boxes.detach()
        mask = None
        if denoising is not None:
            assert denoising_contents_BNE is not None
            contents = torch.cat([denoising_contents_BNE.to(contents), contents], dim=1)
            # There and back, since no query's box is allowed to be empty.
            boxes = torch.cat([inverse_sigmoid(denoising.boxes.to(boxes)).sigmoid(), boxes], dim=1)
            mask = denoising.attention_mask(self.queries)
        hidden, references = self.decoder(
            contents,
            boxes,
            memory_BSE,
            tokens.spatial_shapes,
            tokens.valid_ratios,
            tokens.padding,
            attention_mask_BQQ=mask,
            box_head=box_head,
        )
        return TransformerOutputs(hidden, references, anchors)

    def _flatten(self, levels: Sequence[FeatureLevel]) -> Tokens:
        positions = [
            _as_tokens(level.position) + embedding_E
            for level, embedding_E in zip(levels, self.level_embed, strict=True)
        ]
        ratios_dtype = torch.promote_types(levels[0].map.dtype, torch.float32)
        return Tokens(
            content=torch.cat([_as_tokens(level.map) for level in levels], dim=1),
            position=torch.cat(positions, dim=1),
            padding=torch.cat([level.padding_mask.flatten(1) for level in levels], dim=1),
            spatial_shapes=tuple((level.map.shape[-2], level.map.shape[-1]) for level in levels),
            valid_ratios=valid_ratios([level.padding_mask for level in levels], ratios_dtype),
        )

    def _choose_anchors(self, memory_BSE: Tensor, padding_masks: list[Tensor], text: TextFeatures | None) -> Anchors:
        proposals_BS4, valid_BS = encoder_proposals(padding_masks, torch.promote_types(memory_BSE.dtype, torch.float32))
        memory_BSE, proposals_BS4, valid_BS = at_least_tokens(memory_BSE, proposals_BS4, valid_BS, self.queries)
        memory_BSE = memory_BSE.masked_fill(~valid_BS[..., None], 0)
        chosen_BQ = best_tokens(self._objectness(memory_BSE, text), valid_BS, self.queries)
        features_BQE = self._encoder_features(gathered(memory_BSE, chosen_BQ))
        return Anchors(
            logits=self.enc_out_class_embed.logits(features_BQE, text),
            boxes=self.enc_out_bbox_embed.propose(features_BQE, gathered(proposals_BS4, chosen_BQ)),
        )

    @torch.no_grad()
    def _objectness(self, memory_BSE: Tensor, text: TextFeatures | None) -> Tensor:
        """The best logit of each token [B, S]; only ranks, so the chosen ones are computed again with gradient."""
        scores = [
            self.enc_out_class_embed.logits(chunk, text).amax(dim=-1)
            for chunk in self._encoder_features(memory_BSE).split(TOKENS_AT_ONCE, dim=1)
        ]
        return torch.cat(scores, dim=1)

    def _encoder_features(self, memory_BXE: Tensor) -> Tensor:
        features_BXE: Tensor = self.enc_output_norm(self.enc_output(memory_BXE))
        return features_BXE


def _as_tokens(map_BEhw: Tensor) -> Tensor:
    return map_BEhw.flatten(2).transpose(1, 2)
