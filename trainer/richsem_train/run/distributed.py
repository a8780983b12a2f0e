"""Ranks: one process a device, started by torchrun, or one process alone.

Gradients alone travel between devices. All else is said on the hosts, so that nobody waits for a device to say it.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from richsem_schemas.errors import RichSemError

_LONGEST_SILENCE = timedelta(days=1)
"""How long ranks wait for one that says nothing on the hosts: the first may score for hours meanwhile. One that ends is
missed at once, whatever the limit. Devices are never waited for that long, since ranks meet on the hosts before each
step: the limit of gradients stays PyTorch's."""


_DEVICES = "cpu, cuda, cuda:1, or mps"


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this one is.

    Attributes:
        rank: 0 writes checkpoints, logs and results.
        world_size: how many there are.
        device: this one's.
        hosts: by which the ranks talk; None alone.
    """

    rank: int
    world_size: int
    device: torch.device
    hosts: dist.ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        """Whether this process speaks for all."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there is no other process."""
        return self.world_size == 1

    def sum(self, values: Sequence[float]) -> list[float]:
        """The elementwise sums over all ranks, on each of them, in float64: one message."""
        if self.is_alone:
            return list(values)
        summed = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(summed, group=self.hosts)
        return summed.tolist()

    def messages(self, ours: Sequence[str]) -> list[str]:
        """What all ranks have to say, on each of them; costs next to nothing where it is nothing."""
        return self.gather(ours) if any(self.sum([len(ours)])) else []

    def gather(self, ours: Sequence[str]) -> list[str]:
        """What all ranks have to say, on each of them."""
        if self.is_alone:
            return list(ours)
        everyones: list[Sequence[str]] = [()] * self.world_size
        dist.all_gather_object(everyones, tuple(ours), group=self.hosts)
        return [message for one in everyones for message in one]

    def stop_all(self, reasons: Sequence[str]) -> None:
        """End all ranks where the first one has reasons to; it alone tells them.

        Raises:
            RichSemError: there is a reason, on all ranks.
        """
        told = self.messages(reasons if self.is_first else ())
        if told:
            raise RichSemError(". ".join(told) if self.is_first else f"rank {self.rank} stops; rank 0 says why")

    def wait(self) -> None:
        """Until all ranks are here."""
        if not self.is_alone:
            dist.barrier(group=self.hosts)


@contextmanager
def join_ranks(device: str | None) -> Iterator[Ranks]:
    """Join the processes that torchrun started; alone without it.

    Args:
        device: `cpu`, `cuda`, `cuda:1`, `mps`; None is as `choose_device` has it. Under torchrun with CUDA each process
            takes the device of its local rank.

    Raises:
        RichSemError: the device isn't there, or another rank has ended.
    """
    world_size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    chosen = choose_device(device, local_rank=int(os.environ.get("LOCAL_RANK", "0")), alone=world_size == 1)
    with _denormals_flushed():
        if world_size == 1:
            yield Ranks(0, 1, chosen)
            return
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)
        try:
            # Another rank may have been refused and be gone before this one has joined.
            dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
            hosts = dist.new_group(backend="gloo", timeout=_LONGEST_SILENCE)
            assert isinstance(hosts, dist.ProcessGroup), "all ranks are members"
            yield Ranks(rank, world_size, chosen, hosts)
        except RuntimeError as error:
            if not _is_lost_rank(error):
                raise
            raise RichSemError(
                f"rank {rank} stops, since another rank has ended or is out of reach; what that one said tells why"
            ) from None
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()


@contextmanager
def _denormals_flushed() -> Iterator[None]:
    """Numbers below 1e-38 cost CPUs a hundred times the others; a step takes a quarter longer with them."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _is_lost_rank(error: RuntimeError) -> bool:
    # Gloo has no exception of its own.
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def choose_device(name: str | None, *, local_rank: int = 0, alone: bool = True) -> torch.device:
    """The device to work on; None is CUDA where there is one, else the GPU of a Mac, `mps`, else the CPU.

    MPS is for one process alone.

    Raises:
        RichSemError: there is none of that name.
    """
    try:
        device = torch.device(name or _best_device(alone=alone))
    except RuntimeError:
        raise RichSemError(f"--device {name!r} is no device; use {_DEVICES}") from None
    if device.type not in ("cpu", "cuda", "mps"):
        raise RichSemError(f"--device {name!r} is not supported; use {_DEVICES}")
    if device.type == "cpu":
        return device
    if device.type == "mps":
        _require_mps(alone=alone)
        return torch.device("mps", 0)
    count = torch.cuda.device_count()
    index = local_rank if not alone or device.index is None else device.index
    if index >= count:
        raise RichSemError(
            f"CUDA device {index} is asked for, there are {count}; use --device cpu, or start as many processes a node "
            "as it has devices"
        )
    return torch.device("cuda", index)


def _best_device(*, alone: bool) -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if alone and torch.backends.mps.is_available() else "cpu"


def _require_mps(*, alone: bool) -> None:
    if not torch.backends.mps.is_available():
        why = "there is no Mac's GPU" if torch.backends.mps.is_built() else "this PyTorch was built without it"
        raise RichSemError(f"--device mps is asked for, and {why}; use --device cpu, or leave it out")
    if not alone:
        raise RichSemError(
            "--device mps is one device, for one process; start it without torchrun, or use --device cpu"
        )
