"""From a config to a detector and its losses."""

import torch
from torch import Tensor

from richsem_schemas.cache.text_bank import TextBank
from richsem_train.choices import Precision
from richsem_train.config import LossConfig, ModelConfig, TrainConfig
from richsem_train.devices import convolution_format
from richsem_train.learners.learner import Learner
from richsem_train.models.detector import DetectionModel
from richsem_train.models.inputs import Normalise
from richsem_train.results.inference import BatchDetector
from richsem_train.run.checkpoint import ModelInfo
from richsem_train.run.detectors import kind_of
from richsem_train.run.detectors.kind import text_tensor
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
    semantic_dim: int | None = None,
) -> DetectionModel:
    """A detector on its device.

    The text features are raw means, None where all classifiers are linear; their scale is exponentiated. `weights` are
    those of the backbone, as `make_backbone` takes them. Detectors that are only used have no semantic branch; its
    `semantic_dim` is the width of the teacher's text features, None where they are these.
    """
    detector = kind_of(config).detector(
        config,
        num_classes=num_classes,
        text_features_CD=text_features_CD,
        logit_scale=logit_scale,
        weights=weights,
        device=device,
        semantic_branch=semantic_branch,
        semantic_dim=semantic_dim,
    )
    detector.backbone.to(memory_format=convolution_format(device))
    return detector.to(device)


def build_learner(
    detector: DetectionModel,
    config: ModelConfig,
    loss: LossConfig,
    *,
    text: TextBank | None,
    image_counts_C: Tensor,
    learns_images: bool = False,
    precision: Precision,
    device: torch.device,
) -> Learner:
    """A detector with its losses, on its device.

    `text` is the teacher's bank. Federated draws go by training pictures a row of the vocabulary, `image_counts_C`.
    With `learns_images` there are losses of pictures that are labelled as a whole.
    """
    return kind_of(config).learner(
        detector,
        config,
        loss,
        text=text,
        image_counts_C=image_counts_C,
        learns_images=learns_images,
        precision=precision,
        device=device,
    )


def batch_detector(
    model: DetectionModel, config: TrainConfig, class_names: tuple[str, ...], device: torch.device
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


def describe(config: TrainConfig, vocabulary: RunVocabulary) -> ModelInfo:
    """The description of a config's detector."""
    text = vocabulary.text
    return ModelInfo(
        config=config,
        class_names=vocabulary.class_names,
        frequencies=vocabulary.frequencies,
        text_dim=0 if text is None else text.features.shape[1],
        logit_scale=0.0 if text is None else text.logit_scale,
        frequency_rule=vocabulary.frequency_rule,
        category_ids=tuple(vocabulary.category_ids.tolist()),
    )


def described_detector(
    info: ModelInfo,
    *,
    text: TextBank | None = None,
    weights: str | None = None,
    device: torch.device,
    semantic_branch: bool = False,
    semantic_dim: int | None = None,
) -> DetectionModel:
    """The detector that a description is of; arguments as `build_detector` has them.

    `text` is the classifier's bank. Without one zeros stand in its place, where the weights that follow have it.
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
        semantic_dim=semantic_dim,
    )
