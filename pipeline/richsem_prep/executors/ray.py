"""Shards on Ray: one actor a device, bounded work in flight, lost workers replaced."""

import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from richsem_prep.executors.failures import ATTEMPTS, POLL_SECONDS, failure_of
from richsem_prep.shard.progress import Failure, OnProgress, Progress, ShardOutcome, ShardResult
from richsem_prep.teacher.worker_settings import WorkerDescription, WorkerSettings
from richsem_schemas.cache.layout import CacheLayout
from richsem_schemas.cache.text_bank import TextBank
from richsem_schemas.errors import RichSemError
from richsem_schemas.io.ordered_map import MAX_THREADS
from richsem_schemas.io.places import Place
from richsem_schemas.vocabularies.vocabulary import Vocabulary

if TYPE_CHECKING:
    from richsem_prep.executors.worker import Worker

_OBJECT_STORE_BYTES = 100 * 2**20
"""Receipts are all that travels, so Ray's shared memory stays at about its minimum."""

_START_SECONDS = 600.0
"""How long a worker may wait for a place in the cluster."""

_CONNECT_SECONDS = 10.0

_INIT_SECONDS = 90.0
"""How long Ray may take to start here, or to be joined; its own waits end after a minute, where they end."""

_WORKERS_A_GPU = 2
"""One keeps the device busy while the other begins or ends a shard, and each has a Python lock of its own."""

_COUNTERS = "counters"

_LOCAL_TOKEN = secrets.token_hex(32)
"""Fresh for each process; Ray reads it once, so a second local run in the same process has the same."""

_LOST = Failure("its worker was lost (killed, or out of memory)", fatal=False)


def _before_ray_starts(address: str | None) -> None:
    """Ray reads these when it is imported or started: no usage reports, no colours, and a token always."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ["RAY_AUTH_MODE"] = "token"
    if address is None:
        os.environ["RAY_AUTH_TOKEN"] = _LOCAL_TOKEN
        # Ray would end this process, without a word of ours, before `_INIT_SECONDS` are over.
        os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", str(int(2 * _INIT_SECONDS)))
    elif not (
        os.environ.get("RAY_AUTH_TOKEN")
        or os.environ.get("RAY_AUTH_TOKEN_PATH")
        or (Path.home() / ".ray" / "auth_token").is_file()
    ):
        raise RichSemError(
            f"--ray-address {address}: no token to join the cluster with. Set RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) "
            "to the token that the cluster was started with; see docs/clusters.md"
        )


def _require_answer(address: str) -> None:
    """Ray would wait for minutes for a cluster that isn't there."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise RichSemError(f"--ray-address {address}: nothing answers there ({error}); is the cluster up?") from error


def _within(seconds: float, call: Callable[[], object], until: threading.Event) -> Exception | None:
    """Make a call that may never return; what it raised, or a `TimeoutError` where it took longer.

    Ray doesn't always notice that one of its processes was killed while it started, and a wait in its C++ can't be
    interrupted. So the call has a thread of its own, which lives on until the event: Ray's processes die with it.
    """
    raised: list[Exception] = []
    returned = threading.Event()

    def guarded() -> None:
        try:
            call()
        except Exception as error:
            raised.append(error)
        returned.set()
        until.wait()

    # Ray would say that it can set no handler from a thread, so its handler is set here.
    logging.getLogger("ray").setLevel(logging.ERROR)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
    threading.Thread(target=guarded, name="ray-init", daemon=True).start()
    if not returned.wait(seconds):
        return TimeoutError(f"nothing for {seconds:.0f} s; one of its processes was killed, or the machine is busy")
    return raised[0] if raised else None


class RayWorker:
    """The object of an actor: a `Worker` whose mistakes come back as values."""

    def __init__(self) -> None:
        self._worker: Worker | None = None
        self._not_started = Failure("the worker was asked to work before it was started", fatal=False)

    def start(self, settings: WorkerSettings) -> WorkerDescription | Failure:
        """Load the teacher."""
        from richsem_prep.executors.worker import Worker  # noqa: PLC0415 - the driver needs no torch

        def load() -> WorkerDescription:
            self._worker = Worker(settings)
            return self._worker.describe()

        described = _as_value(load)
        if isinstance(described, Failure):
            self._not_started = described
        return described

    def text_bank(self, vocabulary: Vocabulary, names: str) -> TextBank | Failure:
        """Make the text bank."""
        assert self._worker is not None
        return _as_value(lambda: self._worker.text_bank(vocabulary, names))  # type: ignore[union-attr, arg-type]

    def open(self, layout: CacheLayout, label_set: str, root: Place | None) -> Failure | None:
        """Get ready for a label set."""
        if self._worker is None:
            return self._not_started
        return _as_value(lambda: self._worker.open(layout, label_set, root))  # type: ignore[union-attr]

    def run(self, shard: int) -> ShardResult | Failure:
        """Make one shard."""
        return _as_value(lambda: self._worker.run(shard))  # type: ignore[union-attr]

    def progress(self) -> Progress | None:
        """Counters, answered while a shard is being made."""
        return replace(self._worker.progress) if self._worker else None


def _as_value(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        return failure_of(error)


class RayExecutor:
    """Workers as Ray actors, on this machine or a cluster.

    Args:
        settings: of each worker.
        workers: how many; None is two a GPU, or one a core where there are none.
        address: of a running cluster; None starts one here, for this run alone.
        max_workers: never more than this, such as the shards to be made.

    Raises:
        RichSemError: the cluster can't be reached or started.
    """

    def __init__(self, settings: WorkerSettings, *, workers: int | None, address: str | None, max_workers: int) -> None:
        _before_ray_starts(address)
        import ray  # noqa: PLC0415 - after its environment is set

        self._ray = ray
        self._closed = threading.Event()
        self._connect(address)
        resources = ray.cluster_resources()
        self._cpus, self._gpus = resources.get("CPU", 1.0), resources.get("GPU", 0.0)
        if settings.device == "cpu":
            self._gpus = 0.0
        self.workers = max(1, min(workers or int(_WORKERS_A_GPU * self._gpus or self._cpus), max_workers))
        threads = max(1, min(int(self._cpus // self.workers), MAX_THREADS))
        self._settings = replace(settings, decode_threads=threads)
        self._actors: list[Any] = []

    def _connect(self, address: str | None) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
        if address is None:
            options |= {
                "address": "local",
                "include_dashboard": False,
                "object_store_memory": _OBJECT_STORE_BYTES,
                "_node_ip_address": "127.0.0.1",
            }
        else:
            _require_answer(address)
            options["address"] = address
        if error := _within(_INIT_SECONDS, lambda: self._ray.init(**options), self._closed):
            self._closed.set()
            where = f"--ray-address {address}: the cluster can't be joined" if address else "Ray can't start here"
            raise RichSemError(
                f"{where}: {_first_line(error)}; run the same command again, or with --executor inline, which works "
                "without Ray"
            ) from error

    def _new_actor(self) -> Any:
        # Half a core at most is reserved, so that two workers on two cores leave Ray room to breathe.
        options: dict[str, Any] = {
            "num_cpus": min(0.5, self._cpus / (2 * self.workers)),
            "scheduling_strategy": "SPREAD",
            # Counters are answered beside the work, which itself stays one call after the other.
            "concurrency_groups": {_COUNTERS: 1},
        }
        if self._gpus:
            options["num_gpus"] = min(1.0, int(10_000 * self._gpus / self.workers) / 10_000)
        return self._ray.remote(**options)(RayWorker).remote()

    def describe(self) -> WorkerDescription:
        """Start the workers; what the first of them is."""
        self._actors = [self._new_actor() for _ in range(self.workers)]
        started = [actor.start.remote(self._settings) for actor in self._actors]
        ready, _ = self._ray.wait(started, timeout=_START_SECONDS)
        if not ready:
            raise RichSemError(f"no worker could start within {_START_SECONDS:.0f} s; is there room in the cluster?")
        self._actors.insert(0, self._actors.pop(started.index(ready[0])))
        return self._value(ready[0])

    def _value(self, reference: Any) -> Any:
        try:
            value = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            raise RichSemError(f"a worker was lost: {_first_line(error)}") from error
        if isinstance(value, Failure):
            raise RichSemError(value.message)
        return value

    def text_bank(self, vocabulary: Vocabulary, names: str, on_progress: OnProgress) -> TextBank:
        """Have the first worker make the text bank."""
        bank = self._actors[0].text_bank.remote(vocabulary, names)
        counters = _Counters(self._ray, on_progress)
        while not self._ray.wait([bank], timeout=POLL_SECONDS)[0]:
            counters.poll(self._actors[:1])
        return self._value(bank)

    def run(
        self, shards: Sequence[int], layout: CacheLayout, label_set: str, root: Place | None, on_progress: OnProgress
    ) -> Iterator[ShardOutcome]:
        """Make shards, one a worker at a time; a lost worker is replaced and its shard tried again."""
        waiting = deque(shards)
        attempts: Counter[int] = Counter()
        idle = deque(self._actors)
        busy: dict[Any, tuple[Any, int]] = {}
        opened = {actor: actor.open.remote(layout, label_set, root) for actor in idle}
        counters = _Counters(self._ray, on_progress)
        while waiting or busy:
            while waiting and idle:
                actor, shard = idle.popleft(), waiting.popleft()
                attempts[shard] += 1
                busy[actor.run.remote(shard)] = (actor, shard)
            done, _ = self._ray.wait(list(busy), timeout=POLL_SECONDS)
            counters.poll([actor for actor, _ in busy.values()])
            for reference in done:
                actor, shard = busy.pop(reference)
                outcome = self._outcome(reference, opened.get(actor), shard)
                if outcome is None:
                    counters.forget(actor)
                    actor = self._replacement(actor)
                    opened[actor] = actor.open.remote(layout, label_set, root)
                    outcome = ShardOutcome(shard, None, _LOST)
                idle.append(actor)
                if outcome.failure and outcome.failure.fatal:
                    raise RichSemError(outcome.failure.message)
                if outcome.failure and not outcome.failure.lasting and attempts[shard] < ATTEMPTS:
                    waiting.append(shard)
                else:
                    yield outcome
        counters.poll(list(self._actors))

    def _replacement(self, lost: Any) -> Any:
        actor = self._new_actor()
        actor.start.remote(self._settings)
        self._actors[self._actors.index(lost)] = actor
        return actor

    def _outcome(self, reference: Any, opened: Any, shard: int) -> ShardOutcome | None:
        """The outcome of a finished call; None where its worker was lost."""
        try:
            if opened is not None and isinstance(failure := self._ray.get(opened), Failure):
                return ShardOutcome(shard, None, failure)
            value = self._ray.get(reference)
        except self._ray.exceptions.RayActorError:
            return None
        except self._ray.exceptions.RayError as error:
            return ShardOutcome(shard, None, Failure(_first_line(error), fatal=False))
        if isinstance(value, Failure):
            return ShardOutcome(shard, None, value)
        return ShardOutcome(shard, value, None)

    def close(self) -> None:
        """Stop the workers, and Ray where this run started it."""
        for actor in self._actors:
            self._ray.kill(actor)
        self._ray.shutdown()
        self._closed.set()


class _Counters:
    """The sum of all workers' counters, those of lost ones left out."""

    def __init__(self, ray: Any, on_progress: OnProgress) -> None:
        self._ray = ray
        self._on_progress = on_progress
        self._latest: dict[Any, Progress] = {}
        self._asked: dict[Any, Any] = {}
        self._next = 0.0

    def poll(self, actors: Sequence[Any]) -> None:
        """Take in answers that have come, ask again, report."""
        for actor, reference in list(self._asked.items()):
            if self._ray.wait([reference], timeout=0)[0]:
                del self._asked[actor]
                try:
                    answer = self._ray.get(reference)
                except self._ray.exceptions.RayError:
                    continue
                if answer is not None:
                    self._latest[actor] = answer
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + POLL_SECONDS
        for actor in actors:
            if actor not in self._asked:
                self._asked[actor] = actor.progress.options(concurrency_group=_COUNTERS).remote()
        if self._latest:
            self._on_progress(_sum(list(self._latest.values())))

    def forget(self, actor: Any) -> None:
        """A lost worker's unfinished work doesn't count."""
        self._latest.pop(actor, None)
        self._asked.pop(actor, None)


def _sum(counters: Sequence[Progress]) -> Progress:
    total = replace(counters[0])
    for other in counters[1:]:
        total.samples += other.samples
        total.views += other.views
        total.quarantined += other.quarantined
    return total


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
