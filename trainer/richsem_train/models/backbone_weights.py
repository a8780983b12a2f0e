"""A backbone's weights from a file, whoever wrote it and under whatever prefix."""

import argparse
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from richsem_schemas.errors import RichSemError
from richsem_train.models.unpacked_size import require_plausible_size

_WRAPPERS = ("model", "state_dict", "ema_model", "teacher")
"""Under which training scripts store the weights inside of their checkpoints."""

_SHOWN = 8


def load_weights(body: nn.Module, path: Path) -> None:
    """Copy a file's weights into a network; what else the file holds, a classifier say, is left alone.

    Keys may stand under any prefix: torchvision's own, a detector's `backbone.0.body.`, CLIP's `visual.`.

    Raises:
        RichSemError: no such file, not a file of weights, or weights missing or of another shape.
    """
    found = read_state(path)
    wanted = body.state_dict()
    renamed = _best_match(found, wanted)
    missing = sorted(set(wanted) - set(renamed) - {key for key in wanted if key.endswith("num_batches_tracked")})
    if missing:
        raise RichSemError(
            f"{path}: {len(missing)} of the backbone's {len(wanted)} weights are missing: {first_few(missing)}; "
            f"the file has {first_few(found)}; give the weights of this very architecture"
        )
    other = [
        f"{key} is {tuple(renamed[key].shape)} instead of {tuple(weight.shape)}"
        for key, weight in wanted.items()
        if key in renamed and renamed[key].shape != weight.shape
    ]
    if other:
        raise RichSemError(
            f"{path}: weights of another shape: {first_few(other)}; give the weights of this very architecture"
        )
    body.load_state_dict(renamed, strict=False)


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of a PyTorch checkpoint, which may run no code on loading.

    Raises:
        RichSemError: no such file, or nothing in it that can be read safely.
    """
    return read_state_and_info(path)[0]


def read_state_and_info(path: Path) -> tuple[dict[str, Tensor], str | None]:
    """The same, and what a checkpoint of this program says of its model (JSON); None for others.

    Raises:
        RichSemError: no such file, or nothing in it that can be read safely.
    """
    if not path.is_file():
        raise RichSemError(f"{path}: there is no such file of weights; give a .pth or .safetensors file")
    state: dict[str, Any]
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                info = (file.metadata() or {}).get("richsem")
            state = dict(load_file(path))
        else:
            state = _read_checkpoint(path)
            info = state.get("info")
    except RichSemError:
        raise
    except Exception as error:
        raise RichSemError(
            f"{path}: is not a file of weights that can be read without running its code ({_reason(error)}); "
            "is it whole? Save the state dict alone, best as .safetensors"
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(state.get(wrapper), dict):
            state = state[wrapper]
            break
    tensors = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise RichSemError(f"{path}: holds no weights; its keys are {first_few(state)}")
    return tensors, info if isinstance(info, str) else None


def _read_checkpoint(path: Path) -> dict[str, Any]:
    require_plausible_size(path)
    # Published checkpoints of DETR's descendants hold the arguments of their training.
    with torch.serialization.safe_globals([argparse.Namespace]):
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(loaded, dict):
        raise TypeError(f"it holds a {type(loaded).__name__} instead of a state dict")
    return loaded


def _reason(error: Exception) -> str:
    """Its first sentence; PyTorch goes on to advise running the code."""
    said = " ".join(str(error).split()).partition(". ")[0][:200]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _best_match(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """The wanted keys' tensors, taken under that prefix of the file which has most of them."""
    candidates = [
        {key: found[prefix + name] for key, name in names.items() if prefix + name in found}
        for names in ({key: key for key in wanted}, {key: _as_timm_stores(key) for key in wanted})
        for prefix in _prefixes(found, next(iter(names.values())))
    ]
    return max(candidates, key=len, default={})


def _prefixes(found: Iterable[str], name: str) -> list[str]:
    ends = [key.removesuffix(name) for key in found if key.endswith(name)]
    return [prefix for prefix in ends if not prefix or prefix.endswith(".")]


def _as_timm_stores(key: str) -> str:
    """`layers_0.blocks...`, a stage as a list of features names it, is `layers.0.blocks...` in the whole network."""
    return re.sub(r"^([a-z]+)_(\d+)\.", r"\1.\2.", key)


def first_few(names: Iterable[str]) -> str:
    """Names for a message, which counts those beyond the first."""
    shown = list(names)
    return ", ".join(shown[:_SHOWN]) + (f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else "")
