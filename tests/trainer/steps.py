"""A trainer and batches for it, in this process or as one of several ranks."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from richsem_schemas.text_bank import TextBank
from richsem_train.build import build_criterion, build_detector, text_tensor
from richsem_train.config import LossConfig, ModelConfig, ScheduleConfig
from richsem_train.distributed import Ranks, join_ranks
from richsem_train.engine import DetectorLosses, Normalise, Trainer
from richsem_train.models.denoising import DenoisingQueries, draw_denoising
from richsem_train.targets import Batch, SoftLabels, Target
from tests.trainer.tiny import VALUES

CLASSES, DIM, SIDE, OBJECTS = 7, 16, 64, 2
ALONE = Ranks(0, 1, torch.device("cpu"))


def make_trainer(ranks: Ranks = ALONE, *, ema: float | None = None, accumulate: int = 1) -> Trainer:
    """Without federated loss, which each rank draws for itself."""
    model = ModelConfig.model_validate(VALUES["model"])
    names = tuple(f"class {row}" for row in range(CLASSES))
    rng = np.random.default_rng(0)
    text = TextBank(names, names, ("{}",), 20.0, rng.standard_normal((CLASSES, DIM)).astype(np.float32))
    torch.manual_seed(0)
    detector = build_detector(
        model,
        num_classes=CLASSES,
        text_features_CD=text_tensor(text),
        logit_scale=text.logit_scale,
        weights=None,
        device=ranks.device,
        semantic_branch=True,
    )
    criterion = build_criterion(
        LossConfig(federated=None), model, text=text, image_counts_C=torch.ones(CLASSES, dtype=torch.int64)
    )
    normalise = Normalise((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    losses = DetectorLosses(detector, criterion, precision="fp32", normalise=normalise).double()
    schedule = ScheduleConfig(global_batch_size=4, accumulate=accumulate, lr=1e-2, clip_norm=1.0, ema=ema)
    # Plain descent: Adam makes whole steps of gradients that are nothing but rounding.
    trained = [parameter for parameter in detector.parameters() if parameter.requires_grad]
    return Trainer(
        losses,
        torch.optim.SGD([{"params": trained, "base_lr": schedule.lr}], momentum=0.9),
        None if ema is None else deepcopy(detector).eval(),
        schedule=schedule,
        denoising=model.denoising,
        pseudo_threshold=0.05,
        ranks=ranks,
        seed=3,
    )


def make_batch(pictures: range, step: int = 0, *, objects: int = OBJECTS) -> Batch:
    """Those pictures of a step, of equal sizes and numbers of objects."""
    pixels, targets = [], []
    for picture in pictures:
        rng = np.random.default_rng([1, step, picture])
        pixels.append(torch.from_numpy(rng.integers(0, 256, (3, SIDE, SIDE), np.uint8)))
        centres, sides = rng.uniform(0.3, 0.7, (objects, 2)), rng.uniform(0.1, 0.5, (objects, 2))
        embeddings = rng.standard_normal((objects, DIM))
        targets.append(
            Target(
                boxes_cxcywh_norm=torch.from_numpy(np.concatenate([centres, sides], axis=1)),
                labels=torch.from_numpy(rng.integers(1, CLASSES, objects)),
                image_id=picture,
                image_hw=(SIDE, SIDE),
                original_hw=(SIDE, SIDE),
                soft_labels=SoftLabels(embeddings=torch.from_numpy(embeddings)),
            )
        )
    names = tuple(f"picture-{picture}" for picture in pictures)
    return Batch(torch.stack(pixels), torch.zeros(len(pixels), SIDE, SIDE, dtype=torch.bool), tuple(targets), names)


def whole_denoising(
    targets: tuple[Target, ...], *, generator: torch.Generator, **options: object
) -> DenoisingQueries | None:
    """In place of `draw_denoising`: each picture gets the same noise, in whatever batch it comes."""
    alone = []
    for target in targets:
        seed = int(target.boxes_cxcywh_norm.sum() * 1e9)
        alone.append(draw_denoising([target], generator=torch.Generator().manual_seed(seed), **options))
    return replace(
        alone[0],
        labels=torch.cat([each.labels for each in alone]),
        boxes=torch.cat([each.boxes for each in alone]),
        padding=torch.cat([each.padding for each in alone]),
        positives=tuple(each.positives[0] for each in alone),
    )


def step_as_rank(folder: Path, accumulate: int) -> None:
    """Three steps on this rank's pictures; writes what came of them."""
    from richsem_train import engine

    engine.draw_denoising = whole_denoising
    with join_ranks("cpu") as ranks:
        trainer = make_trainer(ranks, accumulate=accumulate)
        pictures = range(ranks.rank, 4, ranks.world_size)
        losses = [trainer.step(step, 0, make_batch(pictures, step)).losses for step in range(3)]
        detector = trainer.detector_losses.detector
        content = {
            "losses": losses,
            "gradients": {name: p.grad for name, p in detector.named_parameters() if p.requires_grad},
            "weights": detector.state_dict(),
        }
        torch.save(content, folder / f"{ranks.rank}.pt")
