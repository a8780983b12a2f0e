"""From a config to a detector and its losses."""

import torch
from torch import Tensor

from richsem_schemas.cache.text_bank import TextBank
from richsem_train.choices import Backend
from richsem_train.config import LossConfig, ModelConfig, TrainConfig
from richsem_train.losses.criterion import Criterion, LossWeights
from richsem_train.losses.federated import federated_weights
from richsem_train.losses.matcher import HungarianMatcher
from richsem_train.losses.soft_labels import SoftLoss
from richsem_train.models.backbone import make_backbone
from richsem_train.models.deformable_attention import LayerSizes, choose_backend, fallback_note
from richsem_train.models.dino import Dino
from richsem_train.models.inputs import Normalise
from richsem_train.results.inference import BatchDetector
from richsem_train.run.checkpoint import ModelInfo
from richsem_train.run.open_data import RunVocabulary


def build_detector(
    config: ModelConfig,
    *,
    num_classes: int,
    text_features_CD: Tensor | None,
    logit_scale: float | None,
    weights: str | None,
    device: torch.device,
    semantic_branch: bool,
) -> Dino:
    """A detector on its device.

    The text features are raw means, None where all classifiers are linear; their scale is exponentiated. `weights` are
    those of the backbone, as `make_backbone` takes them. Detectors that are only used have no semantic branch.
    """
    backbone = make_backbone(
        config.backbone.name,
        weights=weights,
        frozen_stages=config.backbone.frozen_stages,
        frozen_norm=config.backbone.frozen_norm,
        out_strides=config.backbone.out_strides,
        drop_path=config.backbone.drop_path,
        clip_layers=config.backbone.clip_layers,
        clip_width=config.backbone.clip_width,
    )
    detector = Dino(
        backbone,
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
        label_embedding=config.label_embedding,
        deformable_backend=attention_backend(config, device),
        size_divisor=config.size_divisor,
        padded_query_positions=config.query_positions == "padded",
    )
    detector.backbone.to(memory_format=torch.channels_last)
    return detector.to(device)


def batch_detector(
    model: Dino, config: TrainConfig, class_names: tuple[str, ...], device: torch.device
) -> BatchDetector:
    """A model in evaluation mode, with how its config shows it pictures."""
    backbone, evaluation = config.model.backbone, config.evaluation
    return BatchDetector(
        model=model,
        normalise=Normalise(backbone.pixel_mean, backbone.pixel_std).to(device),
        precision=config.schedule.precision,
        class_names=class_names,
        keep=evaluation.detections,
        short_side=evaluation.short_side,
        longest_side=evaluation.longest_side,
    )


def attention_backend(config: ModelConfig, device: torch.device) -> Backend:
    """Who samples in a model's deformable attention, as `choose_backend` has it."""
    return choose_backend(config.deformable_attention, device, _attention_sizes(config))


def attention_note(config: ModelConfig, device: torch.device) -> str | None:
    """A line for the user where that is not what `auto` would like to take."""
    return fallback_note(config.deformable_attention, device, _attention_sizes(config))


def _attention_sizes(config: ModelConfig) -> LayerSizes:
    return LayerSizes(config.heads, config.hidden_dim // config.heads, config.feature_levels, config.points)


def describe(config: TrainConfig, vocabulary: RunVocabulary) -> ModelInfo:
    """The description of a config's detector."""
    text = vocabulary.text
    return ModelInfo(
        config=config,
        class_names=vocabulary.class_names,
        frequencies=vocabulary.frequencies,
        text_dim=0 if text is None else text.features.shape[1],
        logit_scale=0.0 if text is None else text.logit_scale,
        category_ids=tuple(vocabulary.category_ids.tolist()),
    )


def described_detector(
    info: ModelInfo,
    *,
    text: TextBank | None = None,
    weights: str | None = None,
    device: torch.device,
    semantic_branch: bool = False,
) -> Dino:
    """The detector that a description is of; arguments as `build_detector` has them.

    Without a text bank zeros stand in its place, where the weights that follow have it.
    """
    features_CD = None
    if info.text_dim:
        features_CD = torch.zeros(len(info.class_names), info.text_dim) if text is None else text_tensor(text)
    return build_detector(
        info.config.model,
        num_classes=len(info.class_names),
        text_features_CD=features_CD,
        logit_scale=info.logit_scale if info.text_dim else None,
        weights=weights,
        device=device,
        semantic_branch=semantic_branch,
    )


def build_criterion(
    config: LossConfig, model: ModelConfig, *, text: TextBank | None, image_counts_C: Tensor
) -> Criterion:
    """The losses; federated draws go by training pictures a row of the vocabulary, `image_counts_C`."""
    soft_loss = None
    if model.semantic_branch:
        assert text is not None
        soft_loss = SoftLoss(
            text_features_CD=text_tensor(text),
            logit_scale=text.logit_scale,
            temperature=config.temperature,
            tail=config.tail,
        )
    return Criterion(
        decoder_layers=model.decoder_layers,
        matcher=HungarianMatcher(**config.matcher.model_dump()),
        weights=LossWeights(
            classes=config.class_weight, bbox=config.bbox_weight, giou=config.giou_weight, soft=config.soft_weight
        ),
        denoising=model.denoising.queries > 0,
        soft_loss=soft_loss,
        federated_weights_C=None if config.federated is None else federated_weights(image_counts_C),
        federated_total=config.federated or 0,
    )


def text_tensor(text: TextBank) -> Tensor:
    """The raw means of a text bank, float32 [C, D]."""
    return torch.from_numpy(text.features.copy())
