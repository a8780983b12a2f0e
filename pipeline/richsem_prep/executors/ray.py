"""Shards on Ray: one actor a device, bounded work in flight, lost workers replaced."""

import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from richsem_prep.executors.counters import COUNTERS, Counters
from richsem_prep.executors.dispatch import START_SECONDS, Crew, Dispatch
from richsem_prep.executors.failures import POLL_SECONDS, first_line
from richsem_prep.executors.ray_worker import RayWorker
from richsem_prep.shard.progress import Failure, OnProgress, ShardOutcome
from richsem_prep.teacher.worker_settings import WorkerDescription, WorkerSettings
from richsem_schemas.cache.layout import CacheLayout
from richsem_schemas.cache.text_bank import TextBank
from richsem_schemas.errors import RichSemError
from richsem_schemas.io.ordered_map import MAX_THREADS
from richsem_schemas.io.places import Place
from richsem_schemas.vocabularies.vocabulary import Vocabulary

_OBJECT_STORE_BYTES = 100 * 2**20
"""Receipts are all that travels, so Ray's shared memory stays at about its minimum."""

_CONNECT_SECONDS = 10.0

_INIT_SECONDS = 90.0
"""How long Ray may take to start here, or to be joined; its own waits end after a minute, where they end."""

_WORKERS_A_GPU = 2
"""One keeps the device busy while the other begins or ends a shard, and each has a Python lock of its own."""

_LOCAL_TOKEN = secrets.token_hex(32)
"""Fresh for each process; Ray reads it once, so a second local run in the same process has the same."""


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


class _Begun:
    """A call under way that may never return.

    Ray doesn't always notice that one of its processes was killed while it started, and a wait in its C++ can't be
    interrupted. So the call has a thread of its own, which lives on until `release`: Ray's processes die with it.
    """

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._raised: list[Exception] = []
        self._returned, self._released = threading.Event(), threading.Event()
        threading.Thread(target=self._guarded, name="ray-init", daemon=True).start()

    def _guarded(self) -> None:
        try:
            self._call()
        except Exception as error:
            self._raised.append(error)
        self._returned.set()
        self._released.wait()

    def error_within(self, seconds: float) -> Exception | None:
        """Wait for the call; what it raised, or a `TimeoutError` where it takes longer."""
        if not self._returned.wait(seconds):
            return TimeoutError(f"nothing for {seconds:.0f} s; one of its processes was killed, or the machine is busy")
        return self._raised[0] if self._raised else None

    @property
    def is_released(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._released.is_set()

    def release(self) -> None:
        """Let the thread end."""
        self._released.set()


class RayExecutor:
    """Workers as Ray actors, on this machine or a cluster; Ray and the first worker start at once, in the background.

    Args:
        settings: of each worker.
        workers: how many; None is two a GPU, one where its memory is too small for two, or one a core where there are
            no GPUs.
        address: of a running cluster; None starts one here, for this run alone.

    Raises:
        RichSemError: there is no such cluster, or no token for it.
    """

    def __init__(self, settings: WorkerSettings, *, workers: int | None, address: str | None) -> None:
        _before_ray_starts(address)
        if address is not None:
            _require_answer(address)
        import ray  # noqa: PLC0415 - after its environment is set

        self._ray = ray
        self._settings, self._asked, self._address = settings, workers, address
        self.workers = 1
        self._share = 1
        self._cpus, self._gpus = 1.0, 0.0
        self._descriptions: dict[Any, Any] = {}
        # Ray would say that it can set no handler from a thread, so its handler is set here.
        logging.getLogger("ray").setLevel(logging.ERROR)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
        self._begun = _Begun(self._begin)

    def _begin(self) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
        if self._address is None:
            options |= {
                "address": "local",
                "include_dashboard": False,
                "object_store_memory": _OBJECT_STORE_BYTES,
                "_node_ip_address": "127.0.0.1",
            }
        else:
            options["address"] = self._address
        self._ray.init(**options)
        resources = self._ray.cluster_resources()
        self._cpus = resources.get("CPU", 1.0)
        self._gpus = 0.0 if self._settings.device == "cpu" else resources.get("GPU", 0.0)
        self._share_out(self._asked or int(_WORKERS_A_GPU * self._gpus or self._cpus))
        self.hire()

    def _share_out(self, workers: int) -> None:
        """Decide what of cores and GPUs each of so many workers gets."""
        self._share = max(1, workers)
        threads = max(1, min(int(self._cpus // self._share), MAX_THREADS))
        self._settings = replace(self._settings, decode_threads=threads)

    def start(self, shards: int) -> None:
        """Wait for Ray, and start as many workers as so many shards can use.

        Raises:
            RichSemError: the cluster can't be reached or started.
        """
        if error := self._begun.error_within(_INIT_SECONDS):
            self._begun.release()
            address = self._address
            where = f"--ray-address {address}: the cluster can't be joined" if address else "Ray can't start here"
            raise RichSemError(
                f"{where}: {first_line(error)}; run the same command again, or with --executor inline, which works "
                "without Ray"
            ) from error
        if self._gpus and not self._asked and not self.describe().has_room_beside:
            self._share_out(int(self._gpus))
        self.workers = max(1, min(self._share, shards))
        for _ in range(self.workers - len(self._descriptions)):
            self.hire()

    def hire(self) -> Any:
        """A new actor, which begins to start."""
        # Half a core at most is reserved, so that two workers on two cores leave Ray room to breathe.
        options: dict[str, Any] = {
            "num_cpus": min(0.5, self._cpus / (2 * self._share)),
            "scheduling_strategy": "SPREAD",
            # Counters are answered beside the work, which itself stays one call after the other.
            "concurrency_groups": {COUNTERS: 1},
        }
        if self._gpus:
            options["num_gpus"] = min(1.0, int(10_000 * self._gpus / self._share) / 10_000)
        actor = self._ray.remote(**options)(RayWorker).remote()
        self._descriptions[actor] = actor.start.remote(self._settings)
        return actor

    def dismiss(self, actor: Any) -> None:
        """End an actor, whether it still lives or not, so that what it holds is free."""
        self._descriptions.pop(actor, None)
        self._ray.kill(actor)

    def describe(self) -> WorkerDescription:
        """What the first worker that has started is.

        Raises:
            RichSemError: none could start.
        """
        ready, _ = self._ray.wait(list(self._descriptions.values()), timeout=START_SECONDS)
        if not ready:
            raise RichSemError(f"no worker could start within {START_SECONDS:.0f} s; is there room in the cluster?")
        return self._value(ready[0])

    def _value(self, reference: Any) -> Any:
        try:
            value = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            raise RichSemError(f"a worker was lost: {first_line(error)}") from error
        if isinstance(value, Failure):
            raise RichSemError(value.message)
        return value

    def text_bank(self, vocabulary: Vocabulary, names: str, on_progress: OnProgress) -> TextBank:
        """Have the first worker that has started make the text bank."""
        started, _ = self._ray.wait(list(self._descriptions.values()))
        first = next(actor for actor, described in self._descriptions.items() if described == started[0])
        bank = first.text_bank.remote(vocabulary, names)
        counters = Counters(self._ray, on_progress)
        while not self._ray.wait([bank], timeout=POLL_SECONDS)[0]:
            counters.poll([first])
        counters.last()
        return self._value(bank)

    def run(
        self, shards: Sequence[int], layout: CacheLayout, label_set: str, root: Place | None, on_progress: OnProgress
    ) -> Iterator[ShardOutcome]:
        """Make shards, one a worker at a time; a lost worker is replaced and its shard tried again."""
        counters = Counters(self._ray, on_progress)
        crew = Crew(self.hire, lambda actor: actor.open.remote(layout, label_set, root), self.dismiss)
        yield from Dispatch(self._ray, list(self._descriptions), crew, counters).run(shards)
        counters.last()

    def close(self) -> None:
        """Stop the workers, and Ray where this run started it."""
        if not self._begun.is_released and self._begun.error_within(_INIT_SECONDS) is None:
            for actor in list(self._descriptions):
                self.dismiss(actor)
            self._ray.shutdown()
        self._begun.release()
