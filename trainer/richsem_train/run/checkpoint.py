"""Checkpoints: written whole or not at all, read without running anything that they hold."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from richsem_schemas.errors import RichSemError
from richsem_schemas.io.files import HashedFile, hashed_file, write_atomically
from richsem_train.config import TrainConfig, parse_config
from richsem_train.models.unpacked_size import require_plausible_size
from richsem_train.run.named_files import require_checkpoint

CHECKPOINT_VERSION = 1
_METADATA_KEY = "richsem"
_SHOWN = 30
"""Letters of a wrong value that a message repeats."""

_LONGEST_TEXT = 2_000

_COUNTS = (torch.int64, torch.bool)
"""Of weights that aren't real numbers: what batch norms count."""


@dataclass(frozen=True, eq=False)
class ModelInfo:
    """The description of a detector: enough to build it again, and to name what it finds.

    Attributes:
        config: of the run that trained it.
        class_names: by row; rows that are no category are empty.
        frequencies: `r`, `c`, `f`, or empty.
        text_dim: width of the classifier's text bank; 0 without one.
        logit_scale: of the same; 0 without one.
        frequency_rule: who says so, in words; empty where the training annotations weren't known.
        category_ids: of the rows, in the annotations that it was trained on; -1 for rows that they have not, empty
            where each row is its id.
    """

    config: TrainConfig
    class_names: tuple[str, ...]
    frequencies: tuple[str, ...]
    text_dim: int
    logit_scale: float
    category_ids: tuple[int, ...] = ()
    frequency_rule: str = ""

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "version": CHECKPOINT_VERSION,
            "config": self.config.model_dump(mode="json"),
            "class_names": list(self.class_names),
            "frequencies": list(self.frequencies),
            "frequency_rule": self.frequency_rule,
            "text_dim": self.text_dim,
            "logit_scale": self.logit_scale,
            "category_ids": list(self.category_ids),
        }

    @classmethod
    def from_json(cls, value: Any, path: Path) -> "ModelInfo":
        """Read `to_json` back.

        Raises:
            RichSemError: it is something else, or of another version.
        """
        if not isinstance(value, Mapping):
            raise RichSemError(f"{path}: not what this program writes; it doesn't say what model it is of")
        version = value.get("version")
        if type(version) is not int or version != CHECKPOINT_VERSION:
            raise RichSemError(
                f"{path}: its version is {version!r}, this program reads {CHECKPOINT_VERSION}; use the "
                "version of richsem that wrote it"
            )
        try:
            info = cls(
                parse_config(value["config"], source=str(path)),
                _texts(value, "class_names"),
                _texts(value, "frequencies"),
                _whole(value["text_dim"], 2**31),
                float(value["logit_scale"]),
                tuple(_whole(each, 2**63) for each in value.get("category_ids", ())),
                _text(value.get("frequency_rule", ""), "frequency_rule"),
            )
            _check_rows(info)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise RichSemError(f"{path}: not what this program writes ({error!r})") from None
        return info


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A detector, and where its training stands.

    Attributes:
        info: how to build it.
        model: its weights.
        averaged: the averaged ones, where the run keeps them.
        optimiser: state of the optimiser; empty in exported weights.
        step: steps taken.
        best_ap: of the evaluations so far.
        fingerprints: of the label sets (and text) that it learns from, by section of the config.
    """

    info: ModelInfo
    model: dict[str, Tensor]
    averaged: dict[str, Tensor] | None = None
    optimiser: dict[str, Any] = field(default_factory=dict)
    step: int = 0
    best_ap: float = -1.0
    fingerprints: dict[str, str] = field(default_factory=dict)

    @property
    def inference_weights(self) -> dict[str, Tensor]:
        """The weights to detect with: the averaged ones where there are any."""
        return self.averaged if self.averaged is not None else self.model


def _whole(value: Any, limit: int) -> int:
    if type(value) is not int or not -limit <= value < limit:
        raise ValueError(f"{str(value)[:_SHOWN]} is no whole number below {limit:,}")
    return value


def _texts(value: Mapping[str, Any], field: str) -> tuple[str, ...]:
    texts = value[field]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{field} is no list of texts")
    return tuple(texts)


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT:
        raise ValueError(f"{field} is no text of at most {_LONGEST_TEXT:,} letters")
    return value


def _check_rows(info: ModelInfo) -> None:
    rows = len(info.class_names)
    if len(info.frequencies) != rows:
        raise ValueError(f"frequencies has {len(info.frequencies):,} rows, and class_names has {rows:,}")
    if info.category_ids and len(info.category_ids) != rows:
        raise ValueError(f"category_ids has {len(info.category_ids):,} rows, and class_names has {rows:,}")
    if strange := set(info.frequencies) - {"r", "c", "f", ""}:
        raise ValueError(f"frequencies has {min(strange)[:_SHOWN]!r}, which is none of 'r', 'c', 'f' and ''")
    if info.text_dim < 0:
        raise ValueError(f"text_dim is {info.text_dim}")
    # Without a text bank there is no scale.
    if not math.isfinite(info.logit_scale) or info.logit_scale < 0 or (info.text_dim and not info.logit_scale):
        raise ValueError(f"logit_scale is {info.logit_scale}, and must be a number above 0")


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write to a temporary name, fsync, rename: a kill leaves the old file or the new one.

    Raises:
        FullDiskError: there is no space for it.
    """
    content = {
        "info": json.dumps(checkpoint.info.to_json()),
        "model": checkpoint.model,
        "averaged": checkpoint.averaged,
        "optimiser": checkpoint.optimiser,
        "step": checkpoint.step,
        "best_ap": checkpoint.best_ap,
        "fingerprints": checkpoint.fingerprints,
    }
    with hashed_file(path, needed=_tensor_bytes(content)) as file:
        _save(content, file)


def export_weights(path: Path, info: ModelInfo, weights: Mapping[str, Tensor]) -> None:
    """Write inference weights as safetensors, whole or not at all, with what is needed to build the detector.

    Raises:
        FullDiskError: there is no space for it.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    # safetensors' own writer makes files that only their owner may read.
    write_atomically(path, save(tensors, metadata={_METADATA_KEY: json.dumps(info.to_json())}))


def _save(content: dict[str, Any], file: HashedFile) -> None:
    """`torch.save`, with the error of the file system where torch's writer tells of another.

    Raises:
        OSError: the file can't be written.
    """
    sink = _Sink(file)
    try:
        torch.save(content, sink)  # type: ignore[arg-type]
    except RuntimeError:
        if sink.error is None:
            raise
        raise sink.error from None


class _Sink:
    """A file that keeps its first error."""

    def __init__(self, file: HashedFile) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write some bytes."""
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        """Hand what is buffered to the system."""
        self._file.flush()


def _tensor_bytes(value: Any) -> int:
    """Of the tensors of nested dicts and lists."""
    if isinstance(value, Tensor):
        return value.nbytes
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return sum(map(_tensor_bytes, parts))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint, or weights that `export_weights` wrote.

    Raises:
        RichSemError: no such file, damaged, or something else.
    """
    require_checkpoint(path)
    return _load_exported(path) if path.suffix == ".safetensors" else _load_saved(path)


def _load_saved(path: Path) -> Checkpoint:
    try:
        require_plausible_size(path)
        value = torch.load(path, map_location="cpu", weights_only=True)
    except RichSemError:
        raise
    except Exception as error:
        raise RichSemError(
            f"{path}: not a readable checkpoint of richsem-train ({type(error).__name__}); is it cut short, or another "
            "program's? Published weights are read by `eval FILE --config NAME` and by "
            "start_from=FILE"
        ) from None
    if not isinstance(value, dict) or not {"info", "model", "step"} <= value.keys():
        raise RichSemError(
            f"{path}: no checkpoint of richsem-train; published weights are read by `eval FILE --config NAME` "
            "and by start_from=FILE"
        )
    try:
        return Checkpoint(
            ModelInfo.from_json(json.loads(value["info"]), path),
            _weights(value["model"], "model"),
            None if value.get("averaged") is None else _weights(value["averaged"], "averaged"),
            dict(value.get("optimiser") or {}),
            _steps_taken(value["step"]),
            float(value.get("best_ap", -1.0)),
            _fingerprints(value.get("fingerprints")),
        )
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise RichSemError(f"{path}: not what this program writes ({error})") from None


def _weights(value: Any, field: str) -> dict[str, Tensor]:
    named = dict(value)
    if not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in named.items()):
        raise ValueError(f"its {field} isn't tensors by name")
    for name, tensor in named.items():
        # A tensor may repeat few numbers without holding them: a small file can describe a giant.
        if tensor.is_meta or tensor.layout != torch.strided or tensor.nbytes > tensor.untyped_storage().nbytes():
            raise ValueError(f"{name} of shape {tuple(tensor.shape)} isn't held in full")
        if not tensor.dtype.is_floating_point and tensor.dtype not in _COUNTS:
            raise ValueError(
                f"{field}: {name} is of {tensor.dtype}, and weights are floating-point numbers; take another copy of "
                "it, or convert its weights to float32"
            )
    return named


def _fingerprints(value: Any) -> dict[str, str]:
    return {str(section): str(fingerprint) for section, fingerprint in dict(value or {}).items()}


def _steps_taken(value: Any) -> int:
    steps = _whole(value, 2**63)
    if steps < 0:
        raise ValueError(f"its step is {steps}")
    return steps


def _load_exported(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        value = json.loads(metadata.get(_METADATA_KEY, "null"))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise RichSemError(f"{path}: no readable safetensors file ({error})") from None
    if not isinstance(value, dict):
        raise RichSemError(f"{path}: safetensors of another program; expected what `richsem-train export` writes")
    try:
        return Checkpoint(ModelInfo.from_json(value, path), _weights(weights, "weights"))
    except ValueError as error:
        raise RichSemError(f"{path}: not what this program writes ({error})") from None
