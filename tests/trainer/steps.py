"""A trainer and batches for it, in this process or as one of several ranks."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from richsem_schemas.cache.text_bank import TextBank
from richsem_train.choices import Precision, Supervision
from richsem_train.config import DinoConfig, LossConfig, ModelConfig, ScheduleConfig
from richsem_train.data.collate import Sample, collate
from richsem_train.data.order import RankShare
from richsem_train.run.build import build_detector, build_learner, text_tensor
from richsem_train.run.distributed import Ranks, join_ranks
from richsem_train.run.engine import Trainer
from richsem_train.targets import Batch, SoftLabels, Target, whole_image
from tests.trainer.tiny import VALUES

CLASSES, DIM, SIDE, OBJECTS = 7, 16, 64, 2
MIXED = 8
"""Pictures of a step of `take_steps`."""

IMAGES = (1, 6)
"""Those of them that are labelled as a whole."""

ALONE = Ranks(0, 1, torch.device("cpu"))


def make_trainer(
    ranks: Ranks = ALONE,
    *,
    ema: float | None = None,
    federated: int | None = None,
    global_batch_size: int = 4,
    accumulate: int = 1,
    pictures_a_draw: int = 2,
    total_steps: int | None = None,
    model: ModelConfig | None = None,
    loss: LossConfig | None = None,
    classes: int = CLASSES,
    precision: Precision = "fp32",
    dtype: torch.dtype = torch.float64,
    **changes: Any,
) -> Trainer:
    """Of a detector, DINO unless `model` says another; `changes` are of the schedule."""
    model = model or DinoConfig.model_validate(VALUES["model"])
    names = tuple(f"class {row}" for row in range(classes))
    rng = np.random.default_rng(0)
    text = TextBank(names, names, ("{}",), 20.0, rng.standard_normal((classes, DIM)).astype(np.float32))
    torch.manual_seed(0)
    detector = build_detector(
        model,
        num_classes=classes,
        text_features_CD=text_tensor(text),
        logit_scale=text.logit_scale,
        weights=None,
        device=ranks.device,
        semantic_branch=True,
    )
    learner = build_learner(
        detector,
        model,
        loss or LossConfig(federated=federated),
        text=text,
        image_counts_C=torch.ones(classes, dtype=torch.int64),
        learns_images=True,
        precision=precision,
        device=ranks.device,
    ).to(dtype)
    values: dict[str, Any] = {
        "global_batch_size": global_batch_size,
        "accumulate": accumulate,
        "pictures_a_draw": pictures_a_draw,
        "lr": 1e-2,
        "clip_norm": 1.0,
        "ema": ema,
    }
    schedule = ScheduleConfig(**(values | changes))
    # Plain descent: Adam makes whole steps of gradients that are nothing but rounding.
    trained = [parameter for parameter in detector.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD([{"params": trained, "base_lr": schedule.lr}], momentum=0.9, fused=True)
    # PyTorch asks whether the device has such a kernel; one that is pretended has the CPU's.
    optimiser._need_device_dtype_check_for_fused = ranks.device.type != "meta"
    return Trainer(
        learner,
        optimiser,
        None if ema is None else deepcopy(detector).eval(),
        schedule=schedule,
        pseudo_threshold=0.05,
        ranks=ranks,
        seed=3,
        total_steps=total_steps,
    )


def make_batch(pictures: range, step: int = 0, *, objects: int = OBJECTS, side: int = SIDE) -> Batch:
    """Those pictures of a step, of equal sizes and numbers of objects."""
    pixels, targets = [], []
    for picture in pictures:
        rng = np.random.default_rng([1, step, picture])
        pixels.append(torch.from_numpy(rng.integers(0, 256, (3, side, side), np.uint8)))
        centres, sides = rng.uniform(0.3, 0.7, (objects, 2)), rng.uniform(0.1, 0.5, (objects, 2))
        embeddings = rng.standard_normal((objects, DIM))
        targets.append(
            Target(
                boxes_cxcywh_norm=torch.from_numpy(np.concatenate([centres, sides], axis=1)),
                labels=torch.from_numpy(rng.integers(1, CLASSES, objects)),
                image_id=picture,
                image_hw=(side, side),
                original_hw=(side, side),
                soft_labels=SoftLabels(embeddings=torch.from_numpy(embeddings)),
            )
        )
    names = tuple(f"picture-{picture}" for picture in pictures)
    return Batch(torch.stack(pixels), tuple(targets), names)


def mixed_batch(pictures: Sequence[int], step: int = 0) -> Batch:
    """Those pictures of a step: of many sizes and numbers of objects, some without labels, or with the teacher's."""
    samples = []
    for picture in pictures:
        rng = np.random.default_rng([2, step, picture])
        height, width = rng.choice([40, 48, 56, 64, 80], 2).tolist()
        # In the second draw there is none.
        objects = 0 if picture in (2, 3) else int(rng.integers(0, 5))
        target = make_batch(range(picture, picture + 1), step, objects=objects).targets[0]
        kind: Supervision = "labelled" if picture < 4 else ("unlabelled", "pseudo")[picture % 2]
        labels = target.labels if kind == "labelled" else torch.zeros_like(target.labels)
        target = replace(target, image_hw=(height, width), supervision=kind, labels=labels)
        if picture in IMAGES:
            target = as_whole_image(target, rng)
        pixels = torch.from_numpy(rng.integers(0, 256, (3, height, width), np.uint8))
        samples.append(Sample(pixels, target, f"picture-{picture}"))
    return collate(samples)


def as_whole_image(target: Target, rng: np.random.Generator) -> Target:
    """The same picture with one label or two in the place of boxes."""
    shown = rng.permutation(np.arange(1, CLASSES))[: rng.integers(1, 3)]
    return whole_image(target, torch.from_numpy(shown))


def take_steps(ranks: Ranks = ALONE, *, accumulate: int = 1, pictures_a_draw: int = 2) -> dict[str, Any]:
    """What comes of three steps on this rank's share of eight pictures."""
    trainer = make_trainer(
        ranks, global_batch_size=MIXED, accumulate=accumulate, federated=3, pictures_a_draw=pictures_a_draw
    )
    share = RankShare(MIXED, ranks.rank, ranks.world_size, pictures_a_draw=pictures_a_draw, accumulate=accumulate)
    return three_steps(trainer, share, mixed_batch)


def three_steps(trainer: Trainer, share: RankShare, make: Callable[[Sequence[int], int], Batch]) -> dict[str, Any]:
    """What comes of three steps on a rank's share of the pictures of `make(pictures, step)`."""
    losses = [trainer.step(step, 0, make(share.counters(0), step)).losses for step in range(3)]
    detector = trainer.learner.detector
    return {
        "losses": losses,
        "gradients": {name: p.grad for name, p in detector.named_parameters() if p.requires_grad},
        "weights": detector.state_dict(),
    }


def take_steps_as_rank(folder: Path, accumulate: int) -> None:
    """The same as one of several ranks; writes what came of it."""
    with join_ranks("cpu") as ranks:
        torch.save(take_steps(ranks, accumulate=accumulate), folder / f"{ranks.rank}.pt")


def assert_close(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    """Gradients or weights of the same steps taken in other ways."""
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        # Weights and sums are float64, boxes, cosines and losses float32 whatever the rest is.
        torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
