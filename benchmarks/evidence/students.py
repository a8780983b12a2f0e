"""Detectors that label distances are seen through: one that was trained, and the same before its first step."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.evidence.forms import TAILS
from richsem_schemas.cache.text_bank import TextBank
from richsem_schemas.errors import RichSemError
from richsem_train.choices import Tail
from richsem_train.config import DinoConfig, TrainConfig
from richsem_train.losses.dino.criterion import Criterion
from richsem_train.models.dino.dino import Dino
from richsem_train.models.inputs import Normalise
from richsem_train.run.build import described_detector
from richsem_train.run.checkpoint import ModelInfo, load_checkpoint
from richsem_train.run.detectors.dino import build_criterion

_OF_NAMES = ("text_features", "logit_scale")
"""Buffers of a detector that are the vocabulary's, not learnt."""


@dataclass(frozen=True, eq=False)
class Student:
    """A detector in training.

    Attributes:
        config: how it is trained.
        detector: with a semantic branch.
        criteria: the losses, by how they take the tail of top-k labels.
        normalise: its inputs.
    """

    config: TrainConfig
    detector: Dino
    criteria: Mapping[Tail, Criterion]
    normalise: Normalise

    @classmethod
    def of(cls, info: ModelInfo, text: TextBank) -> "Student":
        """A detector as described, with random weights, over the names of a text bank."""
        info = replace(
            info,
            class_names=text.class_names,
            frequencies=("",) * len(text.class_names),
            category_ids=(),
            text_dim=text.features.shape[1],
            logit_scale=text.logit_scale,
        )
        torch.manual_seed(0)
        device = torch.device("cpu")
        detector = described_detector(info, text=text, device=device, semantic_branch=True)
        config, model, counts = info.config, info.config.model, torch.ones(len(text.class_names), dtype=torch.int64)
        assert isinstance(detector, Dino)
        assert isinstance(model, DinoConfig)
        criteria = {
            tail: build_criterion(
                model, config.loss.model_copy(update={"tail": tail}), text=text, image_counts_C=counts
            )
            for tail in TAILS
        }
        normalise = Normalise(config.model.backbone.pixel_mean, config.model.backbone.pixel_std)
        return cls(config, detector.train(), criteria, normalise)

    @property
    def trained(self) -> list[tuple[str, Tensor]]:
        """The weights that are trained, with their names."""
        return [(name, weight) for name, weight in self.detector.named_parameters() if weight.requires_grad]


def students(checkpoint: Path, text: TextBank) -> dict[str, Student]:
    """The detector of a checkpoint and the same before its first step, over the names of a text bank.

    Raises:
        RichSemError: its weights depend on its vocabulary, or it has no semantic branch.
    """
    saved = load_checkpoint(checkpoint)
    model = saved.info.config.model
    if not isinstance(model, DinoConfig):
        raise RichSemError(f"{checkpoint}: gradients are compared for DINO, it is of {model.detector}")
    if not model.semantic_branch or model.label_embedding != "classifier" or model.encoder_classifier != "text":
        raise RichSemError(
            f"{checkpoint}: it is shown other names here, so its classifiers must be of text, and it needs a semantic "
            "branch; train one with the config demo, by `make demo`"
        )
    trained, untrained = Student.of(saved.info, text), Student.of(saved.info, text)
    weights = {name: weight for name, weight in saved.model.items() if name not in _OF_NAMES}
    report = trained.detector.load_state_dict(weights, strict=False)
    if report.unexpected_keys or set(report.missing_keys) - set(_OF_NAMES):
        raise RichSemError(f"{checkpoint}: its weights aren't those of its config; take another copy of it")
    return {"trained": trained, "untrained": untrained}
