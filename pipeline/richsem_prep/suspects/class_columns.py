"""The teacher's word on annotated boxes, over the classes that a cache's boxes may have and nothing else."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from richsem_prep.analyses.box_labels import KeptLabels, SoftLabels, WholeLabels
from richsem_prep.analyses.judged_classes import JudgedClasses


@dataclass(frozen=True, eq=False)
class ClassColumns:
    """The C judged classes of a vocabulary, as columns.

    Attributes:
        rows: int64 [C], of the vocabulary.
        text_rows: int64 [C], of the text bank.
        column_of: int64 [V], of each row of the vocabulary; -1 where it isn't judged.
    """

    rows: NDArray[np.int64]
    text_rows: NDArray[np.int64]
    column_of: NDArray[np.int64]

    @classmethod
    def of(cls, classes: JudgedClasses) -> "ClassColumns":
        """Those of a label set."""
        rows = np.flatnonzero(classes.are_judged)
        column_of = np.full(len(classes.names), -1, np.int64)
        column_of[rows] = np.arange(len(rows))
        return cls(rows, classes.text_rows[rows], column_of)

    def log_probs(self, labels: SoftLabels) -> NDArray[np.float64]:
        """[R, C] log-probabilities of R labels; what they leave to other names, "none" among them, is shared out."""
        if isinstance(labels, WholeLabels):
            chosen_RC = labels.log_probs[:, self.text_rows]
        else:
            assert isinstance(labels, KeptLabels)
            chosen_RC = _with_rest_shared(labels)[:, self.text_rows]
        return _normalised(chosen_RC)


def _with_rest_shared(labels: KeptLabels) -> NDArray[np.float64]:
    """[R, T]: classes that weren't kept have equal parts of the rest."""
    kept = labels.labels
    left_out = max(labels.classes - kept.class_ids.shape[1], 1)
    share_R1 = (kept.log_rest.astype(np.float64) - np.log(left_out))[:, None]
    log_probs_RT = np.repeat(share_R1, labels.classes, axis=1)
    np.put_along_axis(log_probs_RT, kept.class_ids.astype(np.int64), kept.log_probs.astype(np.float64), axis=1)
    return log_probs_RT


_LEAST = -1e4
"""Logarithms of probabilities that float16 can't tell from nothing: far below all others, and still numbers."""


def _normalised(log_probs_RC: NDArray[np.float64]) -> NDArray[np.float64]:
    raised_RC = np.maximum(log_probs_RC, _LEAST)
    raised_RC -= raised_RC.max(axis=1, keepdims=True)
    return np.asarray(raised_RC - np.log(np.exp(raised_RC).sum(axis=1, keepdims=True)))
