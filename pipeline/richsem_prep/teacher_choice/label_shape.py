"""How much soft labels say beside their most probable class, under several vocabularies and temperatures."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from richsem_prep.teacher.names import prompted_name
from richsem_prep.teacher_choice.calibration import at_temperature

NEARLY_ONE_HOT = 0.9
"""Share of the mass in the most probable class, at the mean, from which soft labels say little more than hard ones."""

SOFTER = 2.0
"""A temperature that is always shown, beside 1 and the fitted one."""


@dataclass(frozen=True)
class LabelShape:
    """Soft labels of boxes over some names at some temperature.

    Attributes:
        names: which ones.
        classes: how many, "none" among them.
        temperature: divides the teacher's logits.
        top_share: mass of the most probable class, at the mean.
        entropy: nats, at the mean.
        own_share: mass on one's own classes, at the mean.
        top_1: share of boxes whose own class is the most probable of all names.
        nll: mean negative log-probability of the boxes' own classes, nats.
    """

    names: str
    classes: int
    temperature: float
    top_share: float
    entropy: float
    own_share: float
    top_1: float
    nll: float

    @property
    def is_nearly_one_hot(self) -> bool:
        """Whether it says little more than a hard label."""
        return self.top_share >= NEARLY_ONE_HOT


def label_shapes(
    names: str, log_probs_RC: NDArray[np.float64], rows_R: NDArray[np.int64], own: int, fitted: float
) -> tuple[LabelShape, ...]:
    """The shape at temperatures 1, the fitted one and a softer one, ascending.

    Args:
        names: what the columns are called.
        log_probs_RC: at temperature 1; the first `own` columns are "none" and one's own classes.
        rows_R: the boxes' classes, columns.
        own: columns.
        fitted: a temperature.
    """
    return tuple(
        _shape(names, at_temperature(log_probs_RC, temperature), rows_R, own, temperature)
        for temperature in sorted({1.0, SOFTER, fitted})
    )


def _shape(
    names: str, log_probs_RC: NDArray[np.float64], rows_R: NDArray[np.int64], own: int, temperature: float
) -> LabelShape:
    probs_RC = np.exp(log_probs_RC)
    # 0 log 0 is 0, and logarithms of what underflows are finite.
    entropy_R = -(probs_RC * log_probs_RC).sum(axis=1)
    return LabelShape(
        names,
        log_probs_RC.shape[1],
        temperature,
        float(probs_RC.max(axis=1).mean()),
        float(entropy_R.mean()),
        float(probs_RC[:, 1:own].sum(axis=1).mean()),
        float((log_probs_RC.argmax(axis=1) == rows_R).mean()),
        float(-log_probs_RC[np.arange(len(rows_R)), rows_R].mean()),
    )


def names_beside(own: Sequence[str], wider: Sequence[str]) -> NDArray[np.int64]:
    """Which names of a wider list are none of one's own, however they are written; int64 places in the list."""
    taken = {_plain(name) for name in own}
    places = []
    for place, name in enumerate(wider):
        if (plain := _plain(name)) not in taken:
            taken.add(plain)
            places.append(place)
    return np.array(places, np.int64)


def _plain(name: str) -> str:
    return prompted_name(name, "clean").casefold()
