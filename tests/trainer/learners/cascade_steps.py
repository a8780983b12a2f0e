"""A trainer of the two-stage detector and batches for it, in this process or as one of several ranks."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from richsem_train.config import CenternetCascadeConfig, LossConfig
from richsem_train.data.collate import Sample, collate
from richsem_train.data.order import RankShare
from richsem_train.run.distributed import Ranks, join_ranks
from richsem_train.run.engine import Trainer
from richsem_train.targets import Batch, Target, whole_image
from tests.trainer.steps import ALONE, MIXED, make_trainer, mixed_batch, three_steps
from tests.trainer.tiny import TWO_STAGE


def two_stage(**changes: Any) -> CenternetCascadeConfig:
    return CenternetCascadeConfig.model_validate(TWO_STAGE["model"] | changes)


def make_cascade_trainer(ranks: Ranks = ALONE, *, loss: dict[str, Any] | None = None, **options: Any) -> Trainer:
    model = options.pop("model", None) or two_stage()
    settings = {"federated": 4, "bbox_weight": 1.0, "giou_weight": 1.0, "image_candidates": 6} | (loss or {})
    return make_trainer(ranks, model=model, loss=LossConfig(**settings), **options)


def image_target(target: Target, *labels: int) -> Target:
    """A picture that is labelled as a whole."""
    return replace(whole_image(target, torch.tensor(labels, dtype=torch.long)), is_extra=True)


def of_all_kinds(pictures: Sequence[int], step: int = 0) -> Batch:
    """Those pictures of a step: two draws of boxes, one of regions of extra data, one of whole images."""
    batch = mixed_batch(pictures, step)
    targets = [_as_kind(picture, target) for picture, target in zip(pictures, batch.targets, strict=True)]
    return replace(batch, targets=tuple(targets))


def _as_kind(picture: int, target: Target) -> Target:
    if picture < 4:
        return target
    return replace(target, is_extra=True) if picture < 6 else image_target(target, *range(1, picture - 4))


def take_cascade_steps(ranks: Ranks = ALONE, *, accumulate: int = 1, pictures_a_draw: int = 2) -> dict[str, Any]:
    """What comes of three steps on this rank's share of eight pictures."""
    trainer = make_cascade_trainer(
        ranks, global_batch_size=MIXED, accumulate=accumulate, pictures_a_draw=pictures_a_draw
    )
    share = RankShare(MIXED, ranks.rank, ranks.world_size, pictures_a_draw=pictures_a_draw, accumulate=accumulate)
    return three_steps(trainer, share, of_all_kinds)


def take_cascade_steps_as_rank(folder: Path, accumulate: int) -> None:
    """The same as one of several ranks; writes what came of it."""
    with join_ranks("cpu") as ranks:
        torch.save(take_cascade_steps(ranks, accumulate=accumulate), folder / f"{ranks.rank}.pt")


def batch_of(*targets: Target, side: int = 64) -> Batch:
    """Pictures of noise with those targets, each of its own size."""
    samples = []
    for number, target in enumerate(targets):
        rng = torch.Generator().manual_seed(number)
        pixels = torch.randint(256, (3, *target.image_hw), generator=rng, dtype=torch.uint8)
        samples.append(Sample(pixels, target, f"picture-{number}"))
    return collate(samples)
