"""One training step: a batch through the detector and its losses, and the weights moved."""

import warnings
from collections.abc import Iterator, Sequence
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
from richsem_train.devices import on_device
from richsem_train.learners.learner import Learner
from richsem_train.losses.pseudo_labels import with_pseudo_labels
from richsem_train.losses.soft_labels import SoftLoss
from richsem_train.models.inputs import float32_products
from richsem_train.numerics import NonFiniteError
from richsem_train.run.distributed import Ranks
from richsem_train.run.optimiser import average_weights, set_learning_rate, step_if_finite
from richsem_train.run.step_result import Shown, StepInFlight, StepResult, non_finite
from richsem_train.targets import Batch


@dataclass(frozen=True, eq=False)
class PreparedBatch:
    """A rank's share of a batch, ready for a step.

    Attributes:
        batch: with pseudo labels in place of what the teacher is sure of.
        counts: of it, as its learner counts.
    """

    batch: Batch
    counts: list[float]


class Trainer:
    """Takes steps, one of which may be in flight: launched, and its figures not yet read.

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
        self._in_flight: StepInFlight | None = None
        # It makes pseudo labels where they are needed before there is anything for a device to do.
        self._teacher_on_host = None if learner.soft_loss is None else _on_host(learner.soft_loss)

    def step(self, step: int, epoch: int, batch: Batch) -> StepResult:
        """Learn from this rank's share of a batch, and wait for what that did.

        Raises:
            NonFiniteLossError: the loss or its gradient is not finite; no weight was changed.
        """
        prepared = self.prepare(batch)
        self.launch(step, epoch, prepared, self._ranks.sum(prepared.counts))
        result = self.settle()
        assert result is not None
        return result

    def prepare(self, batch: Batch) -> PreparedBatch:
        """Make what the step needs of this rank's share of a batch, on the host, so that no device is waited for."""
        if any(target.supervision == "pseudo" for target in batch.targets):
            teacher, threshold = self._teacher_on_host, self._pseudo_threshold
            assert teacher is not None, "pseudo labels are a teacher's"
            targets = (with_pseudo_labels(target, teacher, threshold=threshold) for target in batch.targets)
            batch = replace(batch, targets=tuple(targets))
        return PreparedBatch(batch, self.learner.counts(batch.targets).tolist())

    def launch(self, step: int, epoch: int, prepared: PreparedBatch, sums: Sequence[float]) -> StepResult | None:
        """Begin a step, and end the one before: the host never waits for the figures of what it has just begun.

        The device itself leaves out a step that isn't finite, which is known here in the course of the next one, before
        that moves any weight.

        Args:
            step: counted over the whole run.
            epoch: it is in.
            prepared: this rank's share.
            sums: of the counts, over the ranks.

        Returns:
            What the step before did; None if that is known already.

        Raises:
            NonFiniteLossError: the loss of one of the two steps, or its gradient, is not finite; neither it nor what
                comes after has changed a weight.
        """
        lr = self._set_learning_rate(step, epoch)
        # Dropout and drop path know nothing but the global generators.
        torch.manual_seed(self._random_seed(step, 2**32 + self._ranks.rank))
        batch = prepared.batch.to(self._ranks.device)
        parts = split_batch(
            batch,
            self._schedule.accumulate,
            pictures_a_draw=self._schedule.pictures_a_draw,
            size_divisor=self.learner.detector.size_divisor,
        )
        self.learner.train()
        self.optimiser.zero_grad(set_to_none=True)
        with float32_products(self.learner.precision):
            losses = self._gradients(parts, self._totals(sums, len(batch.targets)), step)
        grad_norm = self._clip()
        before = self.settle()
        step_if_finite(self.optimiser, grad_norm)
        shown = [Shown.of(part.batch) for part in parts]
        self._in_flight = StepInFlight(
            step, lr, list(self.learner.weights), losses, grad_norm, parts=shown, shown=Shown.of(batch)
        )
        return before

    def settle(self) -> StepResult | None:
        """What the step in flight did, waiting for it if need be; None without one.

        Weights, averaged ones too, are then those after that step.

        Raises:
            NonFiniteLossError: its loss or its gradient is not finite; it has changed no weight.
        """
        taken, self._in_flight = self._in_flight, None
        if taken is None:
            return None
        result = taken.result()
        if self.averaged is not None:
            assert self._schedule.ema is not None
            average_weights(self.averaged, self.learner.detector, decay=self._schedule.ema, step=taken.step)
        return result

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

    def _totals(self, sums: Sequence[float], pictures: int) -> list[float]:
        """Counts of a rank, in the mean, since gradients are averaged over the ranks; the least is one a draw."""
        draws = pictures // self._schedule.pictures_a_draw
        return [max(each / self._ranks.world_size, draws) for each in sums]

    def _gradients(self, parts: Sequence["StepPart"], totals: Sequence[float], step: int) -> list[Tensor]:
        """Add up the gradients of all parts; returns their weighted losses, one tensor a part."""
        losses = []
        for number, part in enumerate(parts, start=1):
            with self._unsynchronised() if number < len(parts) else nullcontext():
                of_part = self._weighted_losses(part, totals, step)
                total = of_part.sum()
                # 1; NaN where a loss isn't finite, and so all gradients on all ranks: none of them takes the step.
                total.backward(total.detach() * 0 + 1)
            losses.append(of_part.detach())
        return losses

    def _weighted_losses(self, part: "StepPart", totals: Sequence[float], step: int) -> Tensor:
        """The losses in the order of `Learner.weights`, one tensor."""
        places = [draw * self._ranks.world_size + self._ranks.rank for draw in part.draws]
        generators = [torch.Generator().manual_seed(self._random_seed(step, place)) for place in places]
        try:
            losses = self._parallel(part.batch, totals, generators)
        except NonFiniteError as error:
            # The step before comes first, if that is to blame.
            self.settle()
            raise non_finite(step, Shown.of(part.batch), str(error)) from None
        losses_N = torch.stack([losses[name] for name in self.learner.weights])
        weights_N = torch.tensor(list(self.learner.weights.values()), dtype=losses_N.dtype)
        return losses_N * on_device(weights_N, losses_N.device)

    def _unsynchronised(self) -> AbstractContextManager[object]:
        return self._parallel.no_sync() if isinstance(self._parallel, DistributedDataParallel) else nullcontext()

    def _clip(self) -> Tensor:
        """Returns the norm before, a scalar on the device."""
        norm = nn.utils.get_total_norm([each.grad for each in self._trained if each.grad is not None])
        if self._schedule.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self._trained, self._schedule.clip_norm, norm)
        if self._schedule.clip_value is not None:
            nn.utils.clip_grad_value_(self._trained, self._schedule.clip_value)
        return norm


def _on_host(teacher: SoftLoss) -> SoftLoss:
    text_CD = teacher.text_features
    return SoftLoss(
        None if text_CD is None else text_CD.cpu(),
        logit_scale=teacher.logit_scale,
        temperature=teacher.temperature,
        tail=teacher.tail,
    )


def _parallel(learner: Learner, ranks: Ranks) -> DistributedDataParallel:
    devices = [ranks.device.index] if ranks.device.type == "cuda" else None
    # No `static_graph`: how many passes a step is made of depends on the sizes of its pictures.
    with warnings.catch_warnings():
        # The option has a new name; the old one means the same in all versions.
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(
            learner, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True
        )


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
        targets=tuple(batch.targets[picture] for picture in pictures),
        names=tuple(batch.names[picture] for picture in pictures),
    )


@contextmanager
def memory_limit_explained(what: str, remedy: str) -> Iterator[None]:
    """Say what to do where the block needs more memory than there is.

    Raises:
        RichSemError: it does; other errors pass.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # Of the allocators of CPU and MPS there is only the text.
        told = any(words in str(error) for words in ("can't allocate memory", "MPS backend out of memory"))
        if not told and not isinstance(error, MemoryError | torch.OutOfMemoryError):
            raise
        reason = one_line(error) or type(error).__name__
        raise RichSemError(f"{what} doesn't fit into the memory ({reason}); {remedy}") from None
