"""The two-stage detector, from configs and files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from richsem_schemas.cache.text_bank import TextBank
from richsem_schemas.errors import RichSemError
from richsem_train.choices import Precision
from richsem_train.config import CenternetCascadeConfig, LossConfig
from richsem_train.learners.centernet_cascade import CenternetCascadeLearner, LossWeights
from richsem_train.losses.centernet_cascade.rois import Federation
from richsem_train.losses.federated import federated_weights
from richsem_train.models.centernet_cascade.detections import LEAST_SCORE, MOST_PAIRS
from richsem_train.models.centernet_cascade.published_detic import load_published_detic
from richsem_train.models.centernet_cascade.two_stage import CenternetCascade
from richsem_train.models.load_report import LoadReport
from richsem_train.run.detectors.kind import DetectorKind, backbone_of, misfits, normalise_of, sizes_in, soft_loss_of

_OF_SIZES = {
    "hidden_dim": ("centernet.heatmap.weight", 1),
    "roi_dim": ("cascade.stages.0.fc1.weight", 0),
}
"""Fields that are a side of a weight."""


class CenternetCascadeAssembly(DetectorKind):
    """Makes the two-stage detector."""

    sizes = "model.roi_dim, or model.hidden_dim"

    def detector(
        self,
        config: CenternetCascadeConfig,
        *,
        num_classes: int,
        text_features_CD: Tensor | None,
        logit_scale: float | None,  # noqa: ARG002 -- the classifier has a scale of its own
        weights: str | None,
        device: torch.device,  # noqa: ARG002 -- nothing of it depends on the device
        semantic_branch: bool,
        semantic_dim: int | None = None,
    ) -> CenternetCascade:
        """The detector.

        Raises:
            RichSemError: there is no text bank.
        """
        if text_features_CD is None:
            raise RichSemError("a text classifier needs text features; give a label set of a cache")
        return CenternetCascade(
            backbone_of(config, weights),
            num_classes=num_classes,
            text_features_CD=text_features_CD,
            cosine_scale=config.cosine_scale,
            hidden_dim=config.hidden_dim,
            roi_dim=config.roi_dim,
            semantic_dim=(semantic_dim or text_features_CD.shape[1]) if semantic_branch else None,
            size_divisor=config.size_divisor,
        )

    def learner(
        self,
        detector: CenternetCascade,
        config: CenternetCascadeConfig,
        loss: LossConfig,
        *,
        text: TextBank | None,
        image_counts_C: Tensor,
        learns_images: bool,
        precision: Precision,
        device: torch.device,
    ) -> CenternetCascadeLearner:
        """The detector with its losses."""
        federation = None if loss.federated is None else Federation(federated_weights(image_counts_C), loss.federated)
        learner = CenternetCascadeLearner(
            detector,
            weights=LossWeights(
                giou=loss.giou_weight,
                classes=loss.class_weight,
                bbox=loss.bbox_weight,
                soft=loss.soft_weight,
                image=loss.image_weight,
            ),
            regions=config.rois,
            learns_images=learns_images,
            image_candidates=loss.image_candidates,
            extra_boxes=config.extra_boxes,
            soft_loss=soft_loss_of(config, loss, text),
            federation=federation,
            precision=precision,
            normalise=normalise_of(config),
        )
        return learner.to(device)

    def most_detections(self, config: CenternetCascadeConfig, classes: int) -> str:  # noqa: ARG002
        """What its post-processing leaves."""
        return (
            f"the detector gives at most {MOST_PAIRS:,} detections of each picture, with scores above {LEAST_SCORE:g}, "
            "before those are dropped that a better one of their class overlaps"
        )

    def load_published(
        self,
        detector: CenternetCascade,
        path: Path,
        *,
        fresh_heads: bool = False,
        class_names: Sequence[str] | None = None,
    ) -> LoadReport:
        """Weights of Detic, or of a checkpoint of ours."""
        del class_names  # No weight has a row a class.
        return load_published_detic(detector, path, fresh_heads=fresh_heads)

    def counted_misfits(self, config: CenternetCascadeConfig, weights: Mapping[str, Tensor]) -> list[str]:
        """Widths."""
        return misfits(config, sizes_in(weights, _OF_SIZES))
