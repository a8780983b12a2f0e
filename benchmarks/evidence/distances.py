"""How far one class distribution is from another; float64, by region."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Logs = NDArray[np.float64]
"""Log-probabilities, [..., C]; -inf allowed."""


def kl(p: Logs, q: Logs) -> NDArray[np.float64]:
    """KL(p ‖ q), nats, [...]; infinite where q rules out what p allows."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(p > -np.inf, np.exp(p) * (p - q), 0.0).sum(-1))


def total_variation(p: Logs, q: Logs) -> NDArray[np.float64]:
    """Half of the summed differences in probability, [...], 0 to 1.

    It is the error of the gradient with respect to the student's logits, softmax less target, whatever the student.
    """
    return np.asarray(np.abs(np.exp(p) - np.exp(q)).sum(-1) / 2)


def entropy(p: Logs) -> NDArray[np.float64]:
    """Nats, [...]: how much there is to differ in."""
    return np.asarray(-np.where(p > -np.inf, np.exp(p) * np.where(p > -np.inf, p, 0.0), 0.0).sum(-1))


def coarsened(log_probs_RC: Logs, class_ids_RK: NDArray[np.integer]) -> Logs:
    """The same over K classes and all the others as one: [R, K + 1]."""
    kept_RK = np.take_along_axis(log_probs_RC, class_ids_RK, axis=1)
    rest_RC = np.exp(log_probs_RC)
    np.put_along_axis(rest_RC, class_ids_RK, 0.0, axis=1)
    with np.errstate(divide="ignore"):
        return np.concatenate([kept_RK, np.log(rest_RC.sum(axis=1, keepdims=True))], axis=1)


def spread(values: NDArray[np.floating]) -> dict[str, Any]:
    """Mean, median and quartiles; None where there are no numbers, or infinite ones."""
    finite = bool(len(values)) and bool(np.isfinite(values).all())
    if not finite:
        return {"mean": None, "median": None, "quartiles": None}
    return {
        "mean": float(values.mean()),
        "median": float(np.median(values)),
        "quartiles": [float(value) for value in np.quantile(values, (0.25, 0.75))],
    }
