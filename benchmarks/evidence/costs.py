"""From how many runs on a cache pays: what it took to make, against what it saves in each."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.evidence.arms import Arm
from benchmarks.evidence.questions import AGAINST_ONLINE
from benchmarks.evidence.results import Results
from benchmarks.evidence.statistics import FEWEST_PAIRS, Spread, spread_of

NEVER = math.inf


@dataclass(frozen=True)
class Saving:
    """What the cache of an arm takes and saves, in processor seconds.

    Attributes:
        online: the arm that asks the teacher in each step instead.
        preparation_s: of its label sets.
        step_s: mean seconds a step; `online_step_s` likewise.
        saved_s: seconds saved a run, seed by seed.
        label_bytes: what the labels take on a disk; `picture_bytes` likewise.
    """

    arm: Arm
    online: Arm
    preparation_s: float
    step_s: float
    online_step_s: float
    steps: int
    saved_s: Spread
    label_bytes: int
    picture_bytes: int

    @property
    def runs(self) -> float:
        """The fewest runs that the cache has taken less for in all; `NEVER` where it saves nothing."""
        return _runs(self.preparation_s, self.saved_s.mean)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The same at both ends of the 95% interval of what a run saves; None of too few seeds."""
        if self.saved_s.interval is None or len(self.saved_s.values) < FEWEST_PAIRS:
            return None
        least, most = self.saved_s.interval
        return _runs(self.preparation_s, most), _runs(self.preparation_s, least)

    @property
    def answer(self) -> str:
        """In words; nothing is claimed of fewer than three seeds, nor where the sign is within the noise."""
        if self.interval is None:
            return f"a trial, {_from_runs(self.runs)}"
        if self.interval[0] == NEVER:
            return "never, since a step costs no less"
        if self.interval[1] == NEVER:
            return f"undecided, {_from_runs(self.runs)} by the mean, but a step may cost no less"
        within = (
            "" if self.interval[0] == self.interval[1] else f" ({self.interval[0]:,.0f} to {self.interval[1]:,.0f})"
        )
        return f"{_from_runs(self.runs)}{within}"


def _runs(preparation: float, saved: float) -> float:
    return max(1, math.ceil(preparation / saved)) if saved > 0 else NEVER


def _from_runs(runs: float) -> str:
    if runs == NEVER:
        return "never"
    return "from the first run on" if runs == 1 else f"from {runs:,.0f} runs on"


def savings(arms: Sequence[Arm], results: Results) -> list[Saving]:
    """Of each cached arm against the online arm that its accuracy is held against, where both have run."""
    pairs = [pair for of_question in AGAINST_ONLINE for pair in of_question(arms)]
    return [saving for arm, online in pairs for saving in _saving(arm, online, results)]


def _saving(arm: Arm, online: Arm, results: Results) -> Iterator[Saving]:
    cached_steps, online_steps = results.step_seconds(arm), results.step_seconds(online)
    shared = sorted(cached_steps.keys() & online_steps.keys())
    preparation = results.preparation(arm)
    if not shared or preparation is None:
        return
    steps = results.of(arm)[shared[0]].steps
    saved = spread_of((online_steps[seed] - cached_steps[seed]) * steps for seed in shared)
    assert saved is not None
    yield Saving(
        arm,
        online,
        preparation_s=preparation.processor_s,
        step_s=math.fsum(cached_steps[seed] for seed in shared) / len(shared),
        online_step_s=math.fsum(online_steps[seed] for seed in shared) / len(shared),
        steps=steps,
        saved_s=saved,
        label_bytes=preparation.label_bytes,
        picture_bytes=preparation.picture_bytes,
    )
