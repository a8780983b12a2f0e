"""From decoder queries to classes and boxes, and from those to detections."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from richsem_train.models.detector import BestPairs
from richsem_train.models.text_features import TextFeatures
from richsem_train.numerics import at_least_float32, cxcywh_to_xyxy

PRIOR_PROBABILITY = 0.01
"""Of every class, before a linear classifier has learnt; keeps the first focal losses small."""

_INVERSE_SIGMOID_EPS = 1e-3


def inverse_sigmoid(x: Tensor) -> Tensor:
    """The logit of `x`, clipped to about ±6.9; values outside [0, 1] count as the nearest end.

    Source:
        DINO clips numerator and denominator at 1e-3, each on its own; the published weights learnt with that.
    """
    share, rest = torch.stack([x, 1 - x]).clamp(_INVERSE_SIGMOID_EPS, 1).log()
    return share - rest


class MLP(nn.Module):
    """Linear layers with ReLU in between, by their widths from the input to the output."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """[..., sizes[0]] to [..., sizes[-1]]."""
        *hidden_layers, last = self.layers
        for layer in hidden_layers:
            x = functional.relu(layer(x))
        output: Tensor = last(x)
        return output


class BoxHead(MLP):
    """Three layers that move a box; starts by moving nothing."""

    def __init__(self, hidden_dim: int) -> None:
        super().__init__([hidden_dim, hidden_dim, hidden_dim, 4])
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def refine(self, hidden: Tensor, boxes_cxcywh_norm: Tensor) -> Tensor:
        """Each box, [..., 4] in [0, 1], moved by what its query says; float32 or wider."""
        return self.propose(hidden, inverse_sigmoid(at_least_float32(boxes_cxcywh_norm)))

    def propose(self, hidden: Tensor, boxes_before_sigmoid: Tensor) -> Tensor:
        """The same from boxes before the sigmoid; those at infinity come out as ones."""
        # Boxes in half precision are off by pixels.
        with torch.autocast(hidden.device.type, enabled=False):
            offsets: Tensor = self(at_least_float32(hidden))
            return (offsets + boxes_before_sigmoid).sigmoid()


class LinearClassifier(nn.Linear):
    """The classifier of plain DINO, and of the baseline's decoder: one row and one bias a class."""

    def __init__(self, hidden_dim: int, num_classes: int) -> None:
        super().__init__(hidden_dim, num_classes)
        nn.init.constant_(self.bias, -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))

    def logits(self, hidden: Tensor, text: TextFeatures | None) -> Tensor:  # noqa: ARG002 -- the interface of TextClassifier
        """[..., E] to [..., C], float32 or wider."""
        with torch.autocast(hidden.device.type, enabled=False):
            scores: Tensor = self(at_least_float32(hidden))
            return scores

    def label_embeddings(self, labels: Tensor, text: TextFeatures | None) -> Tensor:  # noqa: ARG002
        """The rows of `labels` [...] as contents of denoising queries [..., E]."""
        return functional.embedding(labels, self.weight)


class TextClassifier(nn.Module):
    """Classes by cosine to their names: queries are projected into CLIP's space, the names never move.

    Args:
        hidden_dim: width E of the queries.
        text_dim: width D of the text embeddings.
        embeds_labels: also project the names to contents of denoising queries.
        semantic_branch: a second projection, trained by the teacher's soft labels and dropped at inference.
        semantic_dim: width of the teacher's text embeddings, where they are others than the classifier's.

    Source:
        Meng et al. 2023 (arXiv 2310.12152), section 3. No bias anywhere; both projections start from the same weights.
        Differs: they don't where teacher and classifier are of different widths.
    """

    def __init__(
        self,
        hidden_dim: int,
        text_dim: int,
        *,
        embeds_labels: bool,
        semantic_branch: bool,
        semantic_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.dino_visual_proj = _projection(hidden_dim, text_dim, std=text_dim**-0.5)
        self.clip_visual_proj: nn.Linear | None = None
        if semantic_branch:
            self.clip_visual_proj = nn.Linear(hidden_dim, semantic_dim or text_dim, bias=False)
            if self.clip_visual_proj.out_features == text_dim:
                self.clip_visual_proj.load_state_dict(self.dino_visual_proj.state_dict())
            else:
                nn.init.normal_(self.clip_visual_proj.weight, std=self.clip_visual_proj.out_features**-0.5)
        self.label_proj = _projection(text_dim, hidden_dim, std=text_dim**-0.5) if embeds_labels else None

    def logits(self, hidden: Tensor, text: TextFeatures | None) -> Tensor:
        """[..., E] to scaled cosines [..., C], float32 or wider."""
        assert text is not None
        return _projected_cosines(self.dino_visual_proj, hidden, text)

    def semantic_logits(self, hidden: Tensor, teacher_text: TextFeatures) -> Tensor:
        """[..., E] to the semantic branch's scaled cosines to the teacher's names [..., C], float32 or wider."""
        assert self.clip_visual_proj is not None
        return _projected_cosines(self.clip_visual_proj, hidden, teacher_text)

    def label_embeddings(self, labels: Tensor, text: TextFeatures | None) -> Tensor:
        """The names of `labels` [...] as contents of denoising queries [..., E]; from the raw means."""
        assert text is not None
        assert self.label_proj is not None
        contents: Tensor = self.label_proj(text.raw[labels])
        return contents


def _projection(width_in: int, width_out: int, *, std: float) -> nn.Linear:
    projection = nn.Linear(width_in, width_out, bias=False)
    nn.init.normal_(projection.weight, std=std)
    return projection


def _projected_cosines(projection: nn.Linear, hidden: Tensor, text: TextFeatures) -> Tensor:
    with torch.autocast(hidden.device.type, enabled=False):
        return text.cosine_logits(projection(at_least_float32(hidden)))


@torch.no_grad()
def detections(
    logits_BQC: Tensor,
    boxes_cxcywh_norm_BQ4: Tensor,
    original_hw: Sequence[tuple[int, int]],
    *,
    vocabulary_C: Tensor | None = None,
    keep: int = 300,
) -> list[BestPairs]:
    """The best pairs of a box and a class in each picture; one box may be named more than once.

    Args:
        logits_BQC: of the final decoder layer.
        boxes_cxcywh_norm_BQ4: relative to the picture without padding.
        original_hw: height and width of each picture in pixels.
        vocabulary_C: bool, the rows that are classes. None: all but row 0, the bare word "none".
        keep: pairs a picture; fewer come back where there are fewer.

    Source:
        DINO's post-processing. Differs: rows that are no class are never predicted, boxes are clipped to the picture.
    """
    scores_BQC = at_least_float32(logits_BQC).sigmoid()
    if vocabulary_C is None:
        vocabulary_C = torch.arange(scores_BQC.shape[-1]) > 0
    rows = vocabulary_C.nonzero()[:, 0].to(scores_BQC.device)
    return [
        _best_pairs(scores_QC.index_select(1, rows), boxes_Q4, rows, hw, keep)
        for scores_QC, boxes_Q4, hw in zip(scores_BQC, boxes_cxcywh_norm_BQ4, original_hw, strict=True)
    ]


def _best_pairs(scores_QV: Tensor, boxes_Q4: Tensor, rows_V: Tensor, hw: tuple[int, int], keep: int) -> BestPairs:
    scores, pairs = scores_QV.flatten().topk(min(keep, scores_QV.numel()))
    queries, columns = pairs // len(rows_V), pairs % len(rows_V)
    return BestPairs(scores, rows_V[columns], _clipped_xyxy_px(boxes_Q4[queries], hw))


def _clipped_xyxy_px(boxes_cxcywh_norm: Tensor, hw: tuple[int, int]) -> Tensor:
    corners = cxcywh_to_xyxy(boxes_cxcywh_norm).clamp(0, 1)
    height, width = hw
    return corners * corners.new_tensor([width, height, width, height])
