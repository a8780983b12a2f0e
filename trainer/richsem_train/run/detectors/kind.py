"""What the assembly has to know of a kind of detector."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from richsem_schemas.cache.text_bank import TextBank
from richsem_train.choices import Precision
from richsem_train.config import LossConfig, ModelConfig
from richsem_train.learners.learner import Learner
from richsem_train.losses.soft_labels import SoftLoss
from richsem_train.models.backbone import Backbone, make_backbone
from richsem_train.models.detector import DetectionModel
from richsem_train.models.inputs import Normalise
from richsem_train.models.load_report import LoadReport


class DetectorKind(ABC):
    """Makes detectors of a kind from configs and files. Sections `model` are of its own class.

    Attributes:
        trained_only: what names of weights begin with that only training uses.
        sizes: the keys that make it smaller, in words.
    """

    sizes: str

    trained_only: tuple[str, ...] = ()

    @abstractmethod
    def detector(
        self,
        config: Any,
        *,
        num_classes: int,
        text_features_CD: Tensor | None,
        logit_scale: float | None,
        weights: str | None,
        device: torch.device,
        semantic_branch: bool,
        semantic_dim: int | None = None,
    ) -> DetectionModel:
        """A detector for a device, not yet on it; arguments as `build_detector` has them."""

    @abstractmethod
    def learner(
        self,
        detector: Any,
        config: Any,
        loss: LossConfig,
        *,
        text: TextBank | None,
        image_counts_C: Tensor,
        learns_images: bool,
        precision: Precision,
        device: torch.device,
    ) -> Learner:
        """The detector with its losses; arguments as `build_learner` has them."""

    @abstractmethod
    def load_published(
        self, detector: Any, path: Path, *, fresh_heads: bool = False, class_names: Sequence[str] | None = None
    ) -> LoadReport:
        """Give a detector weights of another program, or of a checkpoint of ours.

        Args:
            detector: given the weights.
            path: a checkpoint, a state dict, or a safetensors file; read without running its code.
            fresh_heads: leave out what belongs to other classes instead of refusing it.
            class_names: the detector's, by row.

        Raises:
            RichSemError: the file can't be read safely, or is of another architecture; the detector is left as it was.
        """

    @abstractmethod
    def counted_misfits(self, config: Any, weights: Mapping[str, Tensor]) -> list[str]:
        """Where a section `model` asks for other numbers of modules, or other sizes, than weights have.

        What is found here needs nothing to be built.
        """

    def built_without_memory(self, config: ModelConfig) -> ModelConfig:
        """The section of a detector with the same weights that can be built on the meta device."""
        return config

    def words(self, config: Any, device: torch.device) -> str:  # noqa: ARG002
        """How it runs on a device, for the log; empty where there is nothing to say."""
        return ""

    @abstractmethod
    def most_detections(self, config: Any, classes: int) -> str:
        """How many detections it can give of a picture, in words, where nothing else limits them."""

    def note(self, config: Any, device: torch.device) -> str | None:  # noqa: ARG002
        """A line for the user where it runs otherwise than it might."""
        return None


def sizes_in(weights: Mapping[str, Tensor], sides: Mapping[str, tuple[str, int]]) -> dict[str, int]:
    """Fields that are a side of a weight: the name of the weight and the axis make its size, 0 where it isn't there."""
    found = {field: (weights.get(name), axis) for field, (name, axis) in sides.items()}
    return {
        field: 0 if tensor is None or tensor.ndim <= axis else tensor.shape[axis]
        for field, (tensor, axis) in found.items()
    }


def misfits(config: ModelConfig, found: Mapping[str, int]) -> list[str]:
    """Where a section `model` has other numbers than were found in weights, in words."""
    return [
        f"model.{field} is {getattr(config, field):,}, the weights have {there:,}"
        for field, there in found.items()
        if getattr(config, field) != there
    ]


def backbone_of(config: ModelConfig, weights: str | None) -> Backbone:
    """The backbone of a section `model`, with weights as `make_backbone` takes them."""
    backbone = config.backbone
    return make_backbone(
        backbone.name,
        weights=weights,
        frozen_stages=backbone.frozen_stages,
        frozen_norm=backbone.frozen_norm,
        out_strides=backbone.out_strides,
        drop_path=backbone.drop_path,
        clip_layers=backbone.clip_layers,
        clip_width=backbone.clip_width,
    )


def soft_loss_of(config: ModelConfig, loss: LossConfig, text: TextBank | None) -> SoftLoss | None:
    """The loss of the semantic branch, with the teacher's text bank; None without a branch."""
    if not config.semantic_branch:
        return None
    assert text is not None
    return SoftLoss(
        text_features_CD=text_tensor(text),
        logit_scale=text.logit_scale,
        temperature=loss.temperature,
        tail=loss.tail,
    )


def normalise_of(config: ModelConfig) -> Normalise:
    """From pixels to what the backbone takes."""
    return Normalise(config.backbone.pixel_mean, config.backbone.pixel_std)


def text_tensor(text: TextBank) -> Tensor:
    """The raw means of a text bank, float32 [C, D]."""
    return torch.from_numpy(text.features.copy())
