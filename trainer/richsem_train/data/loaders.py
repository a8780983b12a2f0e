"""Detection and extra batches in the order of the steps, each kind read by processes of its own."""

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from richsem_schemas.errors import RichSemError
from richsem_train.data.collate import Sample, collate
from richsem_train.data.detection import DetectionKey
from richsem_train.data.extra import ExtraDataset, ExtraMix
from richsem_train.data.order import DataKind, RankShare, first_batch_from, kind_of_step
from richsem_train.targets import Batch, Target, converted

_PR_SET_PDEATHSIG = 1

_GRACE_SECONDS = 30
"""How long a worker goes on after SIGTERM."""


class Feed(Protocol):
    """Data of one kind, and its order."""

    def batch_keys(self, number: int, share: RankShare) -> Sequence[Any]:
        """Keys of a rank's samples of a batch, by the batch's number over the whole run."""

    def __getitem__(self, key: Any) -> Sample:
        """The sample of a key."""


class DetectionFeed:
    """The detection data and its order: samples by (epoch, position in the epoch, picture), global batches an epoch.

    `epoch_indices` gives the pictures of an epoch in their order; at least `epoch_batches` whole batches of them.
    """

    def __init__(
        self, dataset: Dataset[Sample], epoch_indices: Callable[[int], NDArray[np.int64]], epoch_batches: int
    ) -> None:
        self.dataset = dataset
        self.epoch_batches = epoch_batches
        self._epoch_indices = epoch_indices
        self._listed: tuple[int, NDArray[np.int64]] | None = None

    def batch_keys(self, number: int, share: RankShare) -> list[DetectionKey]:
        """Keys of a rank's samples of a batch, by the batch's number over the whole run."""
        epoch, batch = divmod(number, self.epoch_batches)
        if self._listed is None or self._listed[0] != epoch:
            self._listed = epoch, self._epoch_indices(epoch)
        pictures = self._listed[1]
        return [(epoch, position, int(pictures[position])) for position in share.counters(batch)]

    def __getitem__(self, key: DetectionKey) -> Sample:
        return self.dataset[key]


@dataclass(frozen=True, eq=False)
class LoadedStep:
    """The batch of a step, and how it came.

    Attributes:
        step: counted over the whole run.
        kind: of the data.
        batch: this rank's share.
        damage: a message for each picture or view that couldn't be read and was replaced.
        wait_seconds: how long the step had to wait for its batch.
    """

    step: int
    kind: DataKind
    batch: Batch
    damage: tuple[str, ...]
    wait_seconds: float


class TrainingLoaders:
    """The batches of a run from any step on, the same ones at any number of ranks and workers.

    Without extra data all steps are detection's. Each kind of data is read by `workers` processes; 0 loads in this one.
    `extra_share` is of extra batches of another size than those of detection; None where they are of one.
    """

    def __init__(
        self,
        detection: DetectionFeed,
        extra: ExtraDataset | ExtraMix | None,
        *,
        share: RankShare,
        extra_share: RankShare | None = None,
        workers: int,
        pin_memory: bool = False,
    ) -> None:
        self._feeds: dict[DataKind, Feed] = {"detection": detection}
        if extra is not None:
            self._feeds["extra"] = extra
        self._shares: dict[DataKind, RankShare] = {"detection": share, "extra": extra_share or share}
        self._in_processes: dict[str, Any] = {}
        if workers:
            # Forked where that is safe: a new interpreter would import torch for seconds. Nothing of the cache is open
            # yet, and no GPU is touched there.
            context = "fork" if sys.platform == "linux" else "spawn"
            self._in_processes = {
                "num_workers": workers,
                "multiprocessing_context": context,
                "worker_init_fn": _begin_worker,
            }
        self._pin_memory = pin_memory

    def batches(self, start_step: int, end_step: int) -> Iterator[LoadedStep]:
        """The batches of steps `start_step` to `end_step - 1`; the processes live until the last one, or `close()`.

        Raises:
            RichSemError: a picture or a view can't be read and must not be replaced.
        """
        has_extra = "extra" in self._feeds
        streams = {kind: iter(self._loader(kind, start_step, end_step)) for kind in self._feeds}
        try:
            for step in range(start_step, end_step):
                kind = kind_of_step(step, has_extra=has_extra)
                begun = time.perf_counter()
                packed = next(streams[kind])
                if isinstance(packed, _Failure):
                    raise packed.error
                yield LoadedStep(step, kind, packed.batch(), packed.damage, time.perf_counter() - begun)
        finally:
            # Iterators end their worker processes when nobody holds them any more.
            streams.clear()

    def _loader(self, kind: DataKind, start_step: int, end_step: int) -> DataLoader[Any]:
        first, end = (first_batch_from(step, kind, has_extra="extra" in self._feeds) for step in (start_step, end_step))
        return DataLoader(
            _Guarded(self._feeds[kind]),
            batch_sampler=BatchKeys(self._feeds[kind], self._shares[kind], range(first, end)),
            collate_fn=_packed,
            pin_memory=self._pin_memory,
            **self._in_processes,
        )


class BatchKeys(Sampler[list[Any]]):
    """Keys of the rank's samples of consecutive batches."""

    def __init__(self, feed: Feed, share: RankShare, numbers: range) -> None:
        self._feed = feed
        self._share = share
        self._numbers = numbers

    def __len__(self) -> int:
        """How many batches."""
        return len(self._numbers)

    def __iter__(self) -> Iterator[list[Any]]:
        for number in self._numbers:
            yield list(self._feed.batch_keys(number, self._share))


@dataclass(frozen=True)
class _Failure:
    """A user's mistake or a broken input, on its way from a worker.

    Raised in the training process, without the worker's traceback, which would bury what it says.
    """

    error: RichSemError


class _Guarded(Dataset["Sample | _Failure"]):
    """Samples whose failures are values."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def __getitem__(self, key: Any) -> "Sample | _Failure":
        try:
            return self._feed[key]
        except RichSemError as error:
            return _Failure(error)


@dataclass(frozen=True, eq=False)
class _PackedBatch:
    """A batch on its way between processes.

    The pictures go through shared memory. The many small tensors of the targets would take a file descriptor each, so
    they travel as arrays.
    """

    pictures: Batch
    targets: tuple[Target, ...]
    damage: tuple[str, ...]

    def pin_memory(self) -> "_PackedBatch":
        return replace(self, pictures=self.pictures.pin_memory())

    def batch(self) -> Batch:
        return replace(self.pictures, targets=tuple(converted(target, torch.from_numpy) for target in self.targets))


def _packed(items: "Sequence[Sample | _Failure]") -> _PackedBatch | _Failure:
    samples: list[Sample] = []
    for item in items:
        if isinstance(item, _Failure):
            return item
        samples.append(item)
    batch = collate(samples)
    damage = tuple(message for sample in samples for message in sample.damage)
    targets = tuple(converted(target, Tensor.numpy) for target in batch.targets)
    return _PackedBatch(replace(batch, targets=()), targets, damage)


def _begin_worker(_: int) -> None:
    """Keep a worker to one thread, and let the training process decide when it ends."""
    parent = os.getppid()
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    # Ctrl-C and SIGTERM often reach the whole group; the training process has still a step to finish and a checkpoint
    # to write, and takes a worker that ends for a reason to stop at once. A worker that is left alone does end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_SECONDS))
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)
