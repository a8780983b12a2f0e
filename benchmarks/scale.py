"""The driver of `richsem-prep shard` at full scale: 14 million pictures, 14,000 shards, 200 workers.

    python benchmarks/scale.py --json benchmarks/results/scale.json

The driver is the real one, from the plan to the manifests. Ray is simulated: workers let simulated time pass, write
receipts and empty shards, and die. So the figures are the driver's own processor time and memory; what Ray takes for
its calls isn't in them, and is told as the number of calls. Each arm runs in a process of its own.
"""

import json as json_module
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import numpy as np
import typer
from common import peak_mib, report
from memory import freeze_large_plan
from simulated_ray import Fate, SimulatedRay
from trial import Silent, trial_config

from richsem_prep.executors import counters, dispatch
from richsem_prep.executors.ray import RayExecutor
from richsem_prep.shard import run
from richsem_prep.shard.progress import ShardResult
from richsem_prep.shard.stage_clock import STAGES
from richsem_prep.teacher.worker_settings import WorkerDescription, WorkerSettings
from richsem_schemas.cache.layout import CacheLayout
from richsem_schemas.cache.manifest import (
    Environment,
    LabelSpec,
    LabelsReceipt,
    PicturesReceipt,
    Plan,
    RegionEncoderSpec,
    ShardSummary,
    TeacherIdentity,
)
from richsem_schemas.cache.text_bank import TextBank
from richsem_schemas.io.files import FileHash, hash_bytes
from richsem_schemas.io.sealed_json import write_sealed_json

ENVIRONMENT = Environment(
    device="NVIDIA H200", torch_threads=1, versions={f"package-{number}": "1.2.3" for number in range(7)}
)

ARMS: dict[str, dict[str, Any]] = {
    "undisturbed": {},
    "each worker is lost after 20 shards": {"shards_to_live": 20.0, "lost_at_start": 0.05},
    "each worker is lost after 5 shards": {"shards_to_live": 5.0, "lost_at_start": 0.2},
}


def main(
    entries: Annotated[int, typer.Option(help="Pictures of the plan, 1,024 a shard.")] = 14_000_000,
    workers: Annotated[int, typer.Option()] = 200,
    arm: Annotated[str | None, typer.Option(hidden=True)] = None,
    folder: Annotated[Path | None, typer.Option(hidden=True)] = None,
    json: Annotated[Path | None, typer.Option(help="Write the figures here.")] = None,
) -> None:
    """Measure all arms."""
    if arm is not None and folder is not None:
        print(json_module.dumps(measured(folder, arm, workers)))
        return
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        begun = time.process_time()
        freeze_large_plan(Path(scratch) / "plan", entries)
        freeze_seconds = time.process_time() - begun
        for name in ARMS:
            command = [sys.executable, __file__, "--arm", name, "--folder", scratch, "--workers", str(workers)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[name] = json_module.loads(done.stdout.splitlines()[-1])
    settings = {"entries": entries, "shards": -(-entries // 1024), "workers": workers, "ray": "simulated"}
    report("scale", {**settings, "freeze_cpu_seconds": freeze_seconds, "arms": found}, json)


class Simulated:
    """What a worker leaves: receipts of the size that real ones have, and empty tars and indexes."""

    def __init__(self) -> None:
        self.layout: CacheLayout | None = None
        self.plan: Plan | None = None
        self.spent = 0.0

    def describe(self) -> WorkerDescription:
        teacher = TeacherIdentity(
            name="RN50:openai", weights_sha256="0" * 64, model_config_sha256="0" * 64, quick_gelu=True, embed_dim=4,
            mean=(0.5,) * 3, std=(0.5,) * 3, input_hw=(224, 224), interpolation="bicubic", logit_scale=100.0,
            logit_bias=None,
        )  # fmt: skip
        encoder = RegionEncoderSpec(kind="crop", teacher_size=None, pooled_hw=None)
        return WorkerDescription(teacher, encoder, "fp16", ("{}.",), ENVIRONMENT)

    def text_bank(self, vocabulary: Any, _: str) -> TextBank:
        names = vocabulary.class_names
        features = np.arange(4 * len(names), dtype=np.float32).reshape(-1, 4)
        return TextBank(names, names, ("{}.",), 100.0, features)

    def make(self, shard: int) -> ShardResult:
        begun = time.process_time()
        receipts = self._leave(shard)
        self.spent += time.process_time() - begun
        return ShardResult(receipts, 0, 10**8, dict.fromkeys(STAGES, 12.345))

    def _leave(self, shard: int) -> LabelsReceipt:
        assert self.layout is not None
        if self.plan is None:
            self.plan = Plan.read(self.layout.plan)
            self.spec = LabelSpec.read(self.layout.label_set("labels").spec)
            self.fingerprints = self.plan.fingerprint, self.spec.fingerprint
            for path in self._files(0):
                path.parent.mkdir(parents=True, exist_ok=True)
        files = self._files(shard)
        empty = FileHash(bytes=0, sha256=hash_bytes(b"").sha256)
        samples = self.plan.shard_samples(shard)
        summary = ShardSummary(shard=shard, samples=samples, views=5 * samples, tar=empty, index=empty)
        seconds = dict.fromkeys(STAGES, 12.345)
        pictures = PicturesReceipt(
            summary=summary.model_copy(update={"views": 0}), seconds=seconds, plan_fingerprint=self.fingerprints[0],
            quarantine=None,
        )  # fmt: skip
        labels = LabelsReceipt(
            summary=summary, seconds=seconds, spec_fingerprint=self.fingerprints[1], environment=ENVIRONMENT
        )
        for path in files[:4]:
            path.touch()
        for path, receipt in zip(files[4:], (pictures, labels), strict=True):
            with patch("os.fsync"):
                write_sealed_json(path, receipt.model_dump(mode="json"))
        return labels

    def _files(self, shard: int) -> tuple[Path, ...]:
        assert self.layout is not None
        labels = self.layout.label_set("labels")
        return (
            self.layout.pictures_tar(shard), self.layout.pictures_index(shard), labels.tar(shard), labels.index(shard),
            self.layout.pictures_receipt(shard), labels.receipt(shard),
        )  # fmt: skip


class Marks(Silent):
    """Notes the processor time at the stages of a run."""

    def __init__(self) -> None:
        self.at = {"start": time.process_time()}
        self.peaks = {"start": peak_mib()}

    def say(self, message: str) -> None:
        self.mark("planned" if message.startswith("starting") else message)

    def stage(self, name: str, *_: Any) -> Any:
        self.mark(name)
        return lambda _: None

    def mark(self, name: str) -> None:
        self.at[name], self.peaks[name] = time.process_time(), peak_mib()


def measured(folder: Path, arm: str, workers: int) -> dict[str, Any]:
    """A run of an arm, and the same command again when all is there."""
    layout = CacheLayout(folder / arm.replace(" ", "-"), "folder")
    layout.plan.parent.mkdir(parents=True)
    listed = CacheLayout(folder / "plan", "synthetic")
    os.link(listed.listing, layout.listing)
    Plan.read(listed.plan).model_copy(update={"dataset": "folder"}).write(layout.plan)
    root = folder / "root"
    (root / "class").mkdir(parents=True, exist_ok=True)
    (root / "class" / "a.jpg").touch()
    work = Simulated()
    work.layout = layout
    ray = SimulatedRay(work, Fate(**ARMS[arm]), workers=workers, rng=np.random.default_rng(0))
    first = driver_run(layout, root, ray, workers)
    shards = Plan.read(layout.plan).shards
    ideal = ray.busy_seconds / workers
    figures = {
        **{name: value for name, value in first.items() if name != "work"},
        "dispatch_cpu_ms_a_shard": 1e3 * (first["work"] - work.spent - ray.spent) / shards,
        "ray_wait_calls_a_shard": ray.waits / shards,
        "references_waited_for_a_shard": ray.awaited / shards,
        "calls_of_counters_a_shard": ray.asked / shards,
        "workers_lost": ray.losses.total() + ray.lost_at_start,
        "shards_begun": ray.begun.total(),
        "begun_but_for_losses": ray.begun.total() - ray.losses.total(),
        "simulated_hours": ray.now / 3600,
        "simulated_hours_without_starts_and_ends": ideal / 3600,
    }
    again = driver_run(layout, root, SimulatedRay(work, Fate(), workers=workers, rng=np.random.default_rng(0)), workers)
    return {**figures, "same_command_again": {name: again[name] for name in ("plan_cpu_seconds", "rest_cpu_seconds")}}


def driver_run(layout: CacheLayout, root: Path, ray: SimulatedRay, workers: int) -> dict[str, Any]:
    """Processor seconds of a run of the driver by stage, the simulation's included."""
    config = trial_config(root, layout.out, executor="ray", label_set="labels", workers=workers)
    marks = Marks()
    settings = WorkerSettings("RN50:openai", None, None, None, None, 1)
    clock = (lambda: ray.now,)
    with (
        patch.dict(sys.modules, ray=ray),
        patch.object(dispatch.Dispatch.__init__, "__defaults__", (*clock, ray.sleep)),
        patch.object(counters.Counters.__init__, "__defaults__", clock),
        patch.object(run, "finish_cache", finishing := Finishing(marks)),
    ):
        summary = run.shard(config, marks, lambda _: RayExecutor(settings, workers=workers, address=None))
    end = time.process_time()
    assert summary.complete
    assert not summary.failed
    began = marks.at.get("shards", finishing.began)
    return {
        "plan_cpu_seconds": marks.at["planned"] - marks.at["start"],
        "rest_cpu_seconds": end - marks.at["planned"],
        "to_first_shard_cpu_seconds": began - marks.at["start"],
        "work": finishing.began - began,
        "finish_cpu_seconds": end - finishing.began,
        "peak_mib": {**{name: round(peak) for name, peak in marks.peaks.items()}, "end": round(peak_mib())},
    }


class Finishing:
    """`finish_cache`, and when it began."""

    def __init__(self, marks: Marks) -> None:
        self._call, self._marks = run.finish_cache, marks
        self.began = 0.0

    def __call__(self, *arguments: Any) -> tuple[str, ...]:
        self.began = time.process_time()
        self._marks.mark("finish")
        return self._call(*arguments)


if __name__ == "__main__":
    typer.run(main)
