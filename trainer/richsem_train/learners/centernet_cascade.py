"""The two-stage detector and its losses as one module."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from richsem_train.choices import Precision
from richsem_train.devices import sent
from richsem_train.learners.learner import Learner
from richsem_train.losses.centernet_cascade.proposals import cell_targets, count_positives, proposal_losses
from richsem_train.losses.centernet_cascade.rois import (
    Federation,
    box_loss,
    class_loss,
    draw_stage_classes,
    largest_region_loss,
    region_soft_loss,
)
from richsem_train.losses.centernet_cascade.truth import Truth
from richsem_train.losses.image_labels import labelled_pictures
from richsem_train.losses.soft_labels import SoftLoss, teaches
from richsem_train.models.centernet_cascade.box_coding import areas, encode_boxes
from richsem_train.models.centernet_cascade.cascade import DELTA_WEIGHTS, IOU_THRESHOLDS
from richsem_train.models.centernet_cascade.centernet import Proposals
from richsem_train.models.centernet_cascade.roi_sampling import (
    best_regions,
    draw_chances,
    match_regions,
    object_regions,
    sample_regions,
)
from richsem_train.models.centernet_cascade.two_stage import CenternetCascade
from richsem_train.models.inputs import Normalise, autocast
from richsem_train.outputs.centernet_cascade import Grid, Regions, StageOutputs
from richsem_train.targets import Batch, Target

_SUFFIXES = ("_0", "_1", "")
"""Of the stages' losses."""


@dataclass(frozen=True)
class LossWeights:
    """How much each kind of loss counts, in each stage."""

    heatmap: float = 1.0
    giou: float = 1.0
    classes: float = 1.0
    bbox: float = 1.0
    soft: float = 0.5
    image: float = 0.1


@dataclass(frozen=True)
class _Totals:
    """What sums of losses are divided by, in the order of `counts`."""

    positives: float
    cells: float
    regions: float
    objects: float
    labelled_pictures: float


class CenternetCascadeLearner(Learner):
    """The two-stage detector and its losses.

    Keys are `loss_heatmap` and `loss_proposal_giou` of the proposals; of the last stage `loss_class`, `loss_bbox`, with
    a branch `loss_soft` and with images `loss_image`, with `_0` and `_1` of those before it. The same keys in the same
    order whatever the batch holds.

    Args:
        detector: in training.
        weights: of the kinds of losses.
        regions: of a picture that the cascade learns from.
        learns_images: whether there are pictures with labels of the whole.
        image_candidates: proposals of such a picture that may be the largest; None is all.
        extra_boxes: whether boxes of extra data teach proposals, boxes and background, as those of detection data do.
        soft_loss: of the branches, with the teacher's text features; None without.
        federation: None teaches all classes everywhere.
        precision: of backbone, pyramid, proposal head and the cascade's layers.
        normalise: makes what the backbone takes.

    Source:
        Detic; see the losses. Losses of all regions are divided by `regions` for each picture of the step, whether it
        has as many or not; those of extra data by the objects, which are its regions.
    """

    detector: CenternetCascade
    federated_weights: Tensor | None
    counted = len(fields(_Totals))

    def __init__(
        self,
        detector: CenternetCascade,
        *,
        weights: LossWeights,
        regions: int,
        learns_images: bool,
        image_candidates: int | None,
        extra_boxes: bool,
        soft_loss: SoftLoss | None,
        federation: Federation | None,
        precision: Precision,
        normalise: Normalise,
    ) -> None:
        super().__init__()
        self.detector = detector
        self.normalise = normalise
        self.soft_loss = soft_loss
        self.weights = _named(weights, with_soft=soft_loss is not None, with_images=learns_images)
        self.register_buffer("federated_weights", None if federation is None else federation.weights, persistent=False)
        self._federated_total = 0 if federation is None else federation.total
        self._regions = regions
        self._learns_images = learns_images
        self._image_candidates = image_candidates
        self._extra_boxes = extra_boxes
        self.precision = precision

    def counts(self, targets: Sequence[Target]) -> Tensor:
        """Heatmap positives, cells with a box, regions, objects, and pictures with labels of the whole."""
        truth = Truth.of(targets, extra_boxes=self._extra_boxes)
        height, width = (max(sides) for sides in zip(*(target.image_hw for target in targets), strict=True))
        device = truth.image_hw.device
        of_cells = count_positives(
            truth.objects.boxes_xyxy_px,
            truth.objects.is_real,
            Grid.over(height, width, device),
            image_hw_B2=truth.image_hw,
            teaches_B=truth.by_boxes,
        )
        objects = [len(target.labels) for target in targets]
        own = {"boxes": self._regions, "image": 0}
        regions = sum(own.get(teaching, count) for teaching, count in zip(truth.teaching, objects, strict=True))
        of_host = [regions, sum(objects), labelled_pictures([target.image_labels for target in targets])]
        return torch.cat([of_cells.float(), sent(torch.tensor(of_host), device, torch.float32)])

    def forward(
        self, batch: Batch, totals: Sequence[float], generators: Sequence[torch.Generator]
    ) -> dict[str, Tensor]:
        """The losses of proposals and of the three stages."""
        total = _Totals(*totals)
        truth = Truth.of(batch.targets, extra_boxes=self._extra_boxes)
        images = self.normalise(batch)
        with autocast(images.device, self.precision):
            maps = self.detector.maps(images)
            predictions, proposals = self.detector.propose(maps, truth.image_hw)
        cells = cell_targets(
            truth.objects.boxes_xyxy_px,
            truth.objects.is_real,
            predictions.grid,
            image_hw_B2=truth.image_hw,
            teaches_B=truth.by_boxes,
        )
        losses = proposal_losses(predictions, cells, positives=total.positives, cells=total.cells)
        text = self.detector.text_bank()
        regions = self._first_regions(proposals, truth, generators)
        for stage in range(len(_SUFFIXES)):
            with autocast(images.device, self.precision):
                outputs = self.detector.cascade.outputs(stage, maps, regions.boxes_xyxy_px, regions.is_real, text)
            losses |= self._stage_losses(stage, outputs, regions, truth, total, generators)
            if stage + 1 < len(_SUFFIXES):
                regions = self._next_regions(stage, outputs, regions, truth)
        return {name: losses[name] for name in self.weights}

    def _first_regions(self, proposals: Proposals, truth: Truth, generators: Sequence[torch.Generator]) -> Regions:
        """A random choice, the objects, or the best proposals, as a picture teaches."""
        boxes_BK4, is_real_BK = proposals.boxes_xyxy_px, proposals.is_real
        chances_BN = draw_chances([len(target.labels) for target in truth.targets], boxes_BK4.shape[1], generators)
        made: list[tuple[Tensor, Regions]] = []
        if "boxes" in truth.teaching:
            chances_BN = sent(chances_BN, boxes_BK4.device)
            sampled = sample_regions(
                boxes_BK4, is_real_BK, truth.objects, chances_BN, count=self._regions, threshold=IOU_THRESHOLDS[0]
            )
            made.append((truth.by_boxes, sampled))
        if "regions" in truth.teaching:
            made.append((truth.by_regions, object_regions(truth.objects)))
        if "image" in truth.teaching:
            count = self._image_candidates or boxes_BK4.shape[1]
            made.append((truth.by_image, best_regions(boxes_BK4, is_real_BK, truth.image_hw, count=count)))
        count = max(regions.is_real.shape[1] for _, regions in made)
        (_, chosen), *others = ((is_ours_B, regions.padded(count)) for is_ours_B, regions in made)
        for is_ours_B, regions in others:
            chosen = regions.where(is_ours_B, chosen)
        return chosen

    def _next_regions(self, stage: int, outputs: StageOutputs, regions: Regions, truth: Truth) -> Regions:
        """Where the stage moves them to, matched anew; objects that are their own regions stay."""
        boxes_BR4 = self.detector.cascade.refined(stage, outputs.deltas, regions.boxes_xyxy_px, truth.image_hw)
        moved = match_regions(boxes_BR4, regions.is_real, truth.objects, threshold=IOU_THRESHOLDS[stage + 1])
        return regions.where(truth.by_regions, moved)

    def _stage_losses(
        self,
        stage: int,
        outputs: StageOutputs,
        regions: Regions,
        truth: Truth,
        total: _Totals,
        generators: Sequence[torch.Generator],
    ) -> Mapping[str, Tensor]:
        classes = draw_stage_classes(truth, regions, self._federation, generators)
        object_boxes_BR4 = regions.of_objects(truth.objects.boxes_xyxy_px)
        wanted_BR4 = encode_boxes(regions.boxes_xyxy_px, object_boxes_BR4, DELTA_WEIGHTS[stage])
        learns_box_BR = regions.is_positive & truth.by_boxes[:, None]
        losses = {
            "loss_class": class_loss(outputs.logits, regions, truth, classes) / total.regions,
            "loss_bbox": box_loss(outputs.deltas, wanted_BR4, learns_box_BR) / total.regions,
        }
        if self._learns_images:
            largest = largest_region_loss(outputs.logits, regions, areas(regions.boxes_xyxy_px), truth.targets)
            losses["loss_image"] = largest / total.labelled_pictures
        if self.soft_loss is not None:
            losses["loss_soft"] = self._soft_loss(stage, outputs, regions, truth) / total.objects
        return {kind + _SUFFIXES[stage]: loss for kind, loss in losses.items()}

    def _soft_loss(self, stage: int, outputs: StageOutputs, regions: Regions, truth: Truth) -> Tensor:
        soft_loss, teacher_text, head = self.soft_loss, self.teacher_text, self.detector.cascade[stage]
        assert soft_loss is not None
        assert teacher_text is not None
        if not any(teaches(target) and len(target.labels) for target in truth.targets):
            assert head.semantic_proj is not None
            # Distributed training waits for a gradient of every parameter.
            return head.semantic_proj.weight.sum() * 0
        return region_soft_loss(soft_loss, head.semantic_logits(outputs.hidden, teacher_text), regions, truth)

    @property
    def _federation(self) -> Federation | None:
        weights_C = self.federated_weights
        return None if weights_C is None else Federation(weights_C, self._federated_total)


def _named(weights: LossWeights, *, with_soft: bool, with_images: bool) -> dict[str, float]:
    named = {"loss_heatmap": weights.heatmap, "loss_proposal_giou": weights.giou}
    kinds = {"loss_class": weights.classes, "loss_bbox": weights.bbox}
    if with_soft:
        kinds["loss_soft"] = weights.soft
    if with_images:
        kinds["loss_image"] = weights.image
    return named | {kind + suffix: weight for suffix in _SUFFIXES for kind, weight in kinds.items()}
