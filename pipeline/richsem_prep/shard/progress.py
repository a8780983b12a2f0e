"""Counters and outcomes of a run, and who is told of them; needs neither torch nor Ray."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from richsem_schemas.cache.manifest import LabelsReceipt


@dataclass
class Progress:
    """Counters, which only ever grow.

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


@dataclass(frozen=True)
class ShardResult:
    """Counts and seconds of a finished shard, for the summary.

    Attributes:
        quarantined: samples left out.
        picture_bytes: bytes of the pictures' tar.
        seconds: by stage, thread-seconds for those in threads.
    """

    receipt: LabelsReceipt
    quarantined: int
    picture_bytes: int
    seconds: dict[str, float]


@dataclass(frozen=True)
class Failure:
    """A call to a worker that went wrong.

    Attributes:
        fatal: it would go wrong for every shard, so the run ends.
        lasting: it would go wrong again for the same shard, which isn't tried again.
    """

    message: str
    fatal: bool
    lasting: bool = False


@dataclass(frozen=True)
class ShardOutcome:
    """A shard that is done with: made, or given up."""

    shard: int
    result: ShardResult | None
    failure: Failure | None


OnProgress = Callable[[Progress], None]


class Reporter(Protocol):
    """Where a run says what it does."""

    def say(self, message: str) -> None:
        """One line that stays."""

    def stage(self, name: str, total: int | None, unit: str) -> OnProgress:
        """Begin a stage with a progress bar; returns what the counters are reported to."""

    def shard_done(self, outcome: ShardOutcome) -> None:
        """A shard was made or given up."""
