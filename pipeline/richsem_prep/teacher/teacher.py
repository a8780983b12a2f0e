"""The teacher: any open_clip model, loaded by name or from a file, frozen, with an identity that can be compared."""

import hashlib
import logging
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.factory import get_model_config, load_state_dict
from open_clip.modified_resnet import ModifiedResNet
from open_clip.pretrained import get_pretrained_cfg
from torch import Tensor, nn

from richsem_prep.demo import TEACHER_DIR
from richsem_schemas.cache.field_types import Precision
from richsem_schemas.cache.manifest import TeacherIdentity
from richsem_schemas.errors import TeacherError
from richsem_schemas.io.canonical_json import json_sha256

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

_AUTOCAST = (nn.Conv1d, nn.Conv2d, nn.Linear, nn.MultiheadAttention)
"""Modules whose weights autocast casts, all of them."""

_QUICKGELU = "-quickgelu"
_GELU = "-gelu"


@dataclass(frozen=True)
class TeacherSpec:
    """The teacher that `--teacher` names.

    Attributes:
        model: open_clip's name of the architecture, or `hf-hub:...`, or `local-dir:...`.
        pretrained: tag, or path of a weights file; None where the model's name says it all.
        quick_gelu: True where the name or tag asks for QuickGELU.
    """

    text: str
    model: str
    pretrained: str | None
    quick_gelu: bool | None


def parse_teacher(text: str) -> TeacherSpec:
    """Read `MODEL:PRETRAINED`, `MODEL:FILE`, `hf-hub:ORG/NAME`, `local-dir:FOLDER` or `demo`.

    Raises:
        TeacherError: it is none of these, or a file whose activation is not said.
    """
    if text == "demo":
        return TeacherSpec(text, f"local-dir:{TEACHER_DIR}", None, None)
    if text.startswith(("hf-hub:", "local-dir:")):
        return TeacherSpec(text, text, None, None)
    model, colon, pretrained = text.partition(":")
    if not colon or not pretrained:
        raise TeacherError(
            f"--teacher {text!r} is not of the form MODEL:PRETRAINED; for example RN50:openai, "
            "ViT-L-14:datacomp_xl_s13b_b90k, RN50-quickgelu:weights.safetensors, hf-hub:ORG/NAME, or demo"
        )
    base = model.removesuffix(_GELU)
    if get_model_config(base.replace("/", "-")) is None:
        raise TeacherError(f"{base!r} is no model of open_clip; it knows: {_some_models(base)}")
    tag = get_pretrained_cfg(base, pretrained)
    if tag:
        quick_gelu = bool(tag.get("quick_gelu", False))
        if base.endswith(_QUICKGELU) and not quick_gelu:
            raise TeacherError(
                f"--teacher {text}: the weights {pretrained!r} were trained with GELU and {base} computes QuickGELU; "
                f"write {base.removesuffix(_QUICKGELU)}:{pretrained}"
            )
        return TeacherSpec(text, base, pretrained, quick_gelu)
    if not Path(pretrained).is_file():
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(base)) or "none"
        raise TeacherError(f"{pretrained!r} is neither a file nor pretrained weights of {base}; its weights: {tags}")
    _check_weights_file(model, pretrained)
    return TeacherSpec(text, base, pretrained, base.endswith(_QUICKGELU) or None)


def _some_models(name: str) -> str:
    known = open_clip.list_models()
    near = [model for model in known if model.lower().startswith(name.lower()[:3])]
    return ", ".join((near or known)[:12]) + ", …"


def _check_weights_file(model: str, path: str) -> None:
    if _is_torchscript(path):
        raise TeacherError(
            f"{path} is a TorchScript archive, which holds code; refused. Where you trust it, convert it once: "
            f"python -c \"import torch; from safetensors.torch import save_file; m = torch.jit.load('{path}', 'cpu'); "
            "save_file({k: v.clone() for k, v in m.state_dict().items() if k not in "
            "('input_resolution', 'context_length', 'vocab_size')}, 'weights.safetensors')\" "
            "and use MODEL-quickgelu:weights.safetensors for OpenAI's models"
        )
    if model + _QUICKGELU in open_clip.list_models():
        raise TeacherError(
            f"--teacher {model}:{path}: a file doesn't say its activation, and the wrong one spoils the labels "
            f"silently. Write {model}{_QUICKGELU}:{path} for weights trained with QuickGELU (all of OpenAI's, and "
            f"conversions of them), or {model}{_GELU}:{path} for weights trained with GELU"
        )
    if model.endswith(_GELU) and _holds_openai_buffers(path):
        raise TeacherError(
            f"--teacher {model}:{path}: the file comes from OpenAI's archive, which was trained with QuickGELU; "
            f"write {model.removesuffix(_GELU)}{_QUICKGELU}:{path}"
        )


def _is_torchscript(path: str) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(re.search(r"(^|/)(constants\.pkl|code/)", name) for name in archive.namelist())


def _holds_openai_buffers(path: str) -> bool:
    try:
        return "input_resolution" in load_state_dict(path)
    except Exception:
        return False


class Teacher(nn.Module):
    """A frozen CLIP.

    Attributes:
        model: open_clip's model, in eval mode.
        identity: what labels made by it are recorded under.
    """

    def __init__(self, model: nn.Module, identity: TeacherIdentity, tokenizer: Callable[[list[str]], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.identity = identity
        self.tokenizer = tokenizer

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def with_weights_in(self, dtype: torch.dtype) -> "Teacher":
        """This teacher, convolutions and linear layers of its visual tower in `dtype`, for forwards under autocast.

        Autocast would make the same copies of the weights in each forward, and keeps none that have no gradient; so
        not a bit is different. The text tower is shared, and this teacher stays as it is.
        """
        if dtype == torch.float32:
            return self
        shared = {id(child): child for name, child in self.model.named_children() if name != "visual"}
        model = deepcopy(self.model, shared)
        tower = model.get_submodule("visual")
        left = set()
        if self.device.type == "cpu" and torch.backends.mha.get_fastpath_enabled():
            # One fused kernel computes attention there, which autocast doesn't reach.
            attentions = [module for module in tower.modules() if isinstance(module, nn.MultiheadAttention)]
            left = {part for attention in attentions for part in attention.modules()}
        for module in tower.modules():
            if isinstance(module, _AUTOCAST) and module not in left:
                for weight in module.parameters(recurse=False):
                    weight.data = weight.data.to(dtype)
        return Teacher(model, self.identity, self.tokenizer)

    @property
    def clip_resnet(self) -> ModifiedResNet | None:
        """The visual tower if it is one of CLIP's ResNets, which alone can pool regions from a map."""
        visual = self.model.visual
        return visual if isinstance(visual, ModifiedResNet) else None

    def encode_image(self, images_B3HW: Tensor) -> Tensor:
        """[B, D] raw embeddings of normalised images at the model's own resolution."""
        return self.model.encode_image(images_B3HW)  # type: ignore[operator]

    def encode_text(self, prompts: list[str]) -> Tensor:
        """[N, D] raw embeddings of prompts.

        The text tower is causal and reads out at the end token, so what follows the longest prompt can't matter and
        is left out: five times faster for short prompts, and equal to open_clip's `encode_text` but for rounding.
        """
        tokens = self.tokenizer(prompts).to(self.device)
        with _shortened_context(self.model, tokens) as short:
            return self.model.encode_text(short)  # type: ignore[operator]


@contextmanager
def _shortened_context(model: nn.Module, tokens: Tensor) -> Iterator[Tensor]:
    if not isinstance(model, open_clip.CLIP) or model.text_pool_type != "argmax" or model.attn_mask is None:
        yield tokens
        return
    length = int(tokens.argmax(dim=-1).max()) + 1
    positional, mask = model.positional_embedding, model.attn_mask
    try:
        model.positional_embedding = nn.Parameter(positional[:length], requires_grad=False)
        model.attn_mask = mask[:length, :length]
        yield tokens[:, :length]
    finally:
        model.positional_embedding, model.attn_mask = positional, mask


def load_teacher(spec: TeacherSpec, *, device: torch.device) -> Teacher:
    """Build the model, load its weights, freeze it.

    Weights stay float32; a lower precision is applied by autocast at the forward.

    Raises:
        TeacherError: weights can't be fetched, or don't fit the model.
    """
    try:
        with _quiet():
            model = open_clip.create_model(
                spec.model,
                pretrained=spec.pretrained,
                precision="fp32",
                force_quick_gelu=bool(spec.quick_gelu),
                require_pretrained=True,
            )
            tokenizer = open_clip.get_tokenizer(spec.model)
    except Exception as error:
        raise TeacherError(_loading_failed(spec, error)) from error
    model.eval().requires_grad_(False)
    identity = _identity(spec, model)
    model.to(device)
    # Convolutions are up to twice as fast in this layout, on CPUs as on GPUs.
    model.visual.to(memory_format=torch.channels_last)
    return Teacher(model, identity, tokenizer)


def torch_device(name: str | None) -> torch.device:
    """The device that `--device` names; None is the first CUDA device if there is one.

    Raises:
        TeacherError: it can't be used.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise TeacherError(f"--device {name!r} can't be used: {reason}; leave it out, or name cpu or cuda") from None
    if device.type not in {"cpu", "cuda"}:
        raise TeacherError(f"--device {name!r}: only cpu and cuda are supported")
    return device


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep open_clip's log to itself: its errors come as exceptions, and the activation it warns of is set by us."""
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _loading_failed(spec: TeacherSpec, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
    if spec.pretrained and Path(spec.pretrained).is_file():
        return f"--teacher {spec.text}: {spec.pretrained} doesn't load as {spec.model}: {reason}"
    return (
        f"--teacher {spec.text}: its weights can't be fetched: {reason}. On a machine with network access run "
        f"`python -c \"import open_clip; open_clip.create_model('{spec.model}', "
        f'{f"pretrained={spec.pretrained!r}" if spec.pretrained else ""})"` and copy its cache '
        "(~/.cache/huggingface, ~/.cache/clip) here, or point at a file: --teacher MODEL:FILE "
        "(RN50-quickgelu:FILE for OpenAI's RN50)"
    )


def _identity(spec: TeacherSpec, model: nn.Module) -> TeacherIdentity:
    config = _model_config(spec)
    preprocess = open_clip.get_model_preprocess_cfg(model)
    size = preprocess["size"]
    bias = getattr(model, "logit_bias", None)
    return TeacherIdentity(
        name=_public_name(spec),
        weights_sha256=state_sha256(model),
        model_config_sha256=json_sha256(config),
        quick_gelu=bool(config.get("quick_gelu", False)),
        embed_dim=config["embed_dim"],
        mean=tuple(preprocess["mean"]),
        std=tuple(preprocess["std"]),
        input_hw=tuple(size) if isinstance(size, tuple | list) else (size, size),
        interpolation="bilinear" if preprocess.get("interpolation") == "bilinear" else "bicubic",
        logit_scale=float(model.logit_scale.exp().item()),  # type: ignore[operator]
        logit_bias=None if bias is None else float(bias.item()),
    )


def _model_config(spec: TeacherSpec) -> dict[str, Any]:
    config = deepcopy(open_clip.get_model_config(spec.model) or {})
    if spec.quick_gelu:
        config["quick_gelu"] = True
    return config


def _public_name(spec: TeacherSpec) -> str:
    if spec.pretrained and Path(spec.pretrained).is_file():
        return f"{spec.model}:{Path(spec.pretrained).name}"
    return f"local-dir:{Path(spec.model).name}" if spec.text.startswith("local-dir:") else spec.text


def state_sha256(model: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of a model's weights and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
