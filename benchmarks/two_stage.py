"""The two-stage detector: steps with soft labels and with labels of whole pictures over one without; its inference.

    python benchmarks/two_stage.py --json benchmarks/results/two_stage.json

Models, pictures and turns are made up as `step.py` has them: a ratio is the median over rounds of the two arms' ratios
in a round. The configs are table 4's. `plain` is the baseline on detection pictures. `cached` adds the stages' semantic
branches, and embeddings of the same pictures' objects; noise hides what that costs, so the branches and their loss are
timed alone as well (`by_parts`). `image` has the same pictures with one label of the whole each, `image_small` four
times as many of half the side, as Detic shows them. Weights are random, so at inference nearly every score is above the
least one, and suppression sees as many pairs as it ever may.

On a GPU at the recipe's size, 640x640, a batch of 8 and bf16; on a CPU smaller. The regions of a picture, 512, don't
shrink with it, so the share of all that is about them is larger there. `gigaflops` are those of convolutions and matrix
products for a picture, forward and backward: no noise touches them. The forward pass's, and what it keeps for the
backward one, are always those of 640x640; kept is what a second picture adds to a first, without what both share.
"""

import gc
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from common import report, when
from flops import FlopCounter
from step import CLASSES, Setting, make_trainer, random_mosaics, random_text, ratio, seconds_of, take_turns, with_labels
from torch import Tensor
from torch.nn.functional import normalize

from richsem_schemas.cache.field_types import Precision
from richsem_train.learners.centernet_cascade import CenternetCascadeLearner
from richsem_train.learners.learner import Learner
from richsem_train.losses.centernet_cascade.rois import region_soft_loss
from richsem_train.losses.centernet_cascade.truth import Truth
from richsem_train.outputs.centernet_cascade import Regions
from richsem_train.results.inference import BatchDetector
from richsem_train.run.engine import Trainer
from richsem_train.targets import Batch, SoftLabels, Target, whole_image

SIDE = 640
CLASSIFIER_WIDTH, TEACHER_WIDTH = 512, 1024
"""Of the text embeddings of CLIP ViT-B/32 and RN50."""

DETECTIONS = 300
STAGES, REGIONS, WIDTH = 3, 512, 1024

Arm = Callable[[int], object]


@dataclass(frozen=True)
class Kind:
    """A config of table 4 and what its detector learns from.

    Attributes:
        config: its name.
        pictures: makes a batch.
        trainer: the rest of `make_trainer`'s arguments.
    """

    config: str
    pictures: Callable[[Setting], Batch]
    semantic_branch: bool = False
    learns_images: bool = False

    def trainer(self, setting: Setting) -> Trainer:
        """Of the full size, with random weights."""
        return make_trainer(
            replace(setting, name=self.config),
            random_text(TEACHER_WIDTH),
            classifier=random_text(CLASSIFIER_WIDTH),
            semantic_branch=self.semantic_branch,
            learns_images=self.learns_images,
        )


def with_embeddings(batch: Batch) -> Batch:
    """Of a teacher that thinks anything."""
    generator = torch.Generator().manual_seed(0)
    embeddings = [torch.randn(len(target.labels), TEACHER_WIDTH, generator=generator) for target in batch.targets]
    return with_labels(batch, [SoftLabels(embeddings=normalize(each, dim=-1)) for each in embeddings])


def labelled_as_a_whole(batch: Batch) -> Batch:
    """One label each."""

    def of_the_whole(target: Target) -> Target:
        return replace(whole_image(target, target.labels[:1]), is_extra=True)

    return replace(batch, targets=tuple(map(of_the_whole, batch.targets)))


def smaller(setting: Setting) -> Setting:
    """As many pixels in four times as many pictures."""
    return replace(setting, side=setting.side // 2, batch_size=4 * setting.batch_size)


PLAIN = Kind("c2_r50_21k_lvis", random_mosaics)
CACHED = Kind(
    "c2_richsem_r50_21k_inet_lvis", lambda setting: with_embeddings(random_mosaics(setting)), semantic_branch=True
)
IMAGE = Kind(
    "c2_detic_r50_21k_inet_lvis", lambda setting: labelled_as_a_whole(random_mosaics(setting)), learns_images=True
)
DINO = Kind("table4_dino_baseline", random_mosaics)


def main(
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    side: Annotated[int | None, typer.Option(help="Of the pictures, pixels. [default: 640, on a CPU 256]")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pictures a step. [default: 8, on a CPU 1]")] = None,
    precision: Annotated[Precision | None, typer.Option(help="fp32 or bf16. [default: bf16, on a CPU fp32]")] = None,
    rounds: Annotated[int, typer.Option(help="In which each arm takes a step.")] = 5,
    threads: Annotated[int, typer.Option(help="Of PyTorch, on a CPU.")] = 1,
    json: Annotated[Path | None, typer.Option(help="Write the figures here.")] = None,
) -> None:
    """Measure one size."""
    chosen = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    torch.set_num_threads(threads)
    is_gpu = chosen.type == "cuda"
    setting = Setting(
        chosen, side or (SIDE if is_gpu else 256), batch_size or (8 if is_gpu else 1),
        precision or ("bf16" if is_gpu else "fp32"),
    )  # fmt: skip
    load_before = os.getloadavg()
    figures = measure(setting, rounds)
    report(
        "two-stage",
        {
            **when(),
            "device": chosen.type,
            "threads": threads,
            "picture_hw": [setting.side, setting.side],
            "batch_size": setting.batch_size,
            "precision": setting.precision,
            "classes": CLASSES,
            "load_average_of_1_minute": [load_before[0], os.getloadavg()[0]],
            **figures,
        },
        json,
    )


def measure(setting: Setting, rounds: int) -> dict[str, Any]:
    """Memory first, while nothing else needs any."""
    figures: dict[str, Any] = {"forward_at_640": forward_at_640(setting)}
    if setting.device.type == "cuda":
        figures["peak_GiB"] = peaks(setting)
    trainers = {kind.config: kind.trainer(setting) for kind in (PLAIN, CACHED, IMAGE)}
    steps = {
        "plain": step_of(trainers[PLAIN.config], PLAIN.pictures(setting)),
        "cached": step_of(trainers[CACHED.config], CACHED.pictures(setting)),
        "image": step_of(trainers[IMAGE.config], IMAGE.pictures(setting)),
        "image_small": step_of(trainers[IMAGE.config], IMAGE.pictures(smaller(setting))),
    }
    pictures = random_mosaics(setting)
    inference = {
        "two_stage": inference_of(trainers[PLAIN.config], setting, pictures),
        "dino": inference_of(DINO.trainer(setting), setting, pictures),
    }
    branches = {"branches": lambda _: branches_alone(trainers[CACHED.config], CACHED.pictures(setting))}
    gigaflops = {name: counted(arm) / setting.batch_size for name, arm in (steps | inference).items()}
    stepped = take_turns(steps, rounds, setting.device)
    found = take_turns(inference, rounds, setting.device)
    alone = take_turns(branches, rounds, setting.device)["branches"]
    return figures | {
        "rounds": rounds,
        "gigaflops": gigaflops,
        "steps": {name: seconds_of(each) for name, each in stepped.items()},
        "branches": seconds_of(alone),
        "inference": {name: seconds_of(each) for name, each in found.items()},
        "cached_over_plain": ratio(stepped["cached"], stepped["plain"], alone),
        "image_over_plain": ratio(stepped["image"], stepped["plain"]),
        "image_small_over_plain": ratio(stepped["image_small"], stepped["plain"]),
        "inference_over_dino": ratio(found["two_stage"], found["dino"]),
    }


def step_of(trainer: Trainer, batch: Batch) -> Arm:
    return lambda number: trainer.step(number, 0, batch)


def inference_of(trainer: Trainer, setting: Setting, batch: Batch) -> Arm:
    learner = trainer.learner
    detector = BatchDetector(
        model=learner.detector,
        normalise=learner.normalise,
        precision=setting.precision,
        class_names=tuple(str(row) for row in range(CLASSES)),
        keep=DETECTIONS,
        short_side=setting.side,
        longest_side=setting.side,
    )

    def detect(_: int) -> None:
        learner.eval()
        detector.detect(batch)

    return detect


def counted(arm: Arm) -> float:
    """Gigaflops."""
    with FlopCounter() as counter:
        arm(0)
    return counter.flops / 1e9


def branches_alone(trainer: Trainer, batch: Batch) -> None:
    """The stages' semantic branches and their loss, forward and backward, for as many regions as a step has."""
    learner = trainer.learner
    assert isinstance(learner, CenternetCascadeLearner)
    assert learner.soft_loss is not None
    assert learner.teacher_text is not None
    ready = batch.to(learner.normalise.mean.device)
    truth = Truth.of(ready.targets, extra_boxes=False)
    for stage in range(STAGES):
        regions = random_regions(truth)
        hidden_BRE = torch.ones(*regions.is_real.shape, WIDTH, device=ready.pixels.device, requires_grad=True)
        logits_BRC = learner.detector.cascade[stage].semantic_logits(hidden_BRE, learner.teacher_text)
        region_soft_loss(learner.soft_loss, logits_BRC, regions, truth).backward()


def random_regions(truth: Truth) -> Regions:
    """A quarter of them positive."""
    pictures, objects = truth.objects.is_real.shape
    place_BR = torch.arange(REGIONS, device=truth.image_hw.device).expand(pictures, -1)
    boxes_BR4 = truth.objects.boxes_xyxy_px[:, :1].expand(-1, REGIONS, -1)
    return Regions(boxes_BR4, place_BR >= 0, place_BR % objects, place_BR < REGIONS // 4)


def forward_at_640(setting: Setting) -> dict[str, dict[str, float]]:
    """By config: operations of a picture, and what it keeps."""
    full = replace(setting, side=SIDE)
    return {kind.config: forward_of(kind, full) for kind in (PLAIN, CACHED)}


def forward_of(kind: Kind, setting: Setting) -> dict[str, float]:
    learner = kind.trainer(setting).learner.train()
    batches = [kind.pictures(replace(setting, batch_size=count)) for count in (1, 2)]
    (gigaflops, one), (_, two) = (forward_pass(learner, batch) for batch in batches)
    return {"gigaflops": gigaflops, "kept_MiB": two - one}


def forward_pass(learner: Learner, batch: Batch) -> tuple[float, float]:
    """Operations in units of 1e9; MiB of all tensors that are saved, those that share memory once."""
    ready = batch.to(learner.normalise.mean.device)
    totals = [1.0] * len(learner.counts(ready.targets))
    generators = [torch.Generator().manual_seed(0) for _ in ready.targets]
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        # Held, so that none has the place of another one.
        kept[storage.data_ptr()] = storage
        return tensor

    with FlopCounter() as counter, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        learner(ready, totals, generators)
    return counter.flops / 1e9, sum(storage.nbytes() for storage in kept.values()) / 2**20


def peaks(setting: Setting) -> Mapping[str, float]:
    """Most memory of a GPU that steps need, each detector alone there, weights and optimiser with it."""
    found = {}
    for name, kind, size in (
        ("plain", PLAIN, setting),
        ("cached", CACHED, setting),
        ("image_small", IMAGE, smaller(setting)),
    ):
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        step = step_of(kind.trainer(setting), kind.pictures(size))
        for number in range(2):
            step(number)
        found[name] = torch.cuda.max_memory_allocated() / 2**30
        del step
    return found


if __name__ == "__main__":
    typer.run(main)
