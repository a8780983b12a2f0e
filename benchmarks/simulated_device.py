"""How busy preparation keeps a GPU, without one: the real job over a device and stages that only take their time.

    python benchmarks/simulated_device.py --costs benchmarks/results/stage_costs.json --json JSON

What runs is `LabelTask` and the encoders: batches, their order, what is in flight, threads and what waits for what. In
the place of the work there are sleeps: decoding, rendering, packing, writing take the times that `stage_costs.py`
measured, on 16 cores, and for the share that holds Python's lock they take a lock, one a worker. The device is a thread
with a queue that is busy for the seconds of each batch. Two workers share cores and device. All times are stretched
alike, so that what this machine itself takes for the job's Python, on whatever else it does, weighs little: that Python
is among the measured stages. `sleeps_too_long_by` and `own_python_share` must both be small, or the machine was too
busy and the device would have been busier.

Assumed, not measured: the device's rates, those at which `docs` and earlier simulations bound a large GPU; what
launching a forward costs the host; bandwidth to pinned memory.
"""

import json as json_files
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import numpy as np
import torch
import typer
from common import report, when

from richsem_prep.shard import task as shard_task
from richsem_prep.shard.loaded_pictures import LoadedPicture
from richsem_prep.shard.progress import Progress
from richsem_prep.shard.stage_clock import StageClock
from richsem_prep.shard.task import LabelTask
from richsem_prep.teacher import device_forward, region_encoder
from richsem_schemas.cache.layout import BLOCK_SAMPLES, CacheLayout
from richsem_schemas.cache.manifest import ViewGeometry, ViewsSpec
from richsem_schemas.cache.shard import LabelShard
from richsem_schemas.io.ordered_map import ordered_map

CORES = 16
DIM = 1024

DEVICE = {
    "RN50 seconds a pixel": 1 / 373 / 1280**2,
    "ViT-L/14 seconds a region": 1 / 2090,
    "least seconds of a batch": 1.2e-3,
    "host seconds of launching RN50": 2e-3,
    "host seconds of launching ViT-L/14": 4e-3,
    "seconds between shards": 0.02,
}
"""Assumptions: 373 mosaics and 2,090 regions a second bound earlier simulations of a large GPU; about 200 kernels of
five microseconds each take a millisecond whatever they do; launching one costs the host about ten, with the lock."""


class Host:
    """Cores that all workers share, and the lock of each worker's Python."""

    def __init__(self, stretch: float) -> None:
        self.stretch = stretch
        self.wanted = self.slept = 0.0
        self._cores = threading.BoundedSemaphore(CORES)

    def spend(self, lock: threading.Lock, seconds: float, held: float) -> None:
        """Take a core for so long, and the lock for some of it."""
        with self._cores:
            with lock:
                self._sleep(held * self.stretch)
            self._sleep(max(seconds - held, 0) * self.stretch)

    def _sleep(self, seconds: float) -> None:
        start = time.perf_counter()
        time.sleep(seconds)
        # Good enough without a lock: it only tells whether this machine was too busy for the simulation.
        self.wanted += seconds
        self.slept += time.perf_counter() - start


class Device:
    """A queue of batches, worked off one after the other; counts how long it had something to do."""

    def __init__(self, stretch: float) -> None:
        self._stretch = stretch
        self._batches: queue.SimpleQueue[tuple[float, threading.Event] | None] = queue.SimpleQueue()
        self.useful = 0.0
        self.batches = 0
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def submit(self, seconds: float) -> threading.Event:
        """Queue a batch; the event says that it is done."""
        done = threading.Event()
        self._batches.put((seconds, done))
        return done

    def _work(self) -> None:
        owed = 0.0
        while (batch := self._batches.get()) is not None:
            seconds, done = batch
            start = time.perf_counter()
            wanted = max(seconds, DEVICE["least seconds of a batch"]) * self._stretch
            time.sleep(max(wanted - owed, 0))
            # What a sleep took too long is taken off the next ones: it is this machine's, not the device's.
            owed += time.perf_counter() - start - wanted
            owed = min(max(owed, 0), wanted)
            self.useful += seconds
            self.batches += 1
            done.set()


@dataclass(frozen=True)
class Case:
    """One setting.

    Attributes:
        teacher: `RN50` or `ViT-L/14`.
        encoder: `roi-align` or `crop`.
    """

    teacher: str
    encoder: str
    crops: int
    mosaics: int
    classes: int
    workers: int


class Forward:
    """In the place of `DeviceForward`: launching costs the host its time, and the batch waits its turn."""

    def __init__(self, teacher: Any, _: str) -> None:
        self.teacher, self.device = teacher, teacher.device
        self._case, self._host, self._costs, self._lock, self._gpu = teacher.simulated

    batch_pixels = device_forward.DeviceForward.batch_pixels
    batch_size = device_forward.DeviceForward.batch_size

    def staged(self, images: Any, hw: tuple[int, int], *, count: int) -> Any:
        megabytes = sum(each.size for each in images) / 1e6
        staging = self._costs["stage a megabyte"]
        self._host.spend(self._lock, megabytes * staging["seconds"], megabytes * staging["held"])
        return SimpleNamespace(shape=(count, *hw, 3), regions=sum(map(len, images)))

    def launch(self, _: Callable[..., Any], pixels: Any, *more: Any) -> Any:
        case = self._case
        seconds = DEVICE[f"host seconds of launching {case.teacher}"]
        self._host.spend(self._lock, seconds, seconds)
        if case.encoder == "crop":
            done = self._gpu.submit(pixels.shape[0] * DEVICE["ViT-L/14 seconds a region"])
            regions = pixels.regions
        else:
            done = self._gpu.submit(np.prod(pixels.shape[:3]) * DEVICE["RN50 seconds a pixel"])
            regions = len(more[0])
        return SimpleNamespace(wait=lambda: done.wait() and np.zeros((regions, DIM), np.float32))


class Task(LabelTask):
    """The task, its pure functions replaced by their time."""

    def spend(self, stage: str, times: float = 1) -> None:
        _, host, costs, lock, _ = self.inputs.simulated  # type: ignore[attr-defined]
        host.spend(lock, times * costs[stage]["seconds"], times * costs[stage]["held"])

    def blocks(self, pictures: Any) -> Iterator[Any]:
        for block in super().blocks(pictures):
            self.spend("draw a view", len(block.shown.views))
            yield block

    def prepare(self, shown: Any) -> Any:
        block, view = shown
        kind = self.encoder.spec.kind
        self.spend(f"{view.kind} for {kind}")
        hw = view.canvas_hw if kind == "roi-align" else (224, 224)
        images = np.broadcast_to(np.uint8(0), (1 if kind == "roi-align" else len(view.regions), *hw, 3))
        return (block.shown, view), region_encoder.PreparedView(images, view.regions["box_xyxy_px"])

    def pack(self, encoded: Any) -> list[bytes]:
        case, *_ = self.inputs.simulated  # type: ignore[attr-defined]
        self.spend(f"pack a region of {case.classes} classes", sum(len(view.regions) for view, _ in encoded))
        return [b""] * len(encoded)

    def write_block(self, block: Any, packed: list[bytes], _: Any) -> list[tuple]:
        assert len(block.views) == len(packed)
        self.spend("write a view", len(packed))
        return []


def pictures_of(samples: int, task: Task) -> Iterator[LoadedPicture]:
    """Decoded in threads, of sizes as ImageNet has them: half 500 x 375, a fifth of some other kind."""
    rng = np.random.default_rng(0)
    usual = [(375, 500)] * 10 + [(500, 375)] * 3 + [(333, 500)] * 2 + [(500, 500)]
    sizes = [
        usual[i] if (i := rng.integers(20)) < len(usual) else tuple(rng.integers(200, 600, 2)) for _ in range(samples)
    ]

    def load(sample: int) -> LoadedPicture:
        task.spend("decode a picture")
        return LoadedPicture(sample, str(sample), 1, None, b"", "jpg", sizes[sample], None)

    for picture in ordered_map(task.pool, load, range(samples), ahead=BLOCK_SAMPLES):
        # The picture itself goes into a tar, too, if not in labels of pictures that are there.
        task.spend("write a view")
        yield picture


def make_shards(case: Case, folder: Path, simulated: Any, *, shards: int, samples: int) -> None:
    """One worker's shards, one after the other."""
    _, host, _, _, _ = simulated
    visual = SimpleNamespace(image_size=224)
    identity = SimpleNamespace(embed_dim=DIM, input_hw=(224, 224), interpolation="bicubic")
    teacher = SimpleNamespace(
        device=torch.device("cuda"), identity=identity, clip_resnet=visual, encode_image=None, simulated=simulated
    )
    encoder = region_encoder.make_region_encoder(teacher, kind=case.encoder, teacher_size=None, precision="fp16")
    views = ViewsSpec(crops=case.crops, mosaics=case.mosaics, geometry=ViewGeometry())
    inputs = SimpleNamespace(
        layout=CacheLayout(folder, "simulated"), plan=SimpleNamespace(seed=0), simulated=simulated,
        spec=SimpleNamespace(views=views, fingerprint="0" * 64, precision="fp16"),
        environment={"device": "simulated", "torch_threads": 1, "versions": {}},
    )  # fmt: skip
    for number in range(shards):
        shard = LabelShard(inputs.layout.label_set("simulated"), number)
        with ThreadPoolExecutor(CORES // case.workers) as pool:
            task = Task(shard, inputs, encoder, Progress(), StageClock(), pool)  # type: ignore[arg-type]
            task.write(pictures_of(samples, task))
        time.sleep(DEVICE["seconds between shards"] * host.stretch)


def busy(case: Case, costs: dict[str, Any], *, stretch: float, shards: int, samples: int) -> dict[str, Any]:
    """The share of the time that the device was busy, all workers making shards at once, from the first to the last."""
    host, gpu = Host(stretch), Device(stretch)
    with tempfile.TemporaryDirectory() as scratch:
        workers = [
            threading.Thread(
                target=make_shards,
                args=(case, Path(scratch) / str(n), (case, host, costs, threading.Lock(), gpu)),
                kwargs={"shards": shards, "samples": samples},
            )
            for n in range(case.workers)
        ]
        start, processor = time.perf_counter(), time.process_time()
        for n, worker in enumerate(workers):
            worker.start()
            # Workers of a long run are anywhere in their shards, not side by side.
            time.sleep(0.0 if n else 0.5 * stretch)
        for worker in workers:
            worker.join()
    seconds = (time.perf_counter() - start) / stretch
    return {
        **vars(case), "device_busy": float(gpu.useful / seconds),
        "device_seconds": float(gpu.useful), "seconds": seconds, "batches": gpu.batches,
        "own_python_share": (time.process_time() - processor) / (seconds * stretch),
        "sleeps_too_long_by": host.slept / host.wanted - 1,
    }  # fmt: skip


CASES = [
    Case(teacher, encoder, crops, mosaics, classes, workers)
    for teacher, encoder, crops, mosaics, classes in (
        ("RN50", "roi-align", 0, 4, 1204),
        ("RN50", "roi-align", 1, 0, 1204),
        ("RN50", "roi-align", 1, 4, 1204),
        ("ViT-L/14", "crop", 1, 4, 1204),
        ("ViT-L/14", "crop", 1, 4, 20_000),
    )
    for workers in (1, 2)
]


def main(
    costs: Annotated[Path, typer.Option(help="What `stage_costs.py` wrote.")],
    stretch: Annotated[float, typer.Option(help="All times are so many times as long.")] = 10.0,
    shards: Annotated[int, typer.Option(help="Of each worker.")] = 2,
    samples: Annotated[int, typer.Option(help="Pictures of a shard.")] = 1024,
    only: Annotated[list[int] | None, typer.Option(help="Numbers of settings.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the figures here.")] = None,
) -> None:
    """Simulate all settings."""
    region_encoder.DeviceForward = Forward  # type: ignore[misc, assignment]
    shard_task.LabelsReceipt = SimpleNamespace  # type: ignore[misc, assignment]
    measured = json_files.loads(costs.read_text())["costs"]
    found = []
    for number, case in enumerate(CASES):
        if not only or number in only:
            found.append(busy(case, measured, stretch=stretch, shards=shards, samples=samples))
            print(found[-1], flush=True)
    report(
        "simulated_device",
        {**when(), "stretch": stretch, "assumed": DEVICE, "costs": measured, "cores": CORES, "cases": found},
        json,
    )


if __name__ == "__main__":
    typer.run(main)
