"""Weights published by Detic and its baseline, under the names of their checkpoints."""

import re
from pathlib import Path

from torch import Tensor
from torch.nn import functional

from richsem_schemas.errors import RichSemError
from richsem_train.models.backbone_weights import read_state_and_info
from richsem_train.models.centernet_cascade.two_stage import CenternetCascade
from richsem_train.models.load_report import LoadReport
from richsem_train.models.published_checks import UNKNOWN, by_reason, check_architecture, check_shapes

_HEAD = "proposal_generator.centernet_head."
_STAGES = range(3)

_PLACES = {
    "backbone.bottom_up.base.": "backbone.0.body.",
    **{f"backbone.fpn_lateral{level + 3}.": f"fpn.inner_blocks.{level}.0." for level in range(3)},
    **{f"backbone.fpn_output{level + 3}.": f"fpn.layer_blocks.{level}.0." for level in range(3)},
    "backbone.top_block.": "fpn.extra_blocks.",
    f"{_HEAD}bbox_tower.": "centernet.tower.",
    f"{_HEAD}bbox_pred.": "centernet.ltrb.",
    f"{_HEAD}agn_hm.": "centernet.heatmap.",
    **{f"{_HEAD}scales.{level}.scale": f"centernet.scales.{level}" for level in range(5)},
    **{f"roi_heads.box_head.{stage}.": f"cascade.stages.{stage}." for stage in _STAGES},
    **{
        f"roi_heads.box_predictor.{stage}.cls_score.linear.": f"cascade.stages.{stage}.class_proj." for stage in _STAGES
    },
    **{f"roi_heads.box_predictor.{stage}.bbox_pred.": f"cascade.stages.{stage}.bbox_pred." for stage in _STAGES},
}
"""What names of Detic begin with, and those of the detector."""

_VOCABULARY = "text_features"
_CLASSIFIER = "roi_heads.box_predictor.0.cls_score.zs_weight"

_OF_TEXT_WIDTH = re.compile(r"cascade\.stages\.\d+\.(class_proj|semantic_proj)\.")
_BRANCH = re.compile(r"cascade\.stages\.\d+\.semantic_proj\.")
_COUNTERS = re.compile(r".*\.num_batches_tracked$")

_LEFT_OUT = {
    "text embeddings, which are the label set's": re.compile(r"roi_heads\.box_predictor\.\d+\.cls_score\.zs_weight"),
    "pictures a class, which are counted anew": re.compile(r"roi_heads\.box_predictor\.\d+\.freq_weight$"),
    "the vocabulary": re.compile(_VOCABULARY + "$"),
    "masks": re.compile(r"roi_heads\.mask_(head|pooler)\."),
    "classification head of the backbone": re.compile(r"backbone\.0\.body\.fc\."),
    "counters of batch norms": _COUNTERS,
    "means of pixels, which are the config's": re.compile(r"pixel_(mean|std)$"),
    "heads that this detector has not": _BRANCH,
}
"""Parts of published checkpoints that the detector has elsewhere, or not at all."""

_LEAST_COSINE = 0.5
"""Of text embeddings by one CLIP: other templates leave 0.9 and more, another CLIP about nothing."""


def load_published_detic(model: CenternetCascade, path: Path, *, fresh_heads: bool = False) -> LoadReport:
    """Give a two-stage detector the weights of a published checkpoint of Detic, or of one of ours.

    Text features never come from the file: they are the detector's own, and no weight has a row a class. Where both
    have as many classes, they must be the same CLIP's: Detic's class i is row i + 1. Branches that the file lacks are
    reported; everything else must be there and fit.

    Args:
        model: built for the checkpoint's architecture.
        path: a checkpoint or a state dict of PyTorch, or a safetensors file. It is read without running its code.
        fresh_heads: leave out projections to text embeddings of another width instead of refusing them.

    Raises:
        RichSemError: the file can't be read safely, or is of another architecture, width or CLIP; the detector is left
            as it was.

    Source:
        Names of Detic at commit 436cda2, as its modules have them.
    """
    state, _ = read_state_and_info(path)
    found = {_place(name.removeprefix("module.")): tensor for name, tensor in state.items()}
    wanted = {name: tensor for name, tensor in model.state_dict().items() if name != _VOCABULARY}
    chosen = {name: tensor for name, tensor in found.items() if name in wanted}
    skipped = by_reason(found.keys() - chosen.keys(), _LEFT_OUT)
    other = _of_another_width(chosen, wanted) if fresh_heads else ()
    if other:
        chosen = {name: tensor for name, tensor in chosen.items() if name not in other}
        skipped["projections to other text embeddings"] = other
    missing = sorted(wanted.keys() - chosen.keys())
    may_miss = {*other, *(name for name in missing if _BRANCH.match(name) or _COUNTERS.match(name))}
    check_architecture(skipped.pop(UNKNOWN, ()), [name for name in missing if name not in may_miss], path)
    check_shapes(chosen, wanted, path)
    if not fresh_heads:
        _check_text(found.get(_CLASSIFIER), model.text_features, path)
    model.load_state_dict(chosen, strict=False)
    return LoadReport(tuple(sorted(chosen)), skipped, tuple(missing))


def _place(name: str) -> str:
    """Where a weight of Detic stands in the detector; other names as they are."""
    for theirs, ours in _PLACES.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def _of_another_width(chosen: dict[str, Tensor], wanted: dict[str, Tensor]) -> tuple[str, ...]:
    return tuple(
        name for name in sorted(chosen) if _OF_TEXT_WIDTH.match(name) and chosen[name].shape != wanted[name].shape
    )


def _check_text(theirs_DC: Tensor | None, ours_CD: Tensor, path: Path) -> None:
    """Detic's last column is the background's, our first row that of "none"."""
    if theirs_DC is None or theirs_DC.T.shape != ours_CD.shape:
        return
    cosine = functional.cosine_similarity(theirs_DC.T[:-1].float(), ours_CD[1:].float().cpu(), dim=1).mean().item()
    if not cosine >= _LEAST_COSINE:
        raise RichSemError(
            f"{path}: its classes have other text embeddings than the label set's: their mean cosine is {cosine:.2g}, "
            f"at least {_LEAST_COSINE} is expected of one CLIP and one order of classes; give a label set or text of "
            "CLIP ViT-B/32 for LVIS's categories"
        )
