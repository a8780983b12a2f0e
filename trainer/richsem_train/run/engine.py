"""One training step: a batch through the detector and its losses, and the weights moved."""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW

from richsem_schemas.errors import RichSemError
from richsem_schemas.io.words import one_line
from richsem_train.config import ScheduleConfig
from richsem_train.learners.learner import Learner
from richsem_train.losses.pseudo_labels import with_pseudo_labels
from richsem_train.numerics import NonFiniteError
from richsem_train.run.distributed import Ranks
from richsem_train.run.optimiser import average_weights, set_learning_rate
from richsem_train.targets import Batch, Target


class NonFiniteLossError(RichSemError):
    """The loss is no number any more; the message says what was in the batch."""


@dataclass(frozen=True, eq=False)
class StepResult:
    """What a step did.

    Attributes:
        loss: the weighted sum.
        losses: weighted, of this rank, by name.
        grad_norm: before clipping.
        lr: of all but the backbone.
    """

    loss: float
    losses: dict[str, float]
    grad_norm: float
    lr: float


class Trainer:
    """Takes steps.

    What is drawn for pictures is a function of (seed, step, place of their draw in the global batch), so a step is the
    same on any number of ranks and in any number of parts, up to rounding. Only dropout and drop path are a rank's own.
    `averaged` keeps averaged weights, None without. From `pseudo_threshold` on the teacher's classes are labels. A
    schedule by a cosine needs the run's `total_steps`.
    """

    def __init__(
        self,
        learner: Learner,
        optimiser: AdamW,
        averaged: nn.Module | None,
        *,
        schedule: ScheduleConfig,
        pseudo_threshold: float,
        ranks: Ranks,
        seed: int,
        total_steps: int | None = None,
    ) -> None:
        self.learner = learner
        self.optimiser = optimiser
        self.averaged = averaged
        self._parallel = learner if ranks.is_alone else _parallel(learner, ranks)
        self._trained = [parameter for parameter in learner.parameters() if parameter.requires_grad]
        self._schedule = schedule
        self._pseudo_threshold = pseudo_threshold
        self._ranks = ranks
        self._seed = seed
        self._total_steps = total_steps

    def step(self, step: int, epoch: int, batch: Batch) -> StepResult:
        """Learn from this rank's share of a batch.

        Raises:
            NonFiniteLossError: the loss or its gradient is not finite; no weight was changed.
        """
        lr = self._set_learning_rate(step, epoch)
        # Dropout and drop path know nothing but the global generators.
        torch.manual_seed(self._random_seed(step, 2**32 + self._ranks.rank))
        ready = self._with_labels(batch.to(self._ranks.device))
        totals = self._totals(ready)
        self.learner.train()
        self.optimiser.zero_grad(set_to_none=True)
        summed: dict[str, float] = {}
        parts = split_batch(
            ready,
            self._schedule.accumulate,
            pictures_a_draw=self._schedule.pictures_a_draw,
            size_divisor=self.learner.detector.size_divisor,
        )
        for number, part in enumerate(parts, start=1):
            with self._unsynchronised() if number < len(parts) else nullcontext():
                names, losses = self._weighted_losses(part, totals, step)
                values = losses.tolist()
                _require_finite(dict(zip(names, values, strict=True)), step, part.batch)
                losses.sum().backward()
            for name, value in zip(names, values, strict=True):
                summed[name] = summed.get(name, 0.0) + value
        grad_norm = self._clip()
        _require_finite({"the gradient's norm": grad_norm}, step, ready)
        self.optimiser.step()
        if self.averaged is not None:
            assert self._schedule.ema is not None
            average_weights(self.averaged, self.learner.detector, decay=self._schedule.ema, step=step)
        return StepResult(sum(summed.values()), summed, grad_norm, lr)

    def _set_learning_rate(self, step: int, epoch: int) -> float:
        schedule, is_cosine = self._schedule, self._schedule.lr_schedule == "cosine"
        assert self._total_steps is not None or not is_cosine, "a cosine ends with the run"
        return set_learning_rate(
            self.optimiser,
            step=step,
            epoch=epoch,
            lr_drops=() if is_cosine else schedule.lr_drops,
            warmup_steps=schedule.warmup_steps,
            cosine_steps=self._total_steps if is_cosine else None,
        )

    def _random_seed(self, step: int, key: int) -> int:
        return int(np.random.SeedSequence([self._seed, step, key]).generate_state(1, np.uint64)[0]) >> 1

    def _with_labels(self, batch: Batch) -> Batch:
        """Pseudo labels in place of what the teacher is sure of."""
        teacher = self.learner.soft_loss
        if teacher is None:
            return batch
        threshold = self._pseudo_threshold
        return replace(
            batch,
            targets=tuple(with_pseudo_labels(target, teacher, threshold=threshold) for target in batch.targets),
        )

    def _totals(self, batch: Batch) -> list[float]:
        """Counts of the step over the ranks, since gradients are averaged over them; the least is one a draw."""
        counts = self.learner.counts(batch.targets)
        draws = len(batch.targets) // self._schedule.pictures_a_draw
        if not self._ranks.is_alone:
            counts = self._ranks.sum(counts.to(self._ranks.device)) / self._ranks.world_size
        return [max(count, draws) for count in counts.tolist()]

    def _weighted_losses(self, part: "StepPart", totals: Sequence[float], step: int) -> tuple[list[str], Tensor]:
        """Names of the losses, and the losses, one tensor so that the host waits for the device once."""
        places = [draw * self._ranks.world_size + self._ranks.rank for draw in part.draws]
        generators = [torch.Generator().manual_seed(self._random_seed(step, place)) for place in places]
        try:
            losses = self._parallel(part.batch, totals, generators)
        except NonFiniteError as error:
            raise _non_finite(step, part.batch, str(error)) from None
        unweighted = torch.stack(list(losses.values()))
        weights = torch.tensor([self.learner.weights[name] for name in losses], dtype=unweighted.dtype)
        return list(losses), unweighted * weights.to(unweighted.device, non_blocking=True)

    def _unsynchronised(self) -> AbstractContextManager[object]:
        return self._parallel.no_sync() if isinstance(self._parallel, DistributedDataParallel) else nullcontext()

    def _clip(self) -> float:
        """Returns the norm before."""
        limit = math.inf if self._schedule.clip_norm is None else self._schedule.clip_norm
        norm = float(nn.utils.clip_grad_norm_(self._trained, limit))
        if self._schedule.clip_value is not None:
            nn.utils.clip_grad_value_(self._trained, self._schedule.clip_value)
        return norm


def _parallel(learner: Learner, ranks: Ranks) -> DistributedDataParallel:
    devices = [ranks.device.index] if ranks.device.type == "cuda" else None
    with warnings.catch_warnings():
        # The option has a new name; the old one means the same in all versions.
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(learner, device_ids=devices, broadcast_buffers=False)


class StepPart(NamedTuple):
    """What goes through the detector at once: some draws of a step, padded as each of them would be alone.

    Attributes:
        batch: their pictures.
        draws: their numbers in this rank's share.
    """

    batch: Batch
    draws: tuple[int, ...]


def split_batch(batch: Batch, parts: int, *, pictures_a_draw: int, size_divisor: int) -> list[StepPart]:
    """Cut a batch of whole draws into parts of as many draws each, and these by the size that a draw is padded to.

    Norms, positions and the rims of pictures feel the padding. It is that of a draw, so that a draw teaches the same
    whatever it stands beside.
    """
    draws, rest = divmod(len(batch.targets), pictures_a_draw)
    assert not rest, "draws are whole"
    assert not draws % parts, "parts are equal"
    alike: dict[tuple[int, int, int], list[int]] = {}
    for draw in range(draws):
        first = draw * pictures_a_draw
        sizes_hw = [target.image_hw for target in batch.targets[first : first + pictures_a_draw]]
        height, width = (-(-max(sides) // size_divisor) * size_divisor for sides in zip(*sizes_hw, strict=True))
        alike.setdefault((draw // (draws // parts), height, width), []).append(draw)
    return [
        StepPart(
            _cut(batch, [draw * pictures_a_draw + place for draw in each for place in range(pictures_a_draw)], hw),
            tuple(each),
        )
        for (_, *hw), each in alike.items()
    ]


def _cut(batch: Batch, pictures: Sequence[int], hw: Sequence[int]) -> Batch:
    """Some pictures of a batch, without the padding beyond a size."""
    height, width = hw
    # One by one: an index would go to the device first, and the host wait for it.
    return Batch(
        pixels=torch.stack([batch.pixels[picture, :, :height, :width] for picture in pictures]),
        padding_mask=torch.stack([batch.padding_mask[picture, :height, :width] for picture in pictures]),
        targets=tuple(batch.targets[picture] for picture in pictures),
        names=tuple(batch.names[picture] for picture in pictures),
    )


def _require_finite(values: Mapping[str, float], step: int, batch: Batch) -> None:
    bad = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise _non_finite(step, batch, ", ".join(bad))


def _non_finite(step: int, batch: Batch, what: str) -> NonFiniteLossError:
    pictures = "; ".join(
        f"{name} ({target.image_hw[1]}x{target.image_hw[0]} px, {len(target.labels)} boxes, labels "
        f"{sorted({*target.labels.tolist(), *_image_labels(target)})[:8]})"
        for name, target in zip(batch.names, batch.targets, strict=True)
    )
    return NonFiniteLossError(
        f"the loss is not finite at step {step}: {what}. In the batch: {pictures}. No weight was changed; lower "
        "schedule.lr, clip gradients, or use fp32, and go on from the last checkpoint with --resume"
    )


def _image_labels(target: Target) -> list[int]:
    return [] if target.image_labels is None else target.image_labels.tolist()


@contextmanager
def memory_limit_explained(what: str, remedy: str) -> Iterator[None]:
    """Say what to do where the block needs more memory than there is.

    Raises:
        RichSemError: it does; other errors pass.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # Of the CPU's allocator there is only the text.
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        reason = one_line(error) or type(error).__name__
        raise RichSemError(f"{what} doesn't fit into the memory ({reason}); {remedy}") from None


def mean_over_ranks(losses: Mapping[str, float], ranks: Ranks) -> dict[str, float]:
    """Losses by name, averaged over the ranks."""
    means = ranks.sum(torch.tensor(list(losses.values()), device=ranks.device)) / ranks.world_size
    return dict(zip(losses, means.tolist(), strict=True))
