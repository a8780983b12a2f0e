"""Soft labels of boxes in either form: whole distributions from embeddings, or the classes that were kept."""

from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from richsem_prep.analyses.analysis_request import LabelForm
from richsem_schemas.cache.codec import embeddings_of
from richsem_schemas.cache.divergence import kl_divergence, top_k_kl_divergence
from richsem_schemas.cache.manifest import LabelManifest
from richsem_schemas.cache.reader import Cache
from richsem_schemas.cache.soft_labels import TopKSoftLabels, class_log_probs, largest_columns
from richsem_schemas.errors import CorruptCacheError, RichSemError


class SoftLabels(Protocol):
    """What the teacher says of R boxes."""

    def __getitem__(self, chosen: NDArray[np.integer]) -> Self:
        """Those of some boxes."""

    def most_probable(self, count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """[R, count] rows of the text bank, most probable first, ties to the lower; and their log-probabilities."""

    def divergence_from(self, clean: Self) -> NDArray[np.float64]:
        """[R] KL(clean ‖ these) in nats."""


@dataclass(frozen=True, eq=False)
class WholeLabels:
    """Distributions over all classes, [R, C] log-probabilities."""

    log_probs: NDArray[np.float64]

    def __getitem__(self, chosen: NDArray[np.integer]) -> "WholeLabels":
        """Those of some boxes."""
        return WholeLabels(self.log_probs[chosen])

    def most_probable(self, count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """As `SoftLabels` says."""
        ids_RK = largest_columns(self.log_probs, count)
        return ids_RK, np.take_along_axis(self.log_probs, ids_RK, axis=1)

    def divergence_from(self, clean: "WholeLabels") -> NDArray[np.float64]:
        """As `SoftLabels` says; exact."""
        return kl_divergence(clean.log_probs, self.log_probs)


@dataclass(frozen=True, eq=False)
class KeptLabels:
    """The classes that were stored, of a vocabulary of `classes`."""

    labels: TopKSoftLabels
    classes: int

    def __getitem__(self, chosen: NDArray[np.integer]) -> "KeptLabels":
        """Those of some boxes."""
        return KeptLabels(self.labels[chosen], self.classes)

    def most_probable(self, count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """As `SoftLabels` says; `count` is at most as many as were stored."""
        ids_RK, log_probs_RK = self.labels.class_ids[:, :count], self.labels.log_probs[:, :count]
        return ids_RK.astype(np.int64), log_probs_RK.astype(np.float64)

    def divergence_from(self, clean: "KeptLabels") -> NDArray[np.float64]:
        """As `SoftLabels` says, over the classes that both keep and all others as one: a lower bound."""
        return top_k_kl_divergence(clean.labels, self.labels, classes=self.classes)


@dataclass(frozen=True, eq=False)
class LabelReader:
    """Reads the soft labels of a label set in one form.

    Attributes:
        text: [C, D] features of its text bank.
        logit_scale: the factor of cosines in its labels.
        most: classes of which a label of this form tells the order.
    """

    form: LabelForm
    text: NDArray[np.float32]
    logit_scale: float
    most: int

    def read(self, regions: NDArray[np.void]) -> SoftLabels:
        """Labels of R >= 0 regions.

        Raises:
            CorruptCacheError: they can't be labels of this text bank.
        """
        if self.form == "embedding":
            return WholeLabels(self._log_probs(regions))
        labels, classes = TopKSoftLabels.of_regions(regions), len(self.text)
        if len(labels.class_ids) and not 0 <= labels.class_ids.min() <= labels.class_ids.max() < classes:
            raise CorruptCacheError(f"a soft label has class ids outside of 0..{classes - 1}")
        return KeptLabels(labels, classes)

    def _log_probs(self, regions: NDArray[np.void]) -> NDArray[np.float64]:
        embeddings_RD = embeddings_of(regions)
        assert embeddings_RD is not None
        # Of the sum, since one number that isn't finite makes it so.
        if not np.isfinite(embeddings_RD.sum(dtype=np.float64)):
            raise CorruptCacheError("embeddings are not finite")
        return class_log_probs(embeddings_RD, self.text, logit_scale=self.logit_scale)


def label_reader(cache: Cache, manifest: LabelManifest, form: LabelForm | None) -> LabelReader:
    """What reads the labels of a set; of no form named, from embeddings where there are any.

    Raises:
        RichSemError: embeddings are asked for, and the set stores none.
    """
    spec, text = manifest.spec, cache.text_bank(manifest.name)
    has_embeddings = spec.embeddings != "none"
    if form == "embedding" and not has_embeddings:
        raise RichSemError(
            f"--labels embedding: label set {manifest.name} stores no embeddings; take --labels topk, or the label set "
            "that it was rescored from"
        )
    form = form or ("embedding" if has_embeddings else "topk")
    most = len(text.class_names) if form == "embedding" else spec.top_k
    return LabelReader(form, text.features, text.logit_scale / spec.temperature, most)


def require_top_k(top_k: tuple[int, ...], reader: LabelReader, manifest: LabelManifest) -> None:
    """Check that a set's labels tell the most probable classes that are asked for.

    Raises:
        RichSemError: they keep fewer, or there are fewer.
    """
    if max(top_k) <= reader.most:
        return
    classes = len(reader.text)
    if max(top_k) > classes:
        raise RichSemError(
            f"--top-k {max(top_k)}: label set {manifest.name} has {classes} classes; ask for at most so many"
        )
    remedy = (
        "take --labels embedding"
        if manifest.spec.embeddings != "none"
        else f"ask for at most {reader.most}, or store more: `richsem-prep rescore --top-k {max(top_k)}` of the label "
        "set with the embeddings, or `richsem-prep shard --top-k`"
    )
    raise RichSemError(
        f"--top-k {max(top_k)}: label set {manifest.name} keeps the {reader.most} most probable classes of each box; "
        f"{remedy}"
    )
