"""A training step of the config `small`, and its inference, on this machine.

    python benchmarks/small.py --json benchmarks/results/small.json
    python benchmarks/small.py --set model.backbone.name=resnet34

Weights are random and pictures noise, with eight boxes each: neither changes what a step computes, only what it
learns. Steps are the engine's own, without averaged weights; pictures are 480 x 640, the largest that the config shows
of a photograph. Inference is of one picture at a time, resizing counted, reading not. Processor seconds stand beside
wall seconds, since cores may be shared.
"""

import os
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from common import peak_mib, report
from PIL import Image
from step import LOGIT_SCALE, Setting, make_trainer, now, seconds_of, take_step

from richsem_schemas.cache.text_bank import TextBank
from richsem_train.config import TrainConfig, load_config
from richsem_train.models.detector import DetectionModel
from richsem_train.models.inputs import Normalise
from richsem_train.results.inference import BatchDetector
from richsem_train.targets import Batch, Target

CLASSES, TEXT_DIM, BOXES = 20, 1024, 8
HW = (480, 640)


class SmallSetting(Setting):
    """A setting by any config."""

    changes: tuple[str, ...] = ()

    @property
    def config(self) -> TrainConfig:
        return load_config(self.name, ["model.backbone.weights=null", *self.changes])


def main(
    config: Annotated[str, typer.Option(help="Which config.")] = "small",
    changes: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE of it.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    rounds: Annotated[int, typer.Option(help="Steps, and pictures, that count.")] = 7,
    threads: Annotated[int, typer.Option(help="Of PyTorch, on a CPU.")] = 1,
    json: Annotated[Path | None, typer.Option(help="Write the figures here.")] = None,
) -> None:
    """Measure a config."""
    torch.set_num_threads(threads)
    load_before = os.getloadavg()
    setting = setting_of(config, changes or [], torch.device(device))
    report(
        "small",
        {
            "config": config,
            "changes": changes or [],
            "device": device,
            "threads": threads,
            "picture_hw": HW,
            "batch_size": setting.batch_size,
            "rounds": rounds,
            **measure(setting, rounds),
            "peak_mib": round(peak_mib()),
            "load_average_of_1_minute": [load_before[0], os.getloadavg()[0]],
        },
        json,
    )


def setting_of(config: str, changes: list[str], device: torch.device) -> SmallSetting:
    schedule = load_config(config, changes).schedule
    setting = SmallSetting(device, HW[1], schedule.global_batch_size, schedule.precision, config)
    object.__setattr__(setting, "changes", tuple(changes))
    return setting


def measure(setting: SmallSetting, rounds: int) -> dict[str, Any]:
    text = random_text()
    trainer = make_trainer(setting, text, semantic_branch=False)
    detector = trainer.learner.detector
    batch = random_pictures(setting.batch_size)
    figures: dict[str, Any] = {
        "parameters": sum(each.numel() for each in detector.parameters()),
        "trained_parameters": sum(each.numel() for each in detector.parameters() if each.requires_grad),
    }
    steps = []
    for number in range(rounds + 1):
        start = now(setting.device)
        take_step(trainer, number, batch)
        end = now(setting.device)
        steps.append((end[0] - start[0], end[1] - start[1]))
    figures["step"] = seconds_of(steps[1:])
    assert isinstance(detector, DetectionModel)
    figures["inference"] = seconds_of(detect(detector.eval(), setting, text.class_names, rounds))
    return figures


def random_text() -> TextBank:
    names = ("none", *(f"class {row}" for row in range(1, CLASSES + 1)))
    features = np.random.default_rng(0).standard_normal((len(names), TEXT_DIM)).astype(np.float32)
    return TextBank(names, names, ("{}",), LOGIT_SCALE, features)


def random_pictures(pictures: int) -> Batch:
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (pictures, 3, *HW), np.uint8))
    targets = []
    for number in range(pictures):
        sizes = rng.uniform(0.05, 0.4, (BOXES, 2))
        boxes = torch.from_numpy(np.concatenate([rng.uniform(0.25, 0.75, (BOXES, 2)), sizes], 1).astype(np.float32))
        targets.append(Target(boxes, torch.from_numpy(rng.integers(1, CLASSES + 1, BOXES)), number, HW, HW))
    return Batch(pixels, tuple(targets), tuple(f"picture {number}" for number in range(pictures)))


def detect(
    model: DetectionModel, setting: SmallSetting, class_names: tuple[str, ...], rounds: int
) -> list[tuple[float, float]]:
    config = setting.config
    backbone, evaluation = config.model.backbone, config.evaluation
    detector = BatchDetector(
        model=model,
        normalise=Normalise(backbone.pixel_mean, backbone.pixel_std).to(setting.device),
        precision=setting.precision,
        class_names=class_names,
        keep=evaluation.detections,
        short_side=evaluation.short_side,
        longest_side=evaluation.longest_side,
    )
    photograph = Image.fromarray(np.random.default_rng(0).integers(0, 256, (960, 1280, 3), np.uint8))
    seconds = []
    for _ in range(rounds + 1):
        start = now(setting.device)
        detector.detect_picture(photograph)
        end = now(setting.device)
        seconds.append((end[0] - start[0], end[1] - start[1]))
    return seconds[1:]


if __name__ == "__main__":
    typer.run(main)
