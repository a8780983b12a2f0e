"""The text side of a label set on disk: names, templates and raw feature means."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.cache.layout import FEATURES_FILE, LabelSetLayout
from richsem_schemas.cache.manifest import TeacherIdentity, TextManifest, TextSpec
from richsem_schemas.errors import CorruptCacheError
from richsem_schemas.io.canonical_json import json_sha256
from richsem_schemas.io.files import hash_bytes, read_file, write_atomically
from richsem_schemas.io.places import Place


@dataclass(frozen=True, eq=False)
class TextBank:
    """One row a class.

    Attributes:
        class_names: row = `category_id`; row 0 is "none".
        prompted_names: what stood in the templates, the same names under the `raw` policy.
        templates: with `{}` for the name.
        logit_scale: exponentiated.
        features: [C, D] float32, means over the templates, not normalised.
    """

    class_names: tuple[str, ...]
    prompted_names: tuple[str, ...]
    templates: tuple[str, ...]
    logit_scale: float
    features: NDArray[np.float32]

    @property
    def prompts_sha256(self) -> str:
        """Identifies what stood in the templates, and the templates."""
        return prompts_sha256(self.prompted_names, self.templates)

    def problems(self, teacher: TeacherIdentity) -> Iterator[str]:
        """What keeps its features from being of the text tower of a teacher."""
        if self.logit_scale != teacher.logit_scale:
            yield f"its logit scale is {self.logit_scale}, the teacher's {teacher.logit_scale}"
        with np.errstate(all="ignore"):
            norms_C = np.linalg.norm(self.features.astype(np.float64), axis=1)
        if not (np.isfinite(norms_C) & (norms_C > 0)).all():
            yield "its features have rows that are zero or no numbers"


def prompts_sha256(prompted_names: Sequence[str], templates: Sequence[str]) -> str:
    """Identifies what stands in templates, and the templates."""
    return json_sha256([list(prompted_names), list(templates)])


def write_text_bank(layout: LabelSetLayout, bank: TextBank) -> None:
    """Write the text bank of a label set."""
    write_bank(bank, layout.text, TextManifest)


def write_bank(bank: TextBank, text: Place, manifest: type[TextManifest], **more: Any) -> None:
    """Write features first, then beside them, at `text`, the manifest that holds their hash.

    `more` are fields of the manifest that the bank hasn't.
    """
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(bank.features, dtype="<f4"), allow_pickle=False)
    write_atomically(text.parent / FEATURES_FILE, buffer.getvalue())
    manifest(
        class_names=bank.class_names,
        prompted_names=bank.prompted_names,
        templates=bank.templates,
        logit_scale=bank.logit_scale,
        features=hash_bytes(buffer.getvalue()),
        **more,
    ).write(text)


def read_text_bank(layout: LabelSetLayout) -> TextBank:
    """Read a label set's text bank.

    Raises:
        FileNotFoundError: it has none.
        CorruptCacheError: it is not what was written.
    """
    return read_bank(TextManifest.read(layout.text), layout.text)


def has_text_bank(layout: LabelSetLayout, spec: TextSpec) -> bool:
    """Whether a label set's text bank is there, and that of a spec; a run killed early may have left another's."""
    try:
        bank = read_text_bank(layout)
    except (FileNotFoundError, CorruptCacheError):
        return False
    return bank.prompts_sha256 == spec.prompts_sha256


def read_bank(manifest: TextManifest, text: Place) -> TextBank:
    """The bank that a manifest, read at `text`, describes, with the features beside it.

    Raises:
        FileNotFoundError: there are no features.
        CorruptCacheError: they are not what was written.
    """
    features = text.parent / FEATURES_FILE
    if features.stat().st_size != manifest.features.bytes:
        raise CorruptCacheError(f"{features}: not as long as {text} says; make the text anew")
    data = read_file(features)
    if hash_bytes(data) != manifest.features:
        raise CorruptCacheError(f"{features}: its bytes don't match {text}; make the text anew")
    features_CD = _parse_features(data, features, classes=len(manifest.class_names))
    if len(manifest.prompted_names) != len(manifest.class_names):
        raise CorruptCacheError(f"{text}: not one prompted name a class; make the text anew")
    names, prompted = manifest.class_names, manifest.prompted_names
    return TextBank(names, prompted, manifest.templates, manifest.logit_scale, features_CD)


def _parse_features(data: bytes, path: Place, *, classes: int) -> NDArray[np.float32]:
    """Read a float32 matrix of `classes` rows, with the very header that `np.save` gives it."""
    header_bytes = 10 + int.from_bytes(data[8:10], "little")
    dim, surplus = divmod(len(data) - header_bytes, 4 * max(classes, 1))
    if dim <= 0 or surplus:
        header_bytes, dim = len(data), 0
    features = np.frombuffer(data[header_bytes:], "<f4").reshape(-1, max(dim, 1))
    buffer = io.BytesIO()
    np.save(buffer, features, allow_pickle=False)
    if buffer.getvalue() != data or len(features) != classes:
        raise CorruptCacheError(f"{path}: not one float32 row a class; make the text anew")
    return features
