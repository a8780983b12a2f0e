"""What a step did, once it is known: the host goes on while its figures are on their way from the device."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from richsem_schemas.errors import RichSemError
from richsem_train.devices import copies_late
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


@dataclass(frozen=True)
class Shown:
    """Pictures that a part of a step learns from, for messages: names and truth."""

    names: tuple[str, ...]
    targets: tuple[Target, ...]

    @classmethod
    def of(cls, batch: Batch) -> "Shown":
        """Those of a batch."""
        return cls(batch.names, batch.targets)

    def __str__(self) -> str:
        return "; ".join(
            f"{name} ({target.image_hw[1]}x{target.image_hw[0]} px, {len(target.labels)} boxes, labels "
            f"{sorted({*target.labels.tolist(), *_image_labels(target)})[:8]})"
            for name, target in zip(self.names, self.targets, strict=True)
        )


class StepInFlight:
    """A step whose figures are on their way to the host.

    Args:
        step: counted over the whole run.
        lr: of all but the backbone.
        names: of the losses.
        losses_PN: weighted, of each of P parts, on the device.
        grad_norm: before clipping, a scalar on the device.
        parts: the pictures of each part.
        shown: of the whole step.
    """

    def __init__(
        self,
        step: int,
        lr: float,
        names: Sequence[str],
        losses_PN: Sequence[Tensor],
        grad_norm: Tensor,
        *,
        parts: Sequence[Shown],
        shown: Shown,
    ) -> None:
        self.step = step
        self._lr = lr
        self._names = names
        self._parts = parts
        self._shown = shown
        figures = torch.cat([*losses_PN, grad_norm[None]])
        self._figures = figures.to("cpu", non_blocking=copies_late(figures.device))
        self._have_come = torch.cuda.current_stream(figures.device).record_event() if figures.is_cuda else None

    def result(self) -> StepResult:
        """What it did; waits for it if need be.

        Raises:
            NonFiniteLossError: a loss or the gradient is not finite.
        """
        if self._have_come is not None:
            self._have_come.synchronize()
        *losses, grad_norm = self._figures.tolist()
        summed: dict[str, float] = {}
        for number, part in enumerate(self._parts):
            ours = dict(zip(self._names, losses[number * len(self._names) :], strict=False))
            _require_finite(ours, self.step, part)
            for name, value in ours.items():
                summed[name] = summed.get(name, 0.0) + value
        _require_finite({"the gradient's norm": grad_norm}, self.step, self._shown)
        return StepResult(sum(summed.values()), summed, grad_norm, self._lr)


def non_finite(step: int, shown: Shown, what: str) -> NonFiniteLossError:
    """The error of a step that taught nothing, in words."""
    return NonFiniteLossError(
        f"the loss is not finite at step {step}: {what}. In the batch: {shown}. No weight was changed; lower "
        "schedule.lr, clip gradients, or use fp32, and go on from the last checkpoint with --resume"
    )


def _require_finite(values: Mapping[str, float], step: int, shown: Shown) -> None:
    bad = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise non_finite(step, shown, ", ".join(bad))


def _image_labels(target: Target) -> list[int]:
    return [] if target.image_labels is None else target.image_labels.tolist()
