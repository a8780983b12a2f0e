"""Counters of the work in hand, for whoever watches."""

from dataclasses import dataclass


@dataclass
class Progress:
    """Only ever grow.

    Attributes:
        samples: listed, or through the teacher or in quarantine.
        views: through the teacher.
        quarantined: samples set aside.
        text_classes: rows of the text bank done.
    """

    samples: int = 0
    views: int = 0
    quarantined: int = 0
    text_classes: int = 0
