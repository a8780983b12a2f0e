"""How far a form of labels turns the gradient of a detector: beside that of the exact labels, batch by batch.

The trainer's own parts: its collate, draws, denoising, matching and losses. A batch goes through the detector once and
back once for each form, since only the soft loss differs; a gradient of all losses is the hard one plus the soft one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.evidence.distances import spread
from benchmarks.evidence.forms import EXACT, Form, Lesson
from benchmarks.evidence.lessons import sample_of
from benchmarks.evidence.students import Student
from richsem_schemas.cache.text_bank import TextBank
from richsem_train.config import DinoConfig
from richsem_train.data.collate import collate
from richsem_train.models.dino.denoising import draw_denoising
from richsem_train.outputs.dino import DenoisingQueries, DinoOutputs
from richsem_train.run.engine import StepPart, split_batch
from richsem_train.targets import Batch, Target

BATCH = 8
"""Views a batch."""

ANOTHER_BATCH = "another batch"
"""The exact gradient of the batch before in the place of the batch's own: how much gradients differ in any case."""

MEASURES = ("branch", "detector", "all losses")
"""The soft loss by the semantic branch's projection, by all weights; all losses by all weights."""


def batches_of(lessons: Sequence[Lesson]) -> Iterator[list[Lesson]]:
    """Whole batches, in order."""
    for start in range(0, len(lessons) - BATCH + 1, BATCH):
        yield list(lessons[start : start + BATCH])


@dataclass(frozen=True, eq=False)
class Gradients:
    """Of one batch, float64 vectors.

    Attributes:
        hard: of all losses but the soft ones, by all weights [W].
        soft: of the soft ones as they are weighted, by form [W].
        branch: which of the W numbers are the semantic branch's projection's.
    """

    hard: Tensor
    soft: dict[str, Tensor]
    branch: slice

    def measured(self, name: str) -> dict[str, Tensor]:
        """The gradients of `MEASURES` under a form."""
        soft = self.soft[name]
        return dict(zip(MEASURES, (soft[self.branch], soft, self.hard + soft), strict=True))


def gradients(
    student: Student, lessons: Sequence[Lesson], forms: Sequence[Form], text: TextBank, seed: int
) -> Gradients:
    """Gradients of a batch under each form, the exact one included."""
    targets = {form.name: [form.target(lesson, text) for lesson in lessons] for form in forms}
    seen = zip(lessons, targets[EXACT], strict=True)
    batch = collate([sample_of(lesson.shown, target, lesson.student_size) for lesson, target in seen])
    weights = [weight for _, weight in student.trained]
    size = sum(weight.numel() for weight in weights)
    hard = torch.zeros(size, dtype=torch.float64)
    soft = {form.name: torch.zeros(size, dtype=torch.float64) for form in forms}
    num_boxes = _num_boxes(batch, student)
    for part in _parts(batch, student):
        outputs, denoising = _forward(student, part, seed)
        for form in forms:
            chosen = [targets[form.name][picture] for picture in _pictures(part, student)]
            hard_loss, soft_loss = _losses(student, form, outputs, chosen, denoising, num_boxes, seed)
            soft[form.name] += _flat_gradient(soft_loss, weights)
            if form.name == EXACT:
                hard += _flat_gradient(hard_loss, weights)
    return Gradients(hard, soft, _branch(student))


def _num_boxes(batch: Batch, student: Student) -> float:
    """As the trainer has it: boxes of the step, at least one a draw."""
    draws = len(batch.targets) // student.config.schedule.pictures_a_draw
    return float(max(sum(len(target.labels) for target in batch.targets), draws))


def _parts(batch: Batch, student: Student) -> list[StepPart]:
    return split_batch(
        batch,
        1,
        pictures_a_draw=student.config.schedule.pictures_a_draw,
        size_divisor=student.detector.size_divisor,
    )


def _pictures(part: StepPart, student: Student) -> list[int]:
    each = student.config.schedule.pictures_a_draw
    return [draw * each + place for draw in part.draws for place in range(each)]


def _generators(part: StepPart, seed: int, key: int) -> list[torch.Generator]:
    seeds = [np.random.SeedSequence([seed, key, draw]).generate_state(1)[0] for draw in part.draws]
    return [torch.Generator().manual_seed(int(each)) for each in seeds]


def _forward(student: Student, part: StepPart, seed: int) -> tuple[DinoOutputs, DenoisingQueries | None]:
    model = student.config.model
    assert isinstance(model, DinoConfig)
    settings = model.denoising
    denoising = draw_denoising(
        part.batch.targets,
        dn_queries=settings.queries,
        label_noise=settings.label_noise,
        box_noise=settings.box_noise,
        num_classes=student.detector.num_classes,
        generators=_generators(part, seed, 0),
    )
    return student.detector(student.normalise(part.batch), part.batch.padding_mask, denoising), denoising


def _losses(
    student: Student,
    form: Form,
    outputs: DinoOutputs,
    targets: Sequence[Target],
    denoising: DenoisingQueries | None,
    num_boxes: float,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Weighted sums of the hard and of the soft losses."""
    criterion = student.criteria[form.tail]
    # The same federated classes for every form.
    draws = len(targets) // student.config.schedule.pictures_a_draw
    losses = criterion(
        outputs,
        targets,
        denoising,
        num_boxes=num_boxes,
        generators=[torch.Generator().manual_seed(seed + draw) for draw in range(draws)],
        semantic_logits=student.detector.semantic_logits,
    )
    weighted = {name: loss * criterion.weights[name] for name, loss in losses.items()}
    hard, soft = (
        torch.stack([loss for name, loss in weighted.items() if name.startswith("loss_soft") == is_soft]).sum()
        for is_soft in (False, True)
    )
    return hard, soft


def _flat_gradient(loss: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """float64 [W]; zeros where the loss doesn't depend on a weight."""
    if not loss.requires_grad:
        return torch.zeros(sum(weight.numel() for weight in weights), dtype=torch.float64)
    found = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    return torch.cat(
        [
            (torch.zeros_like(weight) if gradient is None else gradient).flatten().double()
            for weight, gradient in zip(weights, found, strict=True)
        ]
    )


def _branch(student: Student) -> slice:
    start = 0
    for name, weight in student.trained:
        if name.endswith("clip_visual_proj.weight"):
            return slice(start, start + weight.numel())
        start += weight.numel()
    raise AssertionError("a student has a semantic branch")


def compared_gradients(
    student: Student, lessons: Sequence[Lesson], forms: Sequence[Form], text: TextBank
) -> dict[str, dict[str, Any]]:
    """By form and measure: cosine with the exact gradient and ratio of the norms, over batches; and of their sum."""
    names = [form.name for form in forms if form.name != EXACT]
    pairs: dict[str, dict[str, list[tuple[float, float]]]] = {
        name: {measure: [] for measure in MEASURES} for name in (*names, ANOTHER_BATCH)
    }
    sums: dict[str, dict[str, Tensor]] = {}
    before: dict[str, Tensor] | None = None
    for number, batch in enumerate(batches_of(lessons)):
        found = gradients(student, batch, forms, text, seed=number)
        exact = found.measured(EXACT)
        for name in (EXACT, *names):
            measured = found.measured(name)
            kept = sums.setdefault(name, {measure: torch.zeros_like(exact[measure]) for measure in MEASURES})
            for measure in MEASURES:
                kept[measure] += measured[measure]
                if name != EXACT:
                    pairs[name][measure].append(compared(exact[measure], measured[measure]))
        if before is not None:
            for measure in MEASURES:
                pairs[ANOTHER_BATCH][measure].append(compared(exact[measure], before[measure]))
        before = exact
    return {
        name: {
            measure: _summary(found, sums[EXACT][measure], sums[name][measure] if name in sums else None)
            for measure, found in by_measure.items()
        }
        for name, by_measure in pairs.items()
    }


def compared(exact: Tensor, cached: Tensor) -> tuple[float, float]:
    """Cosine of two gradients and the norm of the second over that of the first; NaN where the first is 0."""
    norms = float(exact.norm()), float(cached.norm())
    if not norms[0]:
        return float("nan"), float("nan")
    cosine = float(exact @ cached) / (norms[0] * norms[1]) if norms[1] else 0.0
    return cosine, norms[1] / norms[0]


def _summary(pairs: Sequence[tuple[float, float]], exact: Tensor, cached: Tensor | None) -> dict[str, Any]:
    found = np.array(pairs, np.float64).reshape(-1, 2)
    found = found[np.isfinite(found).all(axis=1)]
    summary = {"cosine": spread(found[:, 0]), "norm_ratio": spread(found[:, 1]), "batches": len(found)}
    if cached is not None:
        summary["cosine_of_sum"], summary["norm_ratio_of_sum"] = compared(exact, cached)
    return summary
