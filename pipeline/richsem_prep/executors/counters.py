"""What a run has done so far, from the counters of workers that may be lost."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from richsem_prep.executors.failures import POLL_SECONDS
from richsem_prep.shard.progress import OnProgress, Progress, ShardResult

COUNTERS = "counters"
"""The actors' group of calls that are answered beside the work."""

_ASKED_AT_ONCE = 16
"""Workers asked at a time, in turn, so that two hundred of them cost the driver no more than sixteen."""


class Counters:
    """The sum of all workers' counters; of those of a lost worker, the shards that it has finished.

    Args:
        ray: the module, or what answers as it does.
        on_progress: told of the sum twice a second.
        clock: seconds that only ever grow.
    """

    def __init__(self, ray: Any, on_progress: OnProgress, clock: Callable[[], float] = time.monotonic) -> None:
        self._ray, self._on_progress, self._clock = ray, on_progress, clock
        self._latest: dict[Any, Progress] = {}
        self._finished: dict[Any, Progress] = {}
        self._of_the_lost = Progress()
        self._asked: dict[Any, Any] = {}
        self._turn = 0
        self._next = 0.0

    def poll(self, actors: Sequence[Any]) -> None:
        """Take in answers that have come, ask again, report; where it isn't time yet, do nothing."""
        if self._clock() < self._next:
            return
        self._next = self._clock() + POLL_SECONDS
        self._take_in_answers()
        for actor in self._next_ones(actors):
            if actor not in self._asked.values():
                self._asked[actor.progress.options(concurrency_group=COUNTERS).remote()] = actor
        self._report()

    def last(self) -> None:
        """Report what is known in the end, without waiting for anybody."""
        self._take_in_answers()
        self._report()

    def count(self, actor: Any, result: ShardResult) -> None:
        """A worker has finished a shard."""
        summary = result.receipt.summary
        done = Progress(summary.samples + result.quarantined, summary.views, result.quarantined)
        self._finished[actor] = _sum([self._finished.get(actor, Progress()), done])

    def forget(self, actor: Any) -> None:
        """A worker is lost: what it has finished counts, what it had begun doesn't."""
        self._latest.pop(actor, None)
        self._of_the_lost = _sum([self._of_the_lost, self._finished.pop(actor, Progress())])

    def _next_ones(self, actors: Sequence[Any]) -> Sequence[Any]:
        if len(actors) <= _ASKED_AT_ONCE:
            return actors
        begin = self._turn % len(actors)
        self._turn = begin + _ASKED_AT_ONCE
        return [*actors[begin : begin + _ASKED_AT_ONCE], *actors[: max(0, begin + _ASKED_AT_ONCE - len(actors))]]

    def _take_in_answers(self) -> None:
        if not self._asked:
            return
        answered, _ = self._ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0)
        for reference in answered:
            actor = self._asked.pop(reference)
            try:
                answer = self._ray.get(reference)
            except self._ray.exceptions.RayError:
                continue
            if answer is not None:
                self._latest[actor] = answer

    def _report(self) -> None:
        at_work = {**self._finished, **self._latest}
        # What a worker said last may be older than the shard that it has finished since.
        shown = [max(at_work[actor], self._finished.get(actor, at_work[actor]), key=_samples) for actor in at_work]
        if shown or self._of_the_lost.samples:
            self._on_progress(_sum([self._of_the_lost, *shown]))


def _samples(counters: Progress) -> int:
    return counters.samples


def _sum(counters: Sequence[Progress]) -> Progress:
    return Progress(
        sum(each.samples for each in counters),
        sum(each.views for each in counters),
        sum(each.quarantined for each in counters),
        sum(each.text_classes for each in counters),
    )
