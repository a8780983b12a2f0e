"""How far a teacher's probabilities can be believed, and the temperature that mends them."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

BINS = 15
"""Of equal width, as Guo et al. count calibration errors."""

LEAST_TEMPERATURE, MOST_TEMPERATURE = 0.01, 100.0
"""Where every box is right a lower temperature is always more probable, and where nothing is known a higher one."""


@dataclass(frozen=True)
class Calibration:
    """Of the labels of boxes.

    Attributes:
        nll: mean negative log-probability of the boxes' classes, nats.
        ece: expected calibration error, from 0 to 1: how far the share of boxes that are right lies from what the most
            probable class claims.
    """

    nll: float
    ece: float


def at_temperature(log_probs_RC: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """[R, C] log-probabilities with their logits divided by a temperature."""
    scaled_RC = log_probs_RC / temperature
    scaled_RC -= scaled_RC.max(axis=1, keepdims=True)
    return np.asarray(scaled_RC - np.log(np.exp(scaled_RC).sum(axis=1, keepdims=True)))


def fit_temperature(log_probs_RC: NDArray[np.float64], rows_R: NDArray[np.int64]) -> float:
    """The temperature under which the classes of R boxes are most probable, within bounds.

    Source:
        Guo et al. 2017 (arXiv 1706.04599), temperature scaling.
    """
    logits_RC, classes_R = torch.from_numpy(log_probs_RC), torch.from_numpy(rows_R)
    log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
    low, high = float(np.log(LEAST_TEMPERATURE)), float(np.log(MOST_TEMPERATURE))
    optimizer = torch.optim.LBFGS([log_temperature], max_iter=100, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss() -> float:
        optimizer.zero_grad()
        nll = torch.nn.functional.cross_entropy(logits_RC / log_temperature.clamp(low, high).exp(), classes_R)
        nll.backward()
        return float(nll.detach())

    optimizer.step(loss)
    return min(max(float(log_temperature.detach().exp()), LEAST_TEMPERATURE), MOST_TEMPERATURE)


def calibration(log_probs_RC: NDArray[np.float64], rows_R: NDArray[np.int64]) -> Calibration:
    """Of R boxes.

    Source:
        Guo et al. 2017 (arXiv 1706.04599), equation 3, with 15 bins.
    """
    boxes = np.arange(len(rows_R))
    confidence_R = np.exp(log_probs_RC.max(axis=1))
    is_right_R = log_probs_RC.argmax(axis=1) == rows_R
    bins_R = np.minimum((confidence_R * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(bins_R, is_right_R - confidence_R, minlength=BINS)
    return Calibration(float(-log_probs_RC[boxes, rows_R].mean()), float(np.abs(gaps).sum() / len(rows_R)))
