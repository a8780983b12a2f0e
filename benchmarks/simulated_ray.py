"""A stand-in for the module `ray`: actors that take time and die, on a clock of their own, in one process.

The driver of `richsem-prep shard` runs on it as it is. What Ray itself costs isn't in it.
"""

import heapq
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np


class RayError(Exception):
    """As Ray has it."""


class RayActorError(RayError):
    """An actor was lost."""


class Work(Protocol):
    """What actors would do; takes no time of the simulation."""

    def describe(self) -> Any:
        """The answer of a worker that has started."""

    def text_bank(self, vocabulary: Any, names: str) -> Any:
        """The text of a vocabulary."""

    def make(self, shard: int) -> Any:
        """The result of a finished shard."""


@dataclass(frozen=True)
class Fate:
    """How long things take, and when actors die; all seconds are simulated.

    Attributes:
        shard_seconds: median of a shard; log-normal, sigma 0.3.
        start_seconds: of a worker.
        shards_to_live: mean number of shards that an actor makes before it is lost in the next; None is for ever.
        lost_at_start: share of actors that are lost before they are ready.
        poisoned: shards that end every worker that makes them.
        room: from when to when an actor that is hired at some time waits for a place; inf where there is none.
    """

    shard_seconds: float = 60.0
    start_seconds: float = 15.0
    shards_to_live: float | None = None
    lost_at_start: float = 0.0
    poisoned: frozenset[int] = frozenset()
    room: Callable[[float], float] = field(default=lambda now: now)


@dataclass(eq=False)
class Reference:
    """The answer of a call, or the error, from a time on."""

    at: float
    value: Any = None
    error: RayError | None = None


class SimulatedRay:
    """The part of Ray's interface that the driver uses.

    Attributes:
        now: simulated seconds.
        begun: calls that began to make a shard, by shard.
        losses: actors lost in a shard, by shard.
        lost_at_start: actors lost before they were ready.
        busy_seconds: simulated, of all workers in shards.
        hired: actors in all.
        waits: calls of `wait`; `awaited`: references that were handed to them.
        asked: calls for counters.
        spent: processor seconds that the simulation itself takes.
    """

    exceptions = SimpleNamespace(RayError=RayError, RayActorError=RayActorError)

    def __init__(self, work: Work, fate: Fate, *, workers: int, rng: np.random.Generator) -> None:
        self.work, self.fate, self.rng = work, fate, rng
        self.now = 0.0
        self.begun: Counter[int] = Counter()
        self.losses: Counter[int] = Counter()
        self.lost_at_start = self.hired = self.waits = self.awaited = 0
        self.asked = 0
        self.busy_seconds = self.spent = 0.0
        self.living: set[SimulatedActor] = set()
        self._workers = workers

    def init(self, **_: Any) -> None:
        """Nothing has to start."""

    def shutdown(self) -> None:
        """Nothing has to end."""

    def cluster_resources(self) -> dict[str, float]:
        """A core for each worker."""
        return {"CPU": float(self._workers)}

    def remote(self, **_: Any) -> Callable[[type], Any]:
        """Makes actors, whatever their class."""
        return lambda _: SimpleNamespace(remote=lambda: SimulatedActor(self))

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    def kill(self, actor: "SimulatedActor") -> None:
        """End an actor; what it was doing isn't done."""
        self.living.discard(actor)

    def get(self, reference: Reference) -> Any:
        """The answer of a call that has ended."""
        if reference.error is not None:
            raise reference.error
        return reference.value() if callable(reference.value) else reference.value

    def wait(
        self, references: Sequence[Reference], *, num_returns: int = 1, timeout: float | None = None
    ) -> tuple[list[Reference], list[Reference]]:
        """Let time pass until so many calls have ended, or the time is over; which haven't isn't told."""
        begun = time.process_time()
        self.waits += 1
        self.awaited += len(references)
        last = heapq.nsmallest(num_returns, (reference.at for reference in references))[-1]
        end = self.now + (math.inf if timeout is None else timeout)
        self.now = max(self.now, min(last, end))
        ended = sorted((each for each in references if each.at <= self.now), key=lambda each: each.at)[:num_returns]
        self.spent += time.process_time() - begun
        return ended, []


class SimulatedActor:
    """An actor, whose calls come one after the other; its fate is drawn when it is made."""

    def __init__(self, ray: SimulatedRay) -> None:
        fate, rng = ray.fate, ray.rng
        self._ray = ray
        self._free_at = fate.room(ray.now) + fate.start_seconds
        self._shards_left = math.inf if fate.shards_to_live is None else int(rng.geometric(1 / fate.shards_to_live))
        self._dies_at_start = rng.random() < fate.lost_at_start
        self._lost = False
        ray.hired += 1
        ray.living.add(self)
        self.start, self.open = _Method(self._start), _Method(self._open)
        self.text_bank, self.run, self.progress = _Method(self._text_bank), _Method(self._run), _Method(self._progress)

    def _start(self, *_: Any) -> Reference:
        return self._dies() if self._dies_at_start else Reference(self._free_at, self._ray.work.describe())

    def _open(self, *_: Any) -> Reference:
        if not self._dies_at_start:
            return Reference(max(self._ray.now, self._free_at))
        self._ray.lost_at_start += 1
        return self._dies()

    def _text_bank(self, *arguments: Any) -> Reference:
        return Reference(max(self._ray.now, self._free_at), self._ray.work.text_bank(*arguments))

    def _run(self, shard: int) -> Reference:
        ray, begun = self._ray, time.process_time()
        assert not self._lost, "a lost worker was given a shard"
        assert self._free_at <= ray.now, "a worker that isn't ready was given a shard"
        ray.begun[shard] += 1
        seconds = ray.fate.shard_seconds * float(np.exp(ray.rng.normal(0, 0.3)))
        self._shards_left -= 1
        is_lost = self._shards_left < 0 or shard in ray.fate.poisoned
        seconds *= ray.rng.random() if is_lost else 1.0
        ray.busy_seconds += seconds
        self._free_at = ray.now + seconds
        ray.spent += time.process_time() - begun
        if is_lost:
            ray.losses[shard] += 1
            return self._dies()
        return Reference(self._free_at, lambda: ray.work.make(shard))

    def _progress(self) -> Reference:
        self._ray.asked += 1
        return Reference(self._ray.now, error=RayActorError("lost") if self._lost else None)

    def _dies(self) -> Reference:
        self._lost = True
        return Reference(max(self._ray.now, self._free_at), error=RayActorError("The actor died"))


class _Method:
    """A method of an actor, as it is called on a handle."""

    def __init__(self, call: Callable[..., Reference]) -> None:
        self.remote = call

    def options(self, **_: Any) -> "_Method":
        return self
