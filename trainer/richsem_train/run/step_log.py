"""What is said and kept of the steps of a run: a line every few, the bar, and what was replaced."""

import time

from richsem_train.console import Reporter, step_note
from richsem_train.data.loaders import LoadedStep
from richsem_train.run.distributed import Ranks
from richsem_train.run.engine import StepResult, mean_over_ranks
from richsem_train.run.log import RunLogWriter


class StepLog:
    """Tells the reporter of each step, and the log of every few and of the last one.

    All ranks have one of these, since figures are averaged over them; the first alone has a writer.
    """

    def __init__(
        self, writer: RunLogWriter | None, reporter: Reporter, ranks: Ranks, *, every_steps: int, total_steps: int
    ) -> None:
        self._writer = writer
        self._reporter = reporter
        self._ranks = ranks
        self._every_steps = every_steps
        self._total_steps = total_steps
        self._damaged = 0
        self._coverage = _LabelCoverage()
        self._clock = _StepClock()

    def begin(self, taken: int) -> None:
        """Steps are about to be taken, the first or those after an evaluation; `taken` of them are."""
        self._reporter.begin("training", self._total_steps, taken)
        self._clock = _StepClock()

    def count(self, loaded: LoadedStep, result: StepResult, epoch: int) -> None:
        """A step was taken."""
        taken = loaded.step + 1
        self._clock.count(loaded.wait_seconds)
        self._count_damage(loaded)
        self._coverage.count(loaded)
        if taken % self._every_steps == 0 or taken == self._total_steps:
            self._write_step(taken, loaded, result, epoch)
        note = step_note(result.loss, result.losses, result.lr, self._clock.seconds, self._clock.wait_share)
        self._reporter.move(taken, note)

    def write_evaluation(self, taken: int, metrics: dict[str, float]) -> None:
        """The detector was scored after so many steps."""
        if self._writer is not None:
            self._writer.write("eval", taken, metrics)

    def _count_damage(self, loaded: LoadedStep) -> None:
        for message in self._ranks.messages(loaded.damage):
            self._damaged += 1
            self._reporter.say(f"replaced ({self._damaged} since the start): {message}")
            if self._writer is not None:
                self._writer.write("damage", loaded.step + 1, {"message": message})

    def _write_step(self, taken: int, loaded: LoadedStep, result: StepResult, epoch: int) -> None:
        # All ranks take part in the averages.
        losses = mean_over_ranks(result.losses, self._ranks)
        without_soft_label = self._coverage.missing_share(self._ranks)
        if self._writer is None:
            return
        self._writer.write(
            "train",
            taken,
            {
                "epoch": epoch,
                "data": loaded.kind,
                "loss": sum(losses.values()),
                "losses": losses,
                "grad_norm": result.grad_norm,
                "lr": result.lr,
                "seconds": self._clock.seconds,
                "data_wait": self._clock.wait_share,
                "without_soft_label": without_soft_label,
            },
        )


class _LabelCoverage:
    """How many boxes of detection pictures could have borrowed a soft label, and how many found none."""

    def __init__(self) -> None:
        self._boxes = 0
        self._missing = 0

    def count(self, loaded: LoadedStep) -> None:
        # Boxes of extra data have the labels that came with them.
        if loaded.kind != "detection":
            return
        for target in loaded.batch.targets:
            if target.soft_labels is not None:
                self._boxes += len(target.labels)
                if target.soft_labels.is_known is not None:
                    self._missing += int((~target.soft_labels.is_known).sum())

    def missing_share(self, ranks: Ranks) -> float:
        """Of these boxes, on all ranks since this process began, 0 to 1."""
        return ranks.sum_of(float(self._missing)) / max(ranks.sum_of(float(self._boxes)), 1.0)


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
