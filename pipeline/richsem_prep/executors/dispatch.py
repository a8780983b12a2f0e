"""Shards dealt out to workers that come and go: who is ready, who makes which shard, what is tried again.

Everything that Ray does is asked of the module `ray` and of actors that are handed in.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from richsem_prep.executors.counters import Counters
from richsem_prep.executors.failures import ATTEMPTS, POLL_SECONDS, first_line
from richsem_prep.shard.progress import Failure, ShardOutcome
from richsem_schemas.errors import RichSemError

LOSSES = 10
"""Workers that a shard may lose before it counts as failed. More than `ATTEMPTS`: on machines that are taken away, each
tenth attempt may end so, and one shard in a thousand would be given up after three."""

START_SECONDS = 600.0
"""How long nobody may be at work, or ready for it."""

LONGEST_REST_SECONDS = 60.0
"""Between a worker that was lost before it was ready, and the next one; the first rest is a second."""

_LOST = Failure("its worker was lost (killed, or out of memory)", fatal=False)


@dataclass(frozen=True, eq=False)
class Crew:
    """How workers are taken on and let go.

    Attributes:
        hire: gives a new actor, which begins to start.
        open: the reference to the answer of an actor that has started and opened the cache: None, or a `Failure`.
        dismiss: ends an actor, whether it still lives or not, so that what it holds is free.
    """

    hire: Callable[[], Any]
    open: Callable[[Any], Any]
    dismiss: Callable[[Any], None]


@dataclass(frozen=True, eq=False)
class _Place:
    """A worker's place, which passes from one that is lost to the next.

    Attributes:
        failed_starts: in a row.
        free_at: when the next one may be taken on.
    """

    failed_starts: int = 0
    free_at: float = 0.0


class Dispatch:
    """One shard a worker at a time, and only for workers that are ready.

    A lost worker is replaced and its shard tried again. What can't start, such as on a node that is gone, holds no
    shard; where it is lost again and again, each rest is twice as long as the one before.

    Args:
        ray: the module, or what answers as it does.
        actors: that are at work already, or starting.
        crew: takes on and lets go.
        counters: told of what is done and who is lost.
        clock: seconds that only ever grow.
        sleep: lets seconds pass.
    """

    def __init__(
        self,
        ray: Any,
        actors: Sequence[Any],
        crew: Crew,
        counters: Counters,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._ray, self._crew, self._counters, self._clock, self._sleep = ray, crew, counters, clock, sleep
        self._workers = len(actors)
        self._idle: deque[Any] = deque()
        self._busy: dict[Any, tuple[Any, int]] = {}
        self._starting = {crew.open(actor): (actor, _Place()) for actor in actors}
        self._free: list[_Place] = []
        self._attempts: Counter[int] = Counter()
        self._losses: Counter[int] = Counter()
        self._failed_starts = 0
        self._last_sign = clock()
        self._last_failure = _LOST

    def run(self, shards: Sequence[int]) -> Iterator[ShardOutcome]:
        """Make shards; each outcome as it comes.

        Raises:
            RichSemError: something that would fail every shard, or no worker can start.
        """
        waiting = deque(shards)
        while waiting or self._busy:
            self._fill_free_places()
            while waiting and self._idle:
                actor, shard = self._idle.popleft(), waiting.popleft()
                self._busy[actor.run.remote(shard)] = (actor, shard)
            for reference in self._ended():
                if reference in self._starting:
                    self._take_in(reference)
                    continue
                outcome = self._outcome(reference)
                if self._is_tried_again(outcome):
                    waiting.append(outcome.shard)
                else:
                    yield outcome
            self._counters.poll([actor for actor, _ in self._busy.values()])
            self._require_workers()

    def _fill_free_places(self) -> None:
        now = self._clock()
        for place in [place for place in self._free if place.free_at <= now]:
            self._free.remove(place)
            actor = self._crew.hire()
            self._starting[self._crew.open(actor)] = (actor, place)

    def _ended(self) -> list[Any]:
        references = [*self._busy, *self._starting]
        if not references:
            self._sleep(POLL_SECONDS)
            return []
        return self._ray.wait(references, timeout=POLL_SECONDS)[0]

    def _take_in(self, reference: Any) -> None:
        """Let a worker that has started wait for its first shard; or take on another in its place."""
        actor, place = self._starting.pop(reference)
        failure = self._value(reference)
        if failure is None:
            self._idle.append(actor)
            self._failed_starts, self._last_sign = 0, self._clock()
            return
        if failure.fatal:
            raise RichSemError(failure.message)
        self._crew.dismiss(actor)
        self._failed_starts += 1
        self._last_failure = failure
        rest = min(2.0**place.failed_starts, LONGEST_REST_SECONDS)
        self._free.append(_Place(place.failed_starts + 1, self._clock() + rest))

    def _outcome(self, reference: Any) -> ShardOutcome:
        actor, shard = self._busy.pop(reference)
        value = self._value(reference)
        self._last_sign = self._clock()
        if value is _LOST:
            self._counters.forget(actor)
            self._crew.dismiss(actor)
            self._free.append(_Place())
        else:
            self._idle.append(actor)
        if isinstance(value, Failure):
            return ShardOutcome(shard, None, value)
        self._counters.count(actor, value)
        return ShardOutcome(shard, value, None)

    def _is_tried_again(self, outcome: ShardOutcome) -> bool:
        failure, shard = outcome.failure, outcome.shard
        if failure is None:
            return False
        if failure.fatal:
            raise RichSemError(failure.message)
        if failure is _LOST:
            self._losses[shard] += 1
            return self._losses[shard] < LOSSES
        self._attempts[shard] += 1
        return not failure.lasting and self._attempts[shard] < ATTEMPTS

    def _value(self, reference: Any) -> Any:
        """The answer of a finished call; `_LOST` where its worker was lost."""
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayActorError:
            return _LOST
        except self._ray.exceptions.RayError as error:
            return Failure(first_line(error), fatal=False)

    def _require_workers(self) -> None:
        """Check that somebody is at work, or may still come.

        Raises:
            RichSemError: nobody has been for too long, or all are lost as soon as they start.
        """
        if self._busy or self._idle:
            return
        if self._failed_starts >= ATTEMPTS * self._workers:
            raise RichSemError(
                f"workers can't start: of the last {self._failed_starts} none was ready for work; "
                f"{self._last_failure.message}"
            )
        if self._clock() - self._last_sign > START_SECONDS:
            raise RichSemError(
                f"all workers are gone, and no other could start within {START_SECONDS:.0f} s; is there room in the "
                "cluster? Finished shards are kept, the same command goes on from there"
            )
