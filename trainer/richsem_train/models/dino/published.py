"""Weights published by DINO and RichSem, under the names of their checkpoints."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from richsem_schemas.errors import RichSemError
from richsem_train.models.backbone_weights import read_state_and_info
from richsem_train.models.dino.dino import Dino
from richsem_train.models.load_report import LoadReport
from richsem_train.models.published_checks import UNKNOWN, by_reason, check_architecture, check_shapes

_WRAPPERS = re.compile(r"^(module\.|detr\.)+")
_VOCABULARY = ("text_features", "logit_scale")
_LOGIT_SCALES = {"class_embed.logit_scale", "transformer.enc_out_class_embed.logit_scale"}

_HEADS = re.compile(r"class_embed\.|transformer\.enc_out_class_embed\.|label_enc\.")
"""Depend on the classifier and the semantic branch; a detector with other ones learns its own."""

_LEFT_OUT = {
    "the vocabulary": re.compile(r"(text_features|logit_scale)$"),
    "repeated for each layer": re.compile(
        r"(bbox_embed|class_embed)\.[1-9]\d*\.|transformer\.decoder\.(bbox_embed|class_embed)\.|transformer\.label_enc\."
    ),
    "the CLIP teacher": re.compile(r"(transformer\.enc_out_)?class_embed\.(clip\.|logit_scale$)"),
    "segmentation": re.compile(r"(mask_head|bbox_attention|mask_branch|controller|mask_embed)\."),
    "counters of batch norms": re.compile(r".*\.num_batches_tracked$"),
    "classification head of the backbone": re.compile(r"backbone\.0\.body\.(fc|head)\."),
    "heads that this detector has not": _HEADS,
}
"""Parts of published checkpoints that the detector has once, elsewhere, or not at all."""

_ROWS = re.compile(r"(class_embed\.\d+|transformer\.enc_out_class_embed)\.(weight|bias)$|label_enc\.weight$")
"""Have a row a class: linear classifiers and embeddings of labels. Projections to text features know no classes."""

_REPEATED_HEAD = re.compile(r"(bbox_embed|class_embed)\.[1-9]\d*\.(.+)")


def load_published(
    model: Dino, path: Path, *, fresh_heads: bool = False, class_names: Sequence[str] | None = None
) -> LoadReport:
    """Give a detector the weights of a published checkpoint of DINO or RichSem, or of one of ours.

    Text features and logit scale never come from the file: they are the detector's own. Heads of another classifier
    are left out, those that the file lacks are reported; everything else must be there and fit.

    Args:
        model: built for the checkpoint's architecture.
        path: a checkpoint or a state dict of PyTorch, or a safetensors file. It is read without running its code.
        fresh_heads: leave out what belongs to other classes, too, instead of refusing it: classifiers and label
            embeddings of another number of rows, or of other `class_names` where the file has names.
        class_names: the detector's, by row.

    Raises:
        RichSemError: the file can't be read safely, or is of another architecture, number of classes or width; the
            detector is left as it was.
    """
    state, info = read_state_and_info(path)
    found = {_WRAPPERS.sub("", key): tensor for key, tensor in state.items()}
    wanted = {key: tensor for key, tensor in model.state_dict().items() if key not in _VOCABULARY}
    chosen = {key: tensor for key, tensor in found.items() if key in wanted}
    skipped = by_reason(found.keys() - chosen.keys(), _LEFT_OUT)
    if fresh_heads:
        names_differ = class_names is not None and _saved_names(info) not in (None, tuple(class_names))
        other = {
            name
            for name, tensor in chosen.items()
            if (_HEADS.match(name) and tensor.shape != wanted[name].shape) or (names_differ and _ROWS.match(name))
        }
        chosen = {name: tensor for name, tensor in chosen.items() if name not in other}
        skipped |= {"classifiers of other classes": tuple(sorted(other))} if other else {}
    missing = sorted(wanted.keys() - chosen.keys())
    _check_repeated_heads(found, path)
    check_architecture(skipped.pop(UNKNOWN, ()), [name for name in missing if not _HEADS.match(name)], path)
    check_shapes(chosen, wanted, path)
    _check_logit_scale(model, found, path)
    model.load_state_dict(chosen, strict=False)
    return LoadReport(tuple(sorted(chosen)), skipped, tuple(missing))


def _saved_names(info: str | None) -> tuple[str, ...] | None:
    """The classes of a checkpoint of this program."""
    try:
        return tuple(map(str, json.loads(info)["class_names"])) if info is not None else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _check_repeated_heads(found: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in found.items():
        repeated = _REPEATED_HEAD.fullmatch(name)
        if repeated is None:
            continue
        first = found.get(f"{repeated[1]}.0.{repeated[2]}")
        if first is None or not torch.equal(first, tensor):
            raise RichSemError(
                f"{path}: {name} differs from that of layer 0; this detector's layers share their heads, so give a "
                "checkpoint trained with dec_pred_bbox_embed_share and dec_pred_class_embed_share"
            )


def _check_logit_scale(model: Dino, found: Mapping[str, Tensor], path: Path) -> None:
    ours = model.logit_scale
    if ours is None:
        return
    for name in _LOGIT_SCALES & found.keys():
        theirs = float(found[name].double().exp())
        # float16 checkpoints of CLIP hold 4.605 as 4.6055.
        if abs(theirs - float(ours)) > 0.01 * float(ours):
            raise RichSemError(
                f"{path}: trained with a teacher of logit scale {theirs:.4g}, the text bank's is {float(ours):.4g}; "
                "give the label set or the text folder of that teacher"
            )
