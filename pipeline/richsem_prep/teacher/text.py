"""The text bank: prompts, their means, and a cache of them, since a large vocabulary takes minutes."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip import OPENAI_IMAGENET_TEMPLATES

from richsem_prep.teacher.names import prompted_name, text_spec
from richsem_prep.teacher.teacher import Teacher
from richsem_schemas.cache.field_types import NamePolicy
from richsem_schemas.cache.manifest import TeacherIdentity, TextSpec
from richsem_schemas.cache.text_bank import TextBank
from richsem_schemas.errors import TeacherError
from richsem_schemas.io.canonical_json import json_sha256
from richsem_schemas.io.files import write_atomically
from richsem_schemas.vocabularies.vocabulary import NONE_NAME, Vocabulary

_BATCH_PROMPTS = 27
_DIGEST_BYTES = 32

TEMPLATES: tuple[str, ...] = ("{}.", *(template("{}") for template in OPENAI_IMAGENET_TEMPLATES))
"""81: the bare name with a full stop, and OpenAI's 80 for ImageNet."""


def prompts_of(name: str, row: int, templates: tuple[str, ...] = TEMPLATES) -> list[str]:
    """All prompts of one class; row 0 is the bare word "none", without templates, as in the reference."""
    return [name] if row == 0 else [template.format(name) for template in templates]


def text_bank(
    teacher: Teacher,
    vocabulary: Vocabulary,
    policy: NamePolicy,
    *,
    templates: tuple[str, ...] = TEMPLATES,
    on_progress: Callable[[int, int], None],
) -> TextBank:
    """The text bank of a vocabulary, from the user's cache where it has been computed before.

    Raises:
        TeacherError: embeddings of text are not finite.
    """
    assert vocabulary.class_names[0] == NONE_NAME
    names = tuple(prompted_name(name, policy) for name in vocabulary.class_names)
    path = _cache_path(teacher.identity, text_spec(vocabulary, policy, templates))
    features = _read_cached(path, len(names), teacher.identity.embed_dim)
    if features is None:
        features = text_means(teacher, names, templates=templates, on_progress=on_progress)
        if not np.isfinite(features).all():
            raise TeacherError(
                f"--teacher {teacher.identity.name}: its embeddings of text are not finite, so its weights are "
                "damaged; get them again, or name another teacher"
            )
        _write_cached(path, features)
    return TextBank(vocabulary.class_names, names, templates, teacher.identity.logit_scale, features)


@torch.inference_mode()
def text_means(
    teacher: Teacher,
    names: tuple[str, ...],
    *,
    templates: tuple[str, ...] = TEMPLATES,
    on_progress: Callable[[int, int], None],
) -> NDArray[np.float32]:
    """[C, D] means of raw text embeddings over the templates, not normalised.

    Source:
        The reference averages raw embeddings and normalises when it uses them.
    """
    on_progress(0, len(names))
    means = np.empty((len(names), teacher.identity.embed_dim), np.float32)
    for row, name in enumerate(names):
        prompts = sorted(prompts_of(name, row, templates), key=len)
        # Prompts of about one length go together, since a batch costs what its longest prompt costs.
        parts = [teacher.encode_text(prompts[i : i + _BATCH_PROMPTS]) for i in range(0, len(prompts), _BATCH_PROMPTS)]
        means[row] = torch.cat(parts).double().mean(dim=0).float().cpu().numpy()
        on_progress(row + 1, len(names))
    return means


def _cache_path(identity: TeacherIdentity, spec: TextSpec) -> Path:
    key = json_sha256([identity.weights_sha256, identity.model_config_sha256, spec.prompts_sha256])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "richsem" / "text" / f"{key}.f32"


def _read_cached(path: Path, classes: int, dim: int) -> NDArray[np.float32] | None:
    """Features, unless the file isn't what was written: float32 rows, then their SHA-256."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    rows, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if hashlib.sha256(rows).digest() != digest or len(rows) != 4 * classes * dim:
        return None
    return np.frombuffer(rows, "<f4").reshape(classes, dim)


def _write_cached(path: Path, features: NDArray[np.float32]) -> None:
    rows = features.astype("<f4").tobytes()
    try:
        write_atomically(path, rows + hashlib.sha256(rows).digest())
    except OSError:
        return  # A cache that can't be written costs time, not correctness.
