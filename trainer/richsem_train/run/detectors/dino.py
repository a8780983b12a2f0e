"""DINO, from configs and files."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from richsem_schemas.cache.text_bank import TextBank
from richsem_schemas.errors import RichSemError
from richsem_train.choices import Backend, Precision
from richsem_train.config import DinoConfig, LossConfig, ModelConfig
from richsem_train.devices import samples_backwards
from richsem_train.learners.dino import DinoLearner
from richsem_train.losses.dino.criterion import Criterion, ImageLoss, LossWeights
from richsem_train.losses.dino.matcher import HungarianMatcher
from richsem_train.losses.federated import federated_weights
from richsem_train.models.dino.deformable_attention import LayerSizes, choose_backend, fallback_note
from richsem_train.models.dino.dino import Dino
from richsem_train.models.dino.published import load_published
from richsem_train.models.load_report import LoadReport
from richsem_train.run.detectors.kind import DetectorKind, backbone_of, misfits, normalise_of, sizes_in, soft_loss_of

_OF_LAYERS = {
    "encoder_layers": r"transformer\.encoder\.layers\.(\d+)\.",
    "decoder_layers": r"transformer\.decoder\.layers\.(\d+)\.",
    "feature_levels": r"input_proj\.(\d+)\.",
}
"""Fields that count modules, and what is numbered in the names of their weights."""

_OF_SIZES = {
    "hidden_dim": ("transformer.level_embed", 1),
    "queries": ("transformer.tgt_embed.weight", 0),
    "ffn_dim": ("transformer.encoder.layers.0.linear1.weight", 0),
}
"""Fields that are a side of a weight."""


class DinoAssembly(DetectorKind):
    """Makes DINO."""

    sizes = "model.ffn_dim, model.queries, model.hidden_dim, or its layers"

    trained_only = ("label_enc.", "class_embed.label_proj.")

    def detector(
        self,
        config: DinoConfig,
        *,
        num_classes: int,
        text_features_CD: Tensor | None,
        logit_scale: float | None,
        weights: str | None,
        device: torch.device,
        semantic_branch: bool,
        semantic_dim: int | None = None,
    ) -> Dino:
        """DINO."""
        return Dino(
            backbone_of(config, weights),
            hidden_dim=config.hidden_dim,
            feature_levels=config.feature_levels,
            encoder_layers=config.encoder_layers,
            decoder_layers=config.decoder_layers,
            heads=config.heads,
            points=config.points,
            ffn_dim=config.ffn_dim,
            queries=config.queries,
            num_classes=num_classes,
            dropout=config.dropout,
            classifier=config.classifier,
            encoder_classifier=config.encoder_classifier,
            text_features_CD=text_features_CD,
            logit_scale=logit_scale,
            semantic_branch=semantic_branch,
            semantic_dim=semantic_dim,
            label_embedding=config.label_embedding,
            deformable_backend=attention_backend(config, device),
            size_divisor=config.size_divisor,
            padded_query_positions=config.query_positions == "padded",
            checkpoint_encoder=config.checkpoint_encoder,
        )

    def learner(
        self,
        detector: Dino,
        config: DinoConfig,
        loss: LossConfig,
        *,
        text: TextBank | None,
        image_counts_C: Tensor,
        learns_images: bool,
        precision: Precision,
        device: torch.device,
    ) -> DinoLearner:
        """DINO with its losses and denoising queries.

        Raises:
            RichSemError: this version of PyTorch can't train it on the device.
        """
        if not samples_backwards(device):
            raise RichSemError(
                f"PyTorch {torch.__version__} has no backward pass of grid_sample on {device.type!r}, so DINO can be "
                "used there and not be trained; install a newer PyTorch (2.15 has it), or use --device cpu"
            )
        criterion = build_criterion(config, loss, text=text, image_counts_C=image_counts_C, learns_images=learns_images)
        return DinoLearner(
            detector,
            criterion.to(device),
            dn_queries=config.denoising.queries,
            label_noise=config.denoising.label_noise,
            box_noise=config.denoising.box_noise,
            precision=precision,
            normalise=normalise_of(config).to(device),
        )

    def most_detections(self, config: DinoConfig, classes: int) -> str:
        """Every box with every class."""
        return (
            f"the detector gives {config.queries:,} boxes x {classes:,} classes of each picture, "
            f"{config.queries * classes:,} detections"
        )

    def load_published(
        self, detector: Dino, path: Path, *, fresh_heads: bool = False, class_names: Sequence[str] | None = None
    ) -> LoadReport:
        """Weights of DINO or RichSem."""
        return load_published(detector, path, fresh_heads=fresh_heads, class_names=class_names)

    def counted_misfits(self, config: DinoConfig, weights: Mapping[str, Tensor]) -> list[str]:
        """Layers, levels, queries and widths."""
        found = {field: _count(pattern, weights) for field, pattern in _OF_LAYERS.items()}
        found |= sizes_in(weights, _OF_SIZES)
        return misfits(config, found)

    def built_without_memory(self, config: ModelConfig) -> ModelConfig:
        """How it samples makes no difference to its weights, and kernels don't run on the meta device."""
        return config.model_copy(update={"deformable_attention": "torch"})

    def words(self, config: DinoConfig, device: torch.device) -> str:
        """Who samples."""
        return f"deformable attention: {attention_backend(config, device)}"

    def note(self, config: DinoConfig, device: torch.device) -> str | None:
        """Where that is not what `auto` would like to take."""
        return fallback_note(config.deformable_attention, device, _attention_sizes(config))


def attention_backend(config: DinoConfig, device: torch.device) -> Backend:
    """Who samples in a model's deformable attention, as `choose_backend` has it."""
    return choose_backend(config.deformable_attention, device, _attention_sizes(config))


def _attention_sizes(config: DinoConfig) -> LayerSizes:
    return LayerSizes(config.heads, config.hidden_dim // config.heads, config.feature_levels, config.points)


def build_criterion(
    config: DinoConfig,
    loss: LossConfig,
    *,
    text: TextBank | None,
    image_counts_C: Tensor,
    learns_images: bool = False,
) -> Criterion:
    """The losses; federated draws go by training pictures a row of the vocabulary, `image_counts_C`."""
    return Criterion(
        decoder_layers=config.decoder_layers,
        matcher=HungarianMatcher(**loss.matcher.model_dump()),
        weights=LossWeights(
            classes=loss.class_weight,
            bbox=loss.bbox_weight,
            giou=loss.giou_weight,
            soft=loss.soft_weight,
            image=loss.image_weight,
        ),
        denoising=config.denoising.queries > 0,
        soft_loss=soft_loss_of(config, loss, text),
        federated_weights_C=None if loss.federated is None else federated_weights(image_counts_C),
        federated_total=loss.federated or 0,
        image_loss=ImageLoss(loss.image_candidates, loss.image_negatives) if learns_images else None,
    )


def _count(pattern: str, weights: Mapping[str, Tensor]) -> int:
    return len({match[1] for name in weights if (match := re.match(pattern, name))})
