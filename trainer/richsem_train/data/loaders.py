"""Detection and extra batches in the order of the steps, each kind read by processes of its own."""

import contextlib
import ctypes
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from richsem_schemas.errors import RichSemError
from richsem_schemas.io.memory import keep_freed_memory
from richsem_train.data.buffers import BatchBuffers
from richsem_train.data.collate import Canvas, Sample, target_of_truth
from richsem_train.data.detection import DetectionKey
from richsem_train.data.extra import ExtraDataset, ExtraMix
from richsem_train.data.order import DataKind, RankShare, first_batch_from, kind_of_step
from richsem_train.targets import Batch, Target, converted

_PR_SET_PDEATHSIG = 1

_SIGNALS = {signal.SIGINT, signal.SIGTERM}
"""What ends a run."""

_GRACE_SECONDS = 30
"""How long a worker goes on after SIGTERM."""

_CAN_FORK = sys.platform == "linux"

_PREFETCHED = 2
"""Batches that each worker is ahead."""

_BUFFER_BYTES = 3 * 1344**2
"""Of a picture, so large as published configs show one; larger batches get memory of their own."""


class Feed(Protocol):
    """Data of one kind, and its order."""

    def batch_keys(self, number: int, share: RankShare) -> Sequence[Any]:
        """Keys of a rank's samples of a batch, by the batch's number over the whole run."""

    def largest_hw(self, keys: Sequence[Any]) -> tuple[int, int] | None:
        """What the sides of a batch's pictures will be at most, unless one is damaged; None where that isn't known."""

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

    def largest_hw(self, _: Sequence[DetectionKey]) -> None:
        """Known once the pictures are read."""
        return

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
            context = "fork" if _CAN_FORK else "spawn"
            self._in_processes = {
                "num_workers": workers,
                "multiprocessing_context": context,
                "worker_init_fn": partial(_begin_worker, os.getpid()),
            }
        else:
            keep_freed_memory()
        self._pin_memory = pin_memory

    def batches(self, start_step: int, end_step: int) -> Iterator[LoadedStep]:
        """The batches of steps `start_step` to `end_step - 1`; the processes live until the last one, or `close()`.

        Raises:
            RichSemError: a picture or a view can't be read and must not be replaced.
        """
        has_extra = "extra" in self._feeds
        with _signals_wait():
            streams = {kind: iter(self._loader(kind, start_step, end_step)) for kind in self._feeds}
        try:
            for step in range(start_step, end_step):
                kind = kind_of_step(step, has_extra=has_extra)
                begun = time.perf_counter()
                loaded = next(streams[kind])
                if isinstance(loaded, _Failure):
                    raise loaded.error
                yield LoadedStep(step, kind, loaded.batch(), loaded.damage, time.perf_counter() - begun)
        finally:
            # Iterators end their worker processes when nobody holds them any more.
            streams.clear()

    def _loader(self, kind: DataKind, start_step: int, end_step: int) -> DataLoader[Any]:
        first, end = (first_batch_from(step, kind, has_extra="extra" in self._feeds) for step in (start_step, end_step))
        share = self._shares[kind]
        workers = self._in_processes.get("num_workers", 0)
        buffers = None
        if _CAN_FORK or not workers:
            # Those ahead, the one that is read, and the one before it, which goes when the next has come.
            pictures = len(share.counters(0))
            buffers = BatchBuffers(_PREFETCHED * workers + 2, pictures * _BUFFER_BYTES)
        return DataLoader(
            _Batches(self._feeds[kind], buffers),
            sampler=BatchKeys(self._feeds[kind], share, range(first, end), buffers),
            batch_size=None,
            collate_fn=_unchanged,
            pin_memory=self._pin_memory,
            **self._in_processes,
        )


class _Order(NamedTuple):
    """What a worker is asked for: the samples of a batch, and the buffer that they go to, if any."""

    keys: list[Any]
    buffer: int | None


class BatchKeys(Sampler[_Order]):
    """The rank's samples of consecutive batches, each with a buffer where there is a free one."""

    def __init__(self, feed: Feed, share: RankShare, numbers: range, buffers: BatchBuffers | None) -> None:
        self._feed = feed
        self._share = share
        self._numbers = numbers
        self._buffers = buffers

    def __len__(self) -> int:
        """How many batches."""
        return len(self._numbers)

    def __iter__(self) -> Iterator[_Order]:
        for number in self._numbers:
            buffer = self._buffers.take() if self._buffers else None
            yield _Order(list(self._feed.batch_keys(number, self._share)), buffer)


@dataclass(frozen=True)
class _Failure:
    """A user's mistake or a broken input, on its way from a worker.

    Raised in the training process, without the worker's traceback, which would bury what it says.
    """

    error: RichSemError


@dataclass(frozen=True, eq=False)
class _LoadedBatch:
    """A batch on its way between processes.

    Pixels stay in a buffer; those that found no room there go through torch's shared memory. The many small tensors of
    the targets would take a file descriptor each, so they travel as arrays.

    Attributes:
        pixels: uint8 [B, H, W, 3]; of those in the buffer, this shape.
        buffers, buffer: which buffer is this batch's, whether its pixels are there or not.
        pinned: the batch in page-locked memory.
    """

    pixels: Tensor | tuple[int, ...]
    targets: tuple[Target, ...]
    names: tuple[str, ...]
    damage: tuple[str, ...]
    buffers: BatchBuffers | None
    buffer: int | None
    pinned: Batch | None = None

    def batch(self) -> Batch:
        """The batch itself, for whoever asked for it; its buffer is lent here, once."""
        return self.pinned or self._batch()

    def pin_memory(self) -> "_LoadedBatch":
        """Page-locked, for copies that don't block; called by the DataLoader. The buffer is free again then."""
        return replace(self, pinned=self._batch().pin_memory())

    def _batch(self) -> Batch:
        lent = self.buffers.lend(self.buffer) if self.buffers and self.buffer is not None else None
        if isinstance(self.pixels, Tensor):
            pixels = self.pixels
        else:
            assert lent is not None, "pixels that have no memory of their own lie in a buffer"
            pixels = torch.from_numpy(lent[: math.prod(self.pixels)].reshape(self.pixels))
        return Batch(pixels.permute(0, 3, 1, 2), self.targets, self.names)

    def __getstate__(self) -> dict[str, Any]:
        targets = tuple(converted(target, Tensor.numpy) for target in self.targets)
        return vars(self) | {"targets": targets}

    def __setstate__(self, state: dict[str, Any]) -> None:
        targets = tuple(converted(target, torch.from_numpy) for target in state["targets"])
        vars(self).update(state | {"targets": targets})


class _Batches(Dataset["_LoadedBatch | _Failure"]):
    """Batches of a feed by their orders; failures are values."""

    def __init__(self, feed: Feed, buffers: BatchBuffers | None) -> None:
        self._feed = feed
        self._buffers = buffers

    def __getitem__(self, order: _Order) -> "_LoadedBatch | _Failure":
        try:
            return self._loaded(order)
        except RichSemError as error:
            return _Failure(error)

    def _loaded(self, order: _Order) -> _LoadedBatch:
        room = self._buffers.room(order.buffer) if self._buffers and order.buffer is not None else None
        canvas, rest = Canvas(len(order.keys), room, self._feed.largest_hw(order.keys)), []
        for key in order.keys:
            picture, *of_sample = self._feed[key]
            canvas.add(picture)
            rest.append(of_sample)
            # What it was drawn from need not stay while the next one is read.
            del picture
        pixels_BHW3 = canvas.padded()
        is_there = room is not None and np.may_share_memory(pixels_BHW3, room)
        truths, names, damage = zip(*rest, strict=True)
        # One after the other: between pictures, which throw all else out of the processor's caches, a target would take
        # four times as long.
        targets = tuple(map(target_of_truth, truths))
        return _LoadedBatch(
            pixels_BHW3.shape if is_there else torch.from_numpy(pixels_BHW3),
            targets, names, tuple(chain(*damage)), self._buffers, order.buffer,
        )  # fmt: skip


def _unchanged(loaded: Any) -> Any:
    """A batch as it is, which the DataLoader would convert otherwise."""
    return loaded


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """Hold signals back while workers start, and in each of them until it knows what to do with them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker(parent: int, _: int) -> None:
    """Keep a worker to one thread, and let the training process `parent` decide when it ends."""
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    # Ctrl-C and SIGTERM often reach the whole group; the training process has still a step to finish and a checkpoint
    # to write, and takes a worker that ends for a reason to stop at once. A worker that is left alone does end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_SECONDS))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    keep_freed_memory()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)
