"""Seconds of a training step: precisions, batches, where the time goes, and the teacher inside of it.

The student and its mosaics are those of `benchmarks/step.py`; which attention it takes is the trainer's own choice.
"""

import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from evidence.online_teacher import OnlineTeacher
from figures import DEVICE, SMOKE, Figures, synchronise
from step import Setting, cached_batches, make_trainer, random_mosaics, random_text, take_step
from teachers import random_teacher
from torch.profiler import ProfilerActivity, profile

from richsem_prep.teacher.region_encoder import make_region_encoder
from richsem_prep.teacher.teacher import load_teacher, parse_teacher
from richsem_train.choices import Precision
from richsem_train.run.detectors.dino import attention_backend
from richsem_train.run.engine import Trainer

SIDE = 128 if SMOKE else 1280
ROUNDS = 1 if SMOKE else 8
WARM_UP = 1 if SMOKE else 3
TEXT_WIDTH = 1024
TOP_KERNELS = 28
HOST_CALLS = {
    "cudaStreamSynchronize", "cudaEventSynchronize", "cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel",
    "cuLaunchKernelEx", "cudaMemcpyAsync", "cudaHostAlloc", "aten::item", "aten::nonzero",
}  # fmt: skip

Steps = Callable[[int], object]


def setting(precision: Precision = "bf16", batch: int = 2) -> Setting:
    return Setting(DEVICE, SIDE, batch, precision)


def seconds_of(step: Steps) -> dict[str, Any]:
    """Median seconds on the device and on the host alone, the slowest, and the most memory."""
    if not SMOKE:
        torch.cuda.reset_peak_memory_stats()
    taken = []
    for number in range(WARM_UP + ROUNDS):
        synchronise()
        begun = time.perf_counter()
        step(number)
        host = time.perf_counter() - begun
        synchronise()
        taken.append((time.perf_counter() - begun, host))
    counting = sorted(taken[WARM_UP:])
    seconds, host = counting[len(counting) // 2]
    peak = None if SMOKE else torch.cuda.max_memory_allocated() / 2**30
    return {"seconds": seconds, "host_seconds": host, "slowest": counting[-1][0], "peak_GiB": peak}


def plain_steps(chosen: Setting, *, compiled: bool = False) -> tuple[Trainer, Steps]:
    """Steps without semantic branch and soft labels."""
    trainer = make_trainer(chosen, random_text(TEXT_WIDTH), semantic_branch=False)
    if compiled:
        trainer.learner.detector.backbone.compile(dynamic=True)
    mosaics = random_mosaics(chosen)
    return trainer, lambda number: trainer.step(number, 0, mosaics)


def plain(precision: Precision = "bf16", batch: int = 2, *, compiled: bool = False) -> dict[str, Any]:
    _, step = plain_steps(setting(precision, batch), compiled=compiled)
    found = seconds_of(step)
    return {**found, "pictures_s": batch / found["seconds"]}


def where_time_goes(batch: int = 2) -> dict[str, Any]:
    """How much of a step the device is busy, with which kernels, and how often the host launches and waits."""
    _, step = plain_steps(setting(batch=batch))
    for number in range(WARM_UP):
        step(number)
    synchronise()
    activities = [ProfilerActivity.CPU] if SMOKE else [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    with profile(activities=activities) as seen:
        begun = time.perf_counter()
        for number in range(ROUNDS):
            step(WARM_UP + number)
        synchronise()
        wall = time.perf_counter() - begun
    kernels = [event for event in seen.events() or [] if event.device_type == torch.autograd.DeviceType.CUDA]
    micros: Counter[str] = Counter()
    for event in kernels:
        micros[event.name[:90]] += event.device_time_total
    counts = Counter(event.name[:90] for event in kernels)
    return {
        "seconds": wall / ROUNDS,
        "busy": sum(micros.values()) / 1e6 / wall,
        "kernels": len(kernels) / ROUNDS,
        "host_calls": {item.key: item.count / ROUNDS for item in seen.key_averages() if item.key in HOST_CALLS},
        "top_ms_and_launches": {
            name: [round(value / ROUNDS / 1e3, 2), counts[name] // ROUNDS]
            for name, value in micros.most_common(TOP_KERNELS)
        },
    }


def waits(step: Steps) -> dict[str, int]:
    """Lines at which the host waits for the device in a step, as torch itself warns of them."""
    for number in range(2):
        step(number)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            step(2)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return dict(Counter(f"{Path(each.filename).name}:{each.lineno}" for each in seen))


def with_teacher(model: str, figures: Figures) -> None:
    """Cached labels beside the teacher in the step, and the teacher alone."""
    chosen = setting()
    with tempfile.TemporaryDirectory() as folder:
        teacher = load_teacher(parse_teacher(random_teacher(model, Path(folder))), device=DEVICE)
    text = random_text(teacher.identity.embed_dim)
    trainer = make_trainer(chosen, text, semantic_branch=True)
    encoder = make_region_encoder(teacher, kind=None, teacher_size=None, precision=chosen.precision)
    batches = cached_batches(random_mosaics(chosen), encoder, text)
    online = OnlineTeacher(teacher, trainer.learner.normalise, precision=chosen.precision)
    ready = batches["plain"].to(DEVICE)
    arms: dict[str, Steps] = {
        "cached embeddings": lambda number: take_step(trainer, number, batches["embedding"]),
        "cached top-k labels": lambda number: take_step(trainer, number, batches["topk"]),
        "online teacher": lambda number: take_step(trainer, number, batches["plain"], online),
        "teacher alone": lambda _: online.labelled(ready),
    }
    for name, step in arms.items():
        figures.measure(f"{name}, {model}, bf16, batch 2", lambda step=step: seconds_of(step))


def main(part: str) -> None:
    figures = Figures(part)
    figures.keep("attention", attention_backend(setting().config.model, DEVICE))
    if part == "steps-rn50":
        return with_teacher("RN50-quickgelu", figures)
    if part == "steps-vit":
        return with_teacher("ViT-B-32-quickgelu" if SMOKE else "ViT-L-14-quickgelu", figures)
    figures.measure("bf16, batch 2", plain)
    figures.measure("fp32, batch 2, the default", lambda: plain("fp32"))
    figures.measure("fp32 with TF32, batch 2", lambda: plain("tf32"))
    figures.measure("where time goes, bf16, batch 2", where_time_goes)
    if SMOKE:
        return None
    figures.measure("waits for the device", lambda: waits(plain_steps(setting())[1]))
    figures.measure("TF32, batch 16", lambda: plain("tf32", 16))
    figures.measure("bf16, batch 16", lambda: plain(batch=16))
    figures.measure("where time goes, bf16, batch 16", lambda: where_time_goes(16))
    figures.measure("bf16, batch 2, compiled backbone", lambda: plain(compiled=True))
    return None


if __name__ == "__main__":
    main(sys.argv[1])
