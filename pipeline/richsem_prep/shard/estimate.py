"""`richsem-prep estimate`: what a run of `shard` would take, from making a cache of a few of its pictures."""

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from richsem_prep.shard import run
from richsem_prep.shard.config import ShardConfig
from richsem_prep.shard.executor import MakeExecutor
from richsem_prep.shard.plan import default_samples_per_shard
from richsem_prep.shard.progress import OnProgress, Reporter, ShardOutcome, ShardResult
from richsem_schemas.cache.index import Rows
from richsem_schemas.cache.layout import CacheLayout
from richsem_schemas.cache.manifest import LabelSpec, Plan
from richsem_schemas.cache.shard import LabelShard, PictureShard
from richsem_schemas.errors import RichSemError

SHOWS_OF_EXTRA, SHOWS_OF_DETECTION = 10, 24
"""How often a training run of 24 epochs shows a picture, in the reference: an extra one about ten times, one of the
detection data once an epoch."""

_SHARD_SAMPLES = {"cpu": 8, "cuda": 64}
"""Pictures between two looks at the clock, by device."""

_TAR_BLOCK = 512
_HOUR = 3600.0


@dataclass(frozen=True)
class Estimate:
    """The cost of a whole run, scaled up from a sample.

    Attributes:
        measured: pictures of the sample, those in quarantine included.
        passes: of all kinds of views.
        shows: how often a training run shows a picture.
        device_hours: of one worker, whole shards: waiting for pictures and writing included.
        teacher_hours: of those, the teacher's.
        start_seconds: listing, loading the teacher, the text.
        workers: as asked for; None is not.
    """

    pictures: int
    shards: int
    measured: int
    quarantined: int
    measured_seconds: float
    device: str
    passes: int
    shows: int
    views: float
    regions: float
    listing_bytes: int
    picture_bytes: float
    label_bytes: float
    device_hours: float
    teacher_hours: float
    start_seconds: float
    workers: int | None

    @property
    def bytes(self) -> float:
        """Of OUT, but for indexes and receipts, which take about a thousandth."""
        return self.listing_bytes + self.picture_bytes + self.label_bytes

    @property
    def online_hours(self) -> float:
        """Device hours that the teacher takes inside of one training run: a forward at each show of each picture."""
        return self.teacher_hours / self.passes * self.shows

    def hours_with(self, workers: int) -> float:
        """Wall time of so many workers: that of the one with the most shards."""
        return self.device_hours * -(-self.shards // workers) / self.shards

    @property
    def runs_to_pay(self) -> float:
        """Training runs whose online teacher takes as many device hours as making the cache."""
        return self.device_hours / max(self.online_hours, 1e-12)


class _EnoughError(Exception):
    """The sample has been measured."""


@dataclass(eq=False)
class _Measurement:
    """Listens to a run until it has lasted long enough; the run reports to `reporter` through it."""

    reporter: Reporter
    seconds: float
    results: dict[int, ShardResult] = field(default_factory=dict)
    ends: list[float] = field(default_factory=list)
    started: float = 0.0

    def say(self, message: str) -> None:
        self.reporter.say(message)

    def stage(self, name: str, total: int | None, unit: str) -> OnProgress:
        self.started = time.monotonic()
        return self.reporter.stage(name, total, unit)

    def shard_done(self, outcome: ShardOutcome) -> None:
        if outcome.result is None:
            raise RichSemError(outcome.failure.message if outcome.failure else "the sample can't be made")
        self.results[outcome.shard] = outcome.result
        self.ends.append(time.monotonic())
        if self.ends[-1] - self.started > self.seconds:
            raise _EnoughError

    @property
    def shard_seconds(self) -> dict[int, float]:
        """Seconds of each shard; the first, which warms up, is left out where there are others."""
        starts = [self.started, *self.ends]
        seconds = {shard: self.ends[n] - starts[n] for n, shard in enumerate(self.results)}
        if len(seconds) > 1:
            seconds.pop(next(iter(seconds)))
        return seconds


def estimate(
    config: ShardConfig, reporter: Reporter, make_executor: MakeExecutor, *, samples: int, seconds: float
) -> Estimate:
    """Make a cache of some pictures, drawn from all, in a temporary folder, and scale up.

    Args:
        config: of the whole run; nothing is written into its OUT, and what it says about one that is there is ignored.
        reporter: where to say what is done.
        make_executor: makes the executor of the sample, which is `inline`.
        samples: pictures to measure.
        seconds: stop after the shard in which so much time has passed; fewer pictures are measured then.

    Raises:
        RichSemError: what `shard` would raise; or no picture of the sample can be read.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="richsem-estimate-") as folder:
        trial = config.model_copy(
            update={
                "out": Path(folder) / "cache",
                "limit": min(samples, config.limit or samples),
                "samples_per_shard": _SHARD_SAMPLES[_device_type(config.device)],
                "executor": "inline",
                "workers": None,
                "ray_address": None,
                "overwrite": False,
                "retry_failed": False,
                "shard_range": None,
            }
        )
        sample = _Measurement(reporter, seconds)
        try:
            run.shard(trial, sample, make_executor)
        except _EnoughError:
            reporter.say(f"{seconds:g} seconds are over; {len(sample.results)} small shards were measured")
        return _scaled(config, CacheLayout(Path(folder) / "cache", config.dataset), sample, sample.started - started)


def _device_type(device: str | None) -> str:
    import torch  # noqa: PLC0415 - as late as the teacher

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    return "cuda" if device.startswith("cuda") else "cpu"


def _scaled(config: ShardConfig, layout: CacheLayout, sample: _Measurement, start_seconds: float) -> Estimate:
    plan, spec = Plan.read(layout.plan), LabelSpec.read(layout.label_set(config.label_set).spec)
    receipts = [result.receipt for result in sample.results.values()]
    good = sum(receipt.summary.samples for receipt in receipts)
    quarantined = sum(result.quarantined for result in sample.results.values())
    if not good:
        raise RichSemError(f"none of {quarantined} pictures of {config.root} can be read; see what they are")
    timed = sample.shard_seconds
    timed_samples = sum(sample.results[shard].receipt.summary.samples for shard in timed)
    teacher_seconds = sum(sample.results[shard].seconds["encode"] for shard in timed)
    pictures = min(plan.listed, config.limit or plan.listed)
    # What can't be read takes no time and no room.
    usable = pictures * good / (good + quarantined)
    views, labels, numbers = spec.views, layout.label_set(config.label_set), sample.results
    return Estimate(
        pictures=pictures,
        shards=-(-pictures // (config.samples_per_shard or default_samples_per_shard(pictures))),
        measured=good + quarantined,
        quarantined=quarantined,
        measured_seconds=sample.ends[-1] - sample.started,
        device=receipts[0].environment.device,
        passes=sum(views.passes.values()),
        shows=SHOWS_OF_DETECTION if views.has_boxes else SHOWS_OF_EXTRA,
        views=sum(receipt.summary.views for receipt in receipts) / good * usable,
        regions=sum(receipt.summary.regions for receipt in receipts) / good * usable,
        listing_bytes=plan.listing.bytes,
        picture_bytes=sum(_picture_bytes(PictureShard(layout, number).rows()) for number in numbers) / good * usable,
        label_bytes=sum(_in_tar(LabelShard(labels, number).rows()["size"]) for number in numbers) / good * usable,
        device_hours=sum(timed.values()) / max(timed_samples, 1) * usable / _HOUR,
        teacher_hours=teacher_seconds / max(timed_samples, 1) * usable / _HOUR,
        start_seconds=start_seconds,
        workers=config.workers,
    )


def _picture_bytes(rows: Rows) -> int:
    return _in_tar(rows["json_size"]) + _in_tar(rows["size"][rows["offset"] >= 0])


def _in_tar(sizes: NDArray[np.int64]) -> int:
    """Bytes that members take: a tar of few pictures is padded too much to be scaled up."""
    return int((_TAR_BLOCK + -(-sizes // _TAR_BLOCK) * _TAR_BLOCK).sum())
