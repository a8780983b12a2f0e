"""The detector: DINO with a vocabulary of names."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from richsem_schemas.errors import RichSemError
from richsem_train.choices import Backend, ClassifierKind, LabelEmbedding
from richsem_train.models.backbone import padded_to
from richsem_train.models.detector import BestPairs, DetectionModel
from richsem_train.models.dino.decoder import Decoder, DecoderLayer
from richsem_train.models.dino.encoder import Encoder, EncoderLayer
from richsem_train.models.dino.heads import (
    BoxHead,
    LinearClassifier,
    TextClassifier,
    detections,
)
from richsem_train.models.dino.neck import Neck
from richsem_train.models.dino.transformer import Anchors, Transformer
from richsem_train.models.text_features import TextFeatures
from richsem_train.outputs.dino import DenoisingQueries, DinoOutputs

_SEMANTIC_KEY = "class_embed.clip_visual_proj."

_EXACT = {
    "class_embed", "bbox_embed", "enc_out_class_embed", "enc_out_bbox_embed", "sampling_offsets", "attention_weights",
    "label_enc",
}  # fmt: skip
"""Modules that compute in float32 under autocast, or whose inputs come before it."""

_PART_DEPTH = 4
"""Names of a stage of the backbone and of a layer of the transformer have so many parts."""


class Dino(DetectionModel):
    """DINO-DETR, two-stage, with contrastive denoising and RichSem's classifier and semantic branch.

    Parameters are named as in published checkpoints (see `published`); heads that those repeat for each decoder layer
    stand here once, under the name of layer 0. Arguments are those of section `model` of a config, and:

    Args:
        backbone: pictures [B, 3, H, W] to maps, finest first; says its `channels`, and what it needs as `size_divisor`.
        num_classes: rows C of the vocabulary.
        text_features_CD: raw text means of the classifiers, row = class; needed where one is `text`.
        logit_scale: multiplies cosines; already exponentiated (~100).
        semantic_dim: width of the teacher's text means, where they are others than the classifiers'.

    Attributes:
        size_divisor: what heights and widths are padded to multiples of, the backbone's own included. That has effects
            that masks don't undo: on norms over whole maps, and on what convolutions see at a picture's rim. So weights
            want what they were trained with.

    Raises:
        RichSemError: the vocabulary is missing or doesn't fit, or a semantic branch beside a linear classifier.

    Source:
        Zhang et al. 2022 (arXiv 2203.03605); Meng et al. 2023 (arXiv 2310.12152). Differs: see `Transformer` and
        `Decoder`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        hidden_dim: int,
        feature_levels: int,
        encoder_layers: int,
        decoder_layers: int,
        heads: int,
        points: int,
        ffn_dim: int,
        queries: int,
        num_classes: int,
        dropout: float = 0.0,
        classifier: ClassifierKind = "text",
        encoder_classifier: ClassifierKind = "text",
        text_features_CD: Tensor | None = None,
        logit_scale: float | None = None,
        semantic_branch: bool = True,
        semantic_dim: int | None = None,
        label_embedding: LabelEmbedding = "classifier",
        deformable_backend: Backend = "torch",
        size_divisor: int = 1,
        padded_query_positions: bool = False,
        checkpoint_encoder: bool = False,
    ) -> None:
        super().__init__()
        _check_vocabulary(text_features_CD, logit_scale, num_classes, needed="text" in (classifier, encoder_classifier))
        _check_semantic_branch(semantic_branch, classifier)
        self.num_classes = num_classes
        self.text_features: Tensor | None
        self.logit_scale: Tensor | None
        self.register_buffer("text_features", None if text_features_CD is None else text_features_CD.detach().clone())
        self.register_buffer("logit_scale", None if logit_scale is None else torch.tensor(float(logit_scale)))
        text_dim = 0 if text_features_CD is None else text_features_CD.shape[1]
        layer: dict[str, Any] = {
            "levels": feature_levels,
            "heads": heads,
            "points": points,
            "ffn_dim": ffn_dim,
            "dropout": dropout,
            "backend": deformable_backend,
        }
        self.backbone = nn.Sequential(backbone)
        self.size_divisor = math.lcm(size_divisor, getattr(backbone, "size_divisor", 1))
        self.input_proj = Neck(backbone.channels, hidden_dim=hidden_dim, levels=feature_levels)  # type: ignore[arg-type]
        self.transformer = Transformer(
            Encoder((EncoderLayer(hidden_dim, **layer) for _ in range(encoder_layers)), checkpoints=checkpoint_encoder),
            Decoder(
                (DecoderLayer(hidden_dim, **layer) for _ in range(decoder_layers)),
                hidden_dim=hidden_dim,
                padded_query_positions=padded_query_positions,
            ),
            hidden_dim=hidden_dim,
            levels=feature_levels,
            queries=queries,
            enc_out_class_embed=_make_classifier(encoder_classifier, hidden_dim, num_classes, text_dim),
        )
        self.bbox_embed = nn.ModuleList([BoxHead(hidden_dim)])
        embeds_labels = label_embedding == "classifier"
        head = _make_classifier(
            classifier,
            hidden_dim,
            num_classes,
            text_dim,
            embeds_labels=embeds_labels,
            semantic_branch=semantic_branch,
            semantic_dim=semantic_dim,
        )
        self.class_embed = head if isinstance(head, TextClassifier) else nn.ModuleList([head])
        # One row more than classes: plain DINO's size, whose last row no label uses.
        self.label_enc = nn.Embedding(num_classes + 1, hidden_dim) if label_embedding == "embedding" else None

    def forward(
        self, images_B3HW: Tensor, padding_mask_BHW: Tensor, denoising: DenoisingQueries | None = None
    ) -> DinoOutputs:
        """Detect.

        Args:
            images_B3HW: normalised pixels, 0 where padded.
            padding_mask_BHW: bool, True where padded.
            denoising: drawn from the batch's targets; None at inference and for batches without objects.
        """
        text = self.text_bank()
        # Together, or the maps would cover more than the mask knows of, and boxes be relative to that.
        images_B3HW = padded_to(images_B3HW, self.size_divisor, value=0)
        padding_mask_BHW = padded_to(padding_mask_BHW, self.size_divisor, value=True)
        outputs = self.transformer(
            self.input_proj(self.backbone(images_B3HW), padding_mask_BHW),
            denoising=denoising,
            denoising_contents_BNE=None if denoising is None else self._denoising_contents(denoising, text),
            box_head=self._box_head,
            text=text,
        )
        hidden_LBQE = outputs.hidden
        if self.training:
            hidden_LBQE = _WithNothingOf.apply(hidden_LBQE, *self._sometimes_unused())
        logits_LBQC = self._classifier.logits(hidden_LBQE, text)
        boxes_LBQ4 = self._box_head.refine(hidden_LBQE, outputs.references)
        return _split(logits_LBQC, boxes_LBQ4, hidden_LBQE[-1], outputs.anchors, denoising)

    def detect(
        self,
        images_B3HW: Tensor,
        padding_mask_BHW: Tensor,
        *,
        image_hw: Sequence[tuple[int, int]],  # noqa: ARG002 -- boxes come relative to the picture without padding
        original_hw: Sequence[tuple[int, int]],
        vocabulary_C: Tensor,
        keep: int,
    ) -> list[BestPairs]:
        """The best pairs of a query's box and a class in each picture."""
        outputs = self(images_B3HW, padding_mask_BHW)
        return detections(
            outputs.pred_logits[-1], outputs.pred_boxes[-1], original_hw, vocabulary_C=vocabulary_C, keep=keep
        )

    def semantic_logits(self, hidden_NE: Tensor, teacher_text: TextFeatures | None = None) -> Tensor:
        """Scaled cosines of the semantic branch, float32 [N, C], of normed queries of the final decoder layer.

        They are to the teacher's names; None is the classifier's.

        Raises:
            RichSemError: the detector has no semantic branch.
        """
        head, text = self._classifier, teacher_text or self.text_bank()
        if not self.has_semantic_branch or not isinstance(head, TextClassifier) or text is None:
            raise RichSemError(
                "the detector has no semantic branch to learn soft labels; set model.semantic_branch=true"
            )
        return head.semantic_logits(hidden_NE, text)

    @property
    def has_semantic_branch(self) -> bool:
        """Whether soft labels can be learnt."""
        return isinstance(self.class_embed, TextClassifier) and self.class_embed.clip_visual_proj is not None

    def text_bank(self) -> TextFeatures | None:
        """The vocabulary; None where all classifiers are linear and none was given."""
        if self.text_features is None or self.logit_scale is None:
            return None
        return TextFeatures.of(self.text_features, self.logit_scale)

    def inference_state_dict(self) -> dict[str, Tensor]:
        """The state without the semantic branch: that of the same detector built with `semantic_branch=False`."""
        return {key: value for key, value in self.state_dict().items() if not key.startswith(_SEMANTIC_KEY)}

    def half_weights(self) -> list[list[str]]:
        """Names of the weights that are used in the precision of autocast, part by part."""
        groups: dict[tuple[str, ...], list[str]] = {}
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear | nn.MultiheadAttention) and not _EXACT & set(name.split(".")):
                for parameter, _ in module.named_parameters(recurse=False):
                    groups.setdefault(tuple(name.split(".")[:_PART_DEPTH]), []).append(f"{name}.{parameter}")
        return list(groups.values())

    @property
    def _classifier(self) -> LinearClassifier | TextClassifier:
        head = self.class_embed if isinstance(self.class_embed, TextClassifier) else self.class_embed[0]
        assert isinstance(head, LinearClassifier | TextClassifier)
        return head

    @property
    def _box_head(self) -> BoxHead:
        head = self.bbox_embed[0]
        assert isinstance(head, BoxHead)
        return head

    def _denoising_contents(self, denoising: DenoisingQueries, text: TextFeatures | None) -> Tensor:
        contents_BNE: Tensor = (
            self._classifier.label_embeddings(denoising.labels, text)
            if self.label_enc is None
            else self.label_enc(denoising.labels)
        )
        return contents_BNE.masked_fill(denoising.padding[..., None], 0)

    def _sometimes_unused(self) -> list[nn.Parameter]:
        """Of heads that only some batches use.

        Distributed training waits for a gradient of every parameter: of the label embedding in a batch without
        objects, of the semantic branch in one without soft labels.
        """
        heads: list[nn.Module | None] = [self.label_enc]
        if isinstance(self.class_embed, TextClassifier):
            heads += [self.class_embed.label_proj, self.class_embed.clip_visual_proj]
        return [parameter for head in heads if head is not None for parameter in head.parameters()]


class _WithNothingOf(torch.autograd.Function):
    """The first tensor as it is, with gradients of zero for the others."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, *unused: Tensor) -> Tensor:
        ctx.unused = [(each.shape, each.dtype) for each in unused]
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return gradient, *(gradient.new_zeros(shape, dtype=dtype) for shape, dtype in ctx.unused)


def _make_classifier(
    kind: ClassifierKind,
    hidden_dim: int,
    num_classes: int,
    text_dim: int,
    *,
    embeds_labels: bool = False,
    semantic_branch: bool = False,
    semantic_dim: int | None = None,
) -> LinearClassifier | TextClassifier:
    if kind == "linear":
        return LinearClassifier(hidden_dim, num_classes)
    return TextClassifier(
        hidden_dim,
        text_dim,
        embeds_labels=embeds_labels,
        semantic_branch=semantic_branch,
        semantic_dim=semantic_dim,
    )


def _check_vocabulary(
    text_features_CD: Tensor | None, logit_scale: float | None, num_classes: int, *, needed: bool
) -> None:
    if needed and (text_features_CD is None or logit_scale is None):
        raise RichSemError("a text classifier needs text features and their logit scale; give a label set of a cache")
    if text_features_CD is not None and text_features_CD.shape[0] != num_classes:
        raise RichSemError(
            f"the text features have {text_features_CD.shape[0]} rows and the detector {num_classes} classes; "
            "rows are category ids, so both must be equal"
        )


def _check_semantic_branch(semantic_branch: bool, classifier: ClassifierKind) -> None:
    if semantic_branch and classifier != "text":
        raise RichSemError(
            f"a semantic branch learns cosines with names, and the classifier is {classifier!r}; "
            "use the text classifier, or no semantic branch"
        )


def _split(
    logits_LBXC: Tensor,
    boxes_LBX4: Tensor,
    hidden_BXE: Tensor,
    anchors: Anchors,
    denoising: DenoisingQueries | None,
) -> DinoOutputs:
    """Denoising queries, which come first, apart from the matching ones."""
    if denoising is None:
        return DinoOutputs(logits_LBXC, boxes_LBX4, hidden_BXE, anchors.logits, anchors.boxes)
    # Split rather than sliced, whose gradients would be padded and added.
    sizes = [denoising.count, logits_LBXC.shape[2] - denoising.count]
    dn_logits, pred_logits = logits_LBXC.split(sizes, dim=2)
    dn_boxes, pred_boxes = boxes_LBX4.split(sizes, dim=2)
    dn_hidden, hidden = hidden_BXE.split(sizes, dim=1)
    return DinoOutputs(pred_logits, pred_boxes, hidden, anchors.logits, anchors.boxes, dn_logits, dn_boxes, dn_hidden)
