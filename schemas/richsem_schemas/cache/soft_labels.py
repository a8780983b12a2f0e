"""From region embeddings to soft labels: the most probable classes and the mass of the rest.

NumPy in float64, so that the same embedding gives the same label on every machine and number of threads.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class TopKSoftLabels:
    """Truncated class distributions of R regions.

    Attributes:
        class_ids: [R, K] int32, most probable first, ties to the lower id.
        log_probs: [R, K] float16; non-increasing to within two float16 steps.
        log_rest: [R] float32, log of the mass outside the K classes; -inf where K is the whole vocabulary.
    """

    class_ids: NDArray[np.int32]
    log_probs: NDArray[np.float16]
    log_rest: NDArray[np.float32]

    def __getitem__(self, regions: NDArray[np.integer] | NDArray[np.bool_] | slice) -> "TopKSoftLabels":
        """Those of some regions."""
        return TopKSoftLabels(self.class_ids[regions], self.log_probs[regions], self.log_rest[regions])

    @classmethod
    def of_regions(cls, regions: NDArray[np.void]) -> "TopKSoftLabels":
        """Those of unpacked regions of any shape, one after the other."""
        top_k = regions.dtype["class_ids"].shape[0]
        return cls(
            regions["class_ids"].reshape(-1, top_k),
            regions["log_probs"].reshape(-1, top_k),
            regions["log_rest"].reshape(-1),
        )

    @classmethod
    def joined(cls, parts: Sequence["TopKSoftLabels"]) -> "TopKSoftLabels":
        """One or more of the same K, one after the other."""
        return cls(
            np.concatenate([part.class_ids for part in parts]),
            np.concatenate([part.log_probs for part in parts]),
            np.concatenate([part.log_rest for part in parts]),
        )


def unit_rows(features: NDArray[np.floating]) -> NDArray[np.float64]:
    """Each row divided by its L2 norm, in float64.

    Args:
        features: [N, D]; no row may be zero.
    """
    wide = features.astype(np.float64)
    return wide / np.linalg.norm(wide, axis=-1, keepdims=True)


def class_log_probs(
    region_features: NDArray[np.floating], text_features: NDArray[np.floating], *, logit_scale: float
) -> NDArray[np.float64]:
    """CLIP's class distribution of each region: log-softmax of scaled cosines.

    Args:
        region_features: [R, D] embeddings, any norm.
        text_features: [C, D] text means, any norm; for LVIS row = `category_id`.
        logit_scale: multiplies the cosine; already exponentiated (~100).

    Returns:
        [R, C] log-probabilities.
    """
    return unit_log_probs(unit_rows(region_features), unit_rows(text_features), logit_scale=logit_scale)


def unit_log_probs(
    region_units_RD: NDArray[np.float64], text_units_CD: NDArray[np.float64], *, logit_scale: float
) -> NDArray[np.float64]:
    """`class_log_probs` of features that `unit_rows` has normalised, for a text that is compared with many regions."""
    logits_RC = logit_scale * (region_units_RD @ text_units_CD.T)
    logits_RC -= logits_RC.max(axis=1, keepdims=True, initial=-np.inf)
    return np.asarray(logits_RC - np.log(np.exp(logits_RC).sum(axis=1, keepdims=True)))


def top_k_soft_labels(log_probs_RC: NDArray[np.float64], *, top_k: int) -> TopKSoftLabels:
    """Keep the `top_k` most probable classes of each region, and the log of the mass left out.

    Args:
        log_probs_RC: [R, C], rows summing to one in probability.
        top_k: classes kept a region, 1 <= top_k <= C.

    Returns:
        Probabilities that sum to one with the rest within 1e-3.

    Raises:
        ValueError: `top_k` is out of range.

    Source:
        Ours; the paper distils the full distribution. The rest is kept, since for CLIP it can hold a third of the mass.
    """
    classes = log_probs_RC.shape[1]
    if not 1 <= top_k <= classes:
        raise ValueError(f"top_k is {top_k}, must be in 1..{classes} (the number of classes)")
    kept_RK = largest_columns(log_probs_RC, top_k)
    log_kept = np.take_along_axis(log_probs_RC, kept_RK, axis=1)
    rest_RC = np.exp(log_probs_RC)
    np.put_along_axis(rest_RC, kept_RK, 0.0, axis=1)
    with np.errstate(divide="ignore"):
        log_rest = np.log(rest_RC.sum(axis=1))
    return TopKSoftLabels(kept_RK.astype(np.int32), _round_to_float16(log_kept), log_rest.astype(np.float32))


def largest_columns(values_RC: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """[R, count] columns of each row's largest values, largest first, ties to the lower column.

    The same as a stable sort of whole rows, but only the largest are sorted.
    """
    columns = values_RC.shape[1]
    if 2 * count >= columns:
        return np.argsort(-values_RC, axis=1, kind="stable")[:, :count]
    largest_RK = np.sort(np.argpartition(values_RC, columns - count, axis=1)[:, columns - count :], axis=1)
    kept_RK = np.take_along_axis(values_RC, largest_RK, axis=1)
    order_RK = np.argsort(-kept_RK, axis=1, kind="stable")
    found_RK = np.take_along_axis(largest_RK, order_RK, axis=1)
    # Where the last value kept stands outside, too, the partition chose any of the equals.
    last_R1 = kept_RK.min(axis=1, keepdims=True, initial=np.inf)
    is_tied_R = (values_RC == last_R1).sum(axis=1) > (kept_RK == last_R1).sum(axis=1)
    if is_tied_R.any():
        found_RK[is_tied_R] = np.argsort(-values_RC[is_tied_R], axis=1, kind="stable")[:, :count]
    return found_RK


def _round_to_float16(log_probs_RK: NDArray[np.float64]) -> NDArray[np.float16]:
    """Round, handing each rounding error on to the next class, so that errors don't add up over equal probabilities."""
    rounded = np.empty(log_probs_RK.shape, np.float16)
    owed = np.zeros(len(log_probs_RK))
    for k in range(log_probs_RK.shape[1]):
        wanted = np.exp(log_probs_RK[:, k]) + owed
        nearest = log_probs_RK[:, k].astype(np.float16)
        step = np.spacing(np.abs(nearest)).astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            shifted = np.where(wanted > 0, np.log(wanted), -np.inf)
        rounded[:, k] = np.clip(shifted, log_probs_RK[:, k] - step, np.minimum(log_probs_RK[:, k] + step, 0.0))
        owed = wanted - np.exp(rounded[:, k].astype(np.float64))
    return rounded
