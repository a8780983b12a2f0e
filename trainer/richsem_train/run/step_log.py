"""What is said and kept of the steps of a run: a line every few, the bar, and what was replaced."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from richsem_train.console import Reporter, step_note
from richsem_train.data.loaders import LoadedStep
from richsem_train.data.order import DataKind
from richsem_train.results.class_aps import ClassAps
from richsem_train.run.log import RunLogWriter
from richsem_train.run.step_result import StepResult


class StepLog:
    """Tells the reporter of each step, and the log of every few and of the last one.

    What a step did is known some time after it was launched. All ranks have one of these, since figures are averaged
    over them, in a message that the ranks exchange for other reasons; the first alone has a writer.
    """

    def __init__(
        self, writer: RunLogWriter | None, reporter: Reporter, *, world_size: int, every_steps: int, total_steps: int
    ) -> None:
        self._writer = writer
        self._reporter = reporter
        self._world_size = world_size
        self._every_steps = every_steps
        self._total_steps = total_steps
        self._damaged = 0
        self._boxes, self._boxes_without_label = 0, 0
        self._clock = _StepClock()
        self._in_flight: _Launched | None = None
        self._unwritten: list[_Line] = []
        self._note = ""

    def begin(self, taken: int) -> None:
        """Steps are about to be taken, the first or those after an evaluation; `taken` of them are."""
        self._reporter.begin("training", self._total_steps, taken)
        self._clock = _StepClock()

    def launched(self, loaded: LoadedStep, epoch: int) -> None:
        """A step was launched; what the one before did has been told."""
        assert self._in_flight is None, "one step at a time"
        self._clock.count(loaded.wait_seconds)
        self._count_labels(loaded)
        self._in_flight = _Launched(loaded.step + 1, epoch, loaded.kind)

    def has_line(self, taken: int) -> bool:
        """Whether the step with which so many are taken has a line of its own."""
        return taken % self._every_steps == 0 or taken == self._total_steps

    def show(self, taken: int) -> None:
        """Move the bar; beside it stands what is known of the last steps."""
        self._reporter.move(taken, self._note)

    def did(self, result: StepResult | None) -> None:
        """What the step that was launched last did; None where none was."""
        launched, self._in_flight = self._in_flight, None
        if result is None or launched is None:
            return
        seconds, wait_share = self._clock.seconds, self._clock.wait_share
        self._note = step_note(result.loss, result.losses, result.lr, seconds, wait_share)
        if self.has_line(launched.taken):
            boxes = [self._boxes_without_label, self._boxes]
            self._unwritten.append(_Line(launched, result, boxes, seconds=seconds, data_wait=wait_share))

    def to_sum(self) -> list[float]:
        """Figures of the lines that aren't written yet, to be summed over the ranks; as many on each of them."""
        return [figure for line in self._unwritten for figure in line.to_sum()]

    def write(self, sums: Sequence[float]) -> None:
        """Write these lines; `sums` are those of `to_sum`."""
        for line in self._unwritten:
            ours, sums = sums[: len(line.to_sum())], sums[len(line.to_sum()) :]
            if self._writer is not None:
                self._writer.write("train", line.launched.taken, line.values(ours, self._world_size))
        self._unwritten.clear()

    def write_damage(self, taken: int, messages: Sequence[str]) -> None:
        """Pictures or views were replaced, on whichever rank."""
        for message in messages:
            self._damaged += 1
            self._reporter.say(f"replaced ({self._damaged} since the start): {message}")
            if self._writer is not None:
                self._writer.write("damage", taken, {"message": message})

    def write_class_aps(self, aps: ClassAps) -> None:
        """The APs of the classes when the detector was scored."""
        if self._writer is not None:
            self._writer.write("classes", aps.step, aps.as_record())

    def write_evaluation(self, taken: int, metrics: dict[str, float]) -> None:
        """The detector was scored after so many steps."""
        if self._writer is not None:
            self._writer.write("eval", taken, metrics)

    def _count_labels(self, loaded: LoadedStep) -> None:
        """How many boxes of detection pictures could have borrowed a soft label, and how many found none."""
        # Boxes of extra data have the labels that came with them.
        if loaded.kind != "detection":
            return
        for target in loaded.batch.targets:
            if target.soft_labels is not None:
                self._boxes += len(target.labels)
                if target.soft_labels.is_known is not None:
                    self._boxes_without_label += int((~target.soft_labels.is_known).sum())


@dataclass(frozen=True)
class _Launched:
    """A step, once its pictures are let go."""

    taken: int
    epoch: int
    kind: DataKind


@dataclass(frozen=True, eq=False)
class _Line:
    """A line of the log; `boxes` are those without a soft label, and all, since this process began."""

    launched: _Launched
    result: StepResult
    boxes: Sequence[int]
    seconds: float
    data_wait: float

    def to_sum(self) -> list[float]:
        return [*self.result.losses.values(), *self.boxes]

    def values(self, sums: Sequence[float], ranks: int) -> dict[str, Any]:
        *losses, missing, boxes = sums
        means = {name: total / ranks for name, total in zip(self.result.losses, losses, strict=True)}
        return {
            "epoch": self.launched.epoch,
            "data": self.launched.kind,
            "loss": sum(means.values()),
            "losses": means,
            "grad_norm": self.result.grad_norm,
            "lr": self.result.lr,
            "seconds": self.seconds,
            "data_wait": self.data_wait,
            "without_soft_label": missing / max(boxes, 1.0),
        }


class _StepClock:
    """Seconds a step, and the share of them that it waited for data; the first step, which warms up, counts little."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self.seconds = 0.0
        self._wait = 0.0

    def count(self, wait_seconds: float) -> None:
        now = time.perf_counter()
        elapsed, self._last = now - self._last, now
        # A running mean over about twenty steps.
        rate = 0.05 if self.seconds else 1.0
        self.seconds += rate * (elapsed - self.seconds)
        self._wait += rate * (wait_seconds - self._wait)

    @property
    def wait_share(self) -> float:
        """0 to 1."""
        return min(self._wait / max(self.seconds, 1e-9), 1.0)
