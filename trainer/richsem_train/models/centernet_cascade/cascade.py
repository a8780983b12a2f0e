"""The second stage of the detector, itself in three: each names regions, and moves them for the next one."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from richsem_train.models.centernet_cascade.box_coding import clipped, decode_boxes
from richsem_train.models.centernet_cascade.roi_pooler import pool_rois
from richsem_train.models.text_features import TextFeatures
from richsem_train.numerics import at_least_float32
from richsem_train.outputs.centernet_cascade import StageOutputs

IOU_THRESHOLDS = (0.6, 0.7, 0.8)
"""From which on a region answers for an object, stage by stage."""

DELTA_WEIGHTS = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))
"""Of deltas of x, y, width and height, stage by stage: the more, the smaller the moves that it learns."""

_STAGES = len(IOU_THRESHOLDS)
_POOLED_SIDE = 7


class CascadeStage(nn.Module):
    """Two layers over the pooled features, and heads: classes by cosine to their names, one box for all classes.

    Args:
        features: of a region, F x 7 x 7.
        hidden_dim: width E.
        text_dim: width of the classifier's text embeddings.
        semantic_dim: width of the teacher's, for a branch that learns soft labels and is dropped at inference; None
            without.

    Source:
        Detic (arXiv 2201.02605) for classifier and box; the branch is one linear layer without bias as in RichSem
        (arXiv 2310.12152, supplement E.1).
    """

    def __init__(self, features: int, *, hidden_dim: int, text_dim: int, semantic_dim: int | None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(features, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, hidden_dim)
        self.class_proj = nn.Linear(hidden_dim, text_dim)
        box_hidden, box_last = nn.Linear(hidden_dim, hidden_dim), nn.Linear(hidden_dim, 4)
        self.bbox_pred = nn.Sequential(box_hidden, nn.ReLU(), box_last)
        self.semantic_proj = None if semantic_dim is None else nn.Linear(hidden_dim, semantic_dim, bias=False)
        for layer in (self.fc1, self.fc2, box_hidden):
            # Detectron2's "Xavier" for layers before a ReLU.
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)
        nn.init.normal_(box_last.weight, std=0.001)
        nn.init.zeros_(box_last.bias)

    def forward(self, pooled_NF77: Tensor) -> Tensor:
        """What the heads read, [N, E]."""
        hidden_NE: Tensor = functional.relu(self.fc1(pooled_NF77.flatten(1)))
        return functional.relu(self.fc2(hidden_NE))

    def logits(self, hidden: Tensor, text: TextFeatures) -> Tensor:
        """[..., E] to scaled cosines [..., C], at least float32."""
        return _cosines(self.class_proj, hidden, text)

    def semantic_logits(self, hidden: Tensor, teacher_text: TextFeatures) -> Tensor:
        """[..., E] to the branch's scaled cosines to the teacher's names, [..., C], at least float32."""
        assert self.semantic_proj is not None, "the detector was built without a semantic branch"
        return _cosines(self.semantic_proj, hidden, teacher_text)

    def deltas(self, hidden: Tensor) -> Tensor:
        """[..., E] to weighted deltas [..., 4], at least float32."""
        with torch.autocast(hidden.device.type, enabled=False):
            deltas: Tensor = self.bbox_pred(at_least_float32(hidden))
            return deltas


class Found(NamedTuple):
    """What the cascade makes of proposals.

    Attributes:
        scores: float32 [B, R, C], the root of the stages' mean probability times the proposal's score.
        boxes_xyxy_px: float32 [B, R, 4], within the pictures.
    """

    scores: Tensor
    boxes_xyxy_px: Tensor


class Cascade(nn.Module):
    """Three stages.

    Args:
        channels: of the maps.
        stage: the rest of `CascadeStage`'s arguments.

    Source:
        Cai & Vasconcelos 2018 (arXiv 1712.00726), as in CenterNet2 (arXiv 2103.07461) and Detic.
    """

    def __init__(self, channels: int, **stage: Any) -> None:
        super().__init__()
        features = channels * _POOLED_SIDE**2
        self.stages = nn.ModuleList(CascadeStage(features, **stage) for _ in range(_STAGES))

    def __getitem__(self, number: int) -> CascadeStage:
        stage = self.stages[number]
        assert isinstance(stage, CascadeStage)
        return stage

    def outputs(
        self, number: int, maps: Sequence[Tensor], boxes_BR4: Tensor, is_real_BR: Tensor, text: TextFeatures
    ) -> StageOutputs:
        """What a stage says of regions; boxes (xyxy, pixels of the batch) get no gradient.

        The maps get a third of theirs, so that three stages teach them as much as one.
        """
        pooled_NF77 = pool_rois(maps, boxes_BR4.detach(), is_real_BR, side=_POOLED_SIDE)
        stage = self[number]
        hidden_NE: Tensor = stage(_ScaledGradient.apply(pooled_NF77, 1 / _STAGES))
        hidden_BRE = hidden_NE.unflatten(0, is_real_BR.shape)
        return StageOutputs(hidden_BRE, stage.logits(hidden_BRE, text), stage.deltas(hidden_BRE))

    @torch.no_grad()
    def refined(self, number: int, deltas_BR4: Tensor, boxes_BR4: Tensor, image_hw_B2: Tensor) -> Tensor:
        """Where a stage moves regions to, within their pictures, [B, R, 4]."""
        return clipped(decode_boxes(deltas_BR4, boxes_BR4.to(deltas_BR4), DELTA_WEIGHTS[number]), image_hw_B2)

    @torch.no_grad()
    def find(
        self,
        maps: Sequence[Tensor],
        boxes_BR4: Tensor,
        proposal_scores_BR: Tensor,
        is_real_BR: Tensor,
        *,
        text: TextFeatures,
        image_hw_B2: Tensor,
    ) -> Found:
        """Score and refine proposals: boxes xyxy in pixels of the batch, scores in [0, 1]."""
        probs_BRC: Tensor | None = None
        for number in range(_STAGES):
            outputs = self.outputs(number, maps, boxes_BR4, is_real_BR, text)
            boxes_BR4 = self.refined(number, outputs.deltas, boxes_BR4, image_hw_B2)
            stage_BRC = outputs.logits.sigmoid() / _STAGES
            probs_BRC = stage_BRC if probs_BRC is None else probs_BRC + stage_BRC
        assert probs_BRC is not None
        return Found((probs_BRC * proposal_scores_BR.where(is_real_BR, 0.0)[..., None]).sqrt(), boxes_BR4)


def _cosines(projection: nn.Linear, hidden: Tensor, text: TextFeatures) -> Tensor:
    with torch.autocast(hidden.device.type, enabled=False):
        return text.cosine_logits(projection(at_least_float32(hidden)))


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.scale, None
