"""How far two soft labels of one region lie apart: KL divergence, of whole distributions and of truncated ones."""

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.cache.soft_labels import TopKSoftLabels


def kl_divergence(log_p_RC: NDArray[np.float64], log_q_RC: NDArray[np.float64]) -> NDArray[np.float64]:
    """[R] KL(p ‖ q) in nats of whole distributions, [R, C] log-probabilities."""
    return np.asarray((np.exp(log_p_RC) * (log_p_RC - log_q_RC)).sum(axis=1))


def top_k_kl_divergence(p: TopKSoftLabels, q: TopKSoftLabels, *, classes: int) -> NDArray[np.float64]:
    """[R] KL(p ‖ q) in nats over the classes that both labels keep, and all others as one.

    It is never above that of the wholes. The labels may keep different numbers of classes.

    Args:
        p: of R regions.
        q: of the same regions.
        classes: of the vocabulary; every class id lies below it.
    """
    log_p_RK = _looked_up(p, q.class_ids, classes)
    log_q_RK = q.log_probs.astype(np.float64)
    in_both_RK = np.isfinite(log_p_RK) & np.isfinite(log_q_RK)
    gap_RK = np.subtract(log_p_RK, log_q_RK, where=in_both_RK, out=np.zeros_like(log_q_RK))
    kept_R = (np.exp(log_p_RK) * gap_RK).sum(axis=1)
    q_other_R = _mass_of_others(q, in_both_RK)
    p_other_R = _mass_of_others(p, np.isfinite(_looked_up(q, p.class_ids, classes)) & np.isfinite(p.log_probs))
    tiny = np.finfo(np.float64).tiny
    rest_R = p_other_R * (np.log(np.maximum(p_other_R, tiny)) - np.log(np.maximum(q_other_R, tiny)))
    return np.asarray(kept_R + rest_R)


def _looked_up(labels: TopKSoftLabels, class_ids_RK: NDArray[np.integer], classes: int) -> NDArray[np.float64]:
    """[R, K] log-probabilities that labels give to some classes of each region; -inf for those that they don't keep."""
    log_probs_RC = np.full((len(class_ids_RK), classes), -np.inf)
    np.put_along_axis(log_probs_RC, labels.class_ids.astype(np.int64), labels.log_probs.astype(np.float64), axis=1)
    return np.take_along_axis(log_probs_RC, class_ids_RK.astype(np.int64), axis=1)


def _mass_of_others(labels: TopKSoftLabels, in_both_RK: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[R] probability of the classes that the other label doesn't keep, and of the rest."""
    kept_RK = np.where(in_both_RK, 0.0, np.exp(labels.log_probs.astype(np.float64)))
    return np.asarray(kept_RK.sum(axis=1) + np.exp(labels.log_rest.astype(np.float64)))
