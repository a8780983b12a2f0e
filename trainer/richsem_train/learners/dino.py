"""DINO and its losses as one module."""

from collections.abc import Sequence

import torch
from torch import Tensor

from richsem_train.choices import Precision
from richsem_train.learners.learner import Learner
from richsem_train.losses.dino.criterion import Criterion
from richsem_train.losses.image_labels import labelled_pictures
from richsem_train.models.dino.denoising import draw_denoising
from richsem_train.models.dino.dino import Dino
from richsem_train.models.inputs import Normalise, autocast
from richsem_train.models.weight_casts import cast_weights
from richsem_train.targets import Batch, Target


class DinoLearner(Learner):
    """DINO, its denoising queries and its losses.

    Args:
        detector: in training.
        criterion: its losses.
        dn_queries: denoising queries of a picture in all; this and its noise are `draw_denoising`'s.
        precision: of backbone and transformer.
        normalise: makes what the backbone takes.
    """

    detector: Dino
    counted = 2

    def __init__(
        self,
        detector: Dino,
        criterion: Criterion,
        *,
        dn_queries: int,
        label_noise: float,
        box_noise: float,
        precision: Precision,
        normalise: Normalise,
    ) -> None:
        super().__init__()
        self.detector = detector
        self.criterion = criterion
        self.normalise = normalise
        self.weights = criterion.weights
        self.soft_loss = criterion.soft_loss
        self._dn_queries = dn_queries
        self._label_noise = label_noise
        self._box_noise = box_noise
        self.precision = precision

    def counts(self, targets: Sequence[Target]) -> Tensor:
        """The boxes, and the pictures that have labels as a whole."""
        boxes = sum(len(target.labels) for target in targets)
        images = labelled_pictures([target.image_labels for target in targets])
        return torch.tensor([boxes, images], dtype=torch.float32)

    def forward(
        self, batch: Batch, totals: Sequence[float], generators: Sequence[torch.Generator]
    ) -> dict[str, Tensor]:
        """The losses of `Criterion`. Without objects, or denoising, there are no denoising queries."""
        num_boxes, num_images = totals
        denoising = draw_denoising(
            batch.targets,
            dn_queries=self._dn_queries,
            label_noise=self._label_noise,
            box_noise=self._box_noise,
            num_classes=self.detector.num_classes,
            generators=generators,
        )
        images = self.normalise(batch)
        groups = self.detector.half_weights() if self.precision == "bf16" else []
        with autocast(images.device, self.precision), cast_weights(self.detector, groups, torch.bfloat16):
            outputs = self.detector(images, batch.padding_mask, denoising)
        return self.criterion(
            outputs,
            batch.targets,
            denoising,
            num_boxes=num_boxes,
            num_images=num_images,
            generators=generators,
            semantic_logits=lambda hidden_NE: self.detector.semantic_logits(hidden_NE, self.teacher_text),
        )
