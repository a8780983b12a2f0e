"""Time a picture of the extra data's loader, beside the floor and beside webdataset and litdata.

    python benchmarks/loader.py --cache CACHE --json benchmarks/results/loader.json

The floor is one process with one thread that reads, decodes and renders the very views of a round, in their order, with
the functions of the cache's schema. The loader is `TrainingLoaders` with one worker and with none. `plain_mosaics` says
what webdataset and litdata do, with one worker each. All take turns, and are timed once they have given some batches,
since starting a process and touching its memory is no throughput: wall time, and processor time of this process and its
children. Quartiles over repeats; ratios are those of one turn.
"""

import gc
import multiprocessing
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from common import quartiles, report
from plain_mosaics import by_litdata, by_webdataset, stored_samples, write_chunks, write_tar
from torch.utils.data import Dataset

from richsem_schemas.cache.index import Rows, view_names
from richsem_schemas.cache.reader import open_cache
from richsem_schemas.cache.render import render_view
from richsem_schemas.cache.view import ViewKind
from richsem_schemas.io.files import hash_bytes
from richsem_schemas.pictures.decode import decode_picture
from richsem_train.data.cache.source import ExpectedCache, open_training_cache
from richsem_train.data.collate import Sample
from richsem_train.data.extra import ExtraDataset
from richsem_train.data.loaders import DetectionFeed, TrainingLoaders
from richsem_train.data.order import RankShare
from richsem_train.targets import Target

KINDS: dict[str, ViewKind] = {"mosaics": "mosaic", "crops": "crop"}

TILES = {"mosaics": 4, "crops": 1}

WARM_UP = 5
"""Batches that aren't timed: as many as the loader with one worker has buffers, and one."""


def main(
    cache: Annotated[Path, typer.Option(help="A finished cache that holds its pictures.")],
    label_set: Annotated[str | None, typer.Option(help="Needed where the cache has several.")] = None,
    batch: Annotated[int, typer.Option(help="Views a batch.")] = 16,
    rounds: Annotated[int, typer.Option(help="Rounds over the views in each measurement.")] = 6,
    repeats: Annotated[int, typer.Option()] = 5,
    json: Annotated[Path | None, typer.Option(help="Write the figures here.")] = None,
) -> None:
    """Measure all of them."""
    torch.set_num_threads(1)
    figures: dict[str, Any] = {"views_a_batch": batch, "rounds": rounds, "repeats": repeats}
    with tempfile.TemporaryDirectory() as scratch:
        figures["views"] = {
            views: compared(arms(cache, label_set, views, batch, rounds, Path(scratch) / views), repeats)
            for views in KINDS
        }
    floor_ms = figures["views"]["mosaics"]["floor"]["processor_ms_a_picture"][1]
    figures["hashing_share_of_the_floor"] = hashing_ms(cache) / floor_ms
    figures["load_average"] = os.getloadavg()
    report("loader", figures, json)


class Seconds(NamedTuple):
    """Of one picture."""

    wall: float
    processor: float


Arm = Callable[[], Seconds]


def arms(cache: Path, label_set: str | None, views: str, batch: int, rounds: int, scratch: Path) -> dict[str, Arm]:
    """All that is compared, by name."""
    scratch.mkdir()
    tar, chunks, pictures = scratch / "samples.tar", scratch / "litdata", batch * TILES[views]
    write_tar(stored_samples(cache, label_set, KINDS[views]), tar)
    write_chunks(cache, label_set, KINDS[views], chunks)
    batches = batches_in(cache, label_set, views, batch, rounds)
    return {
        "floor": floor(cache, label_set, views, rounds),
        "loader, 1 worker": lambda: timed(loader(cache, label_set, views, batch, batches, workers=1), pictures),
        "loader, no worker": lambda: timed(loader(cache, label_set, views, batch, batches, workers=0), pictures),
        "webdataset, 1 worker": lambda: timed(by_webdataset(tar, batch, batches), pictures),
        "litdata, 1 worker": lambda: timed(by_litdata(chunks, batch, batches), pictures),
    }


def batches_in(cache: Path, label_set: str | None, views: str, batch: int, rounds: int) -> int:
    """How many of so many views so many rounds have, and those of the warm-up."""
    return WARM_UP + rounds * dataset_of(cache, label_set, views).order.samples_per_round // batch


def compared(measured: dict[str, Arm], repeats: int) -> dict[str, Any]:
    """Quartiles of each arm's times, and of the ratios of the floor's to them."""
    seconds: dict[str, list[Seconds]] = defaultdict(list)
    for _ in range(repeats):
        for name, arm in measured.items():
            wait_for_children()
            seconds[name].append(arm())
    result = {}
    for name, found in seconds.items():
        turns = list(zip(seconds["floor"], found, strict=True))
        result[name] = {
            "processor_ms_a_picture": quartiles([each.processor * 1e3 for each in found]),
            "wall_ms_a_picture": quartiles([each.wall * 1e3 for each in found]),
            "over_floor_by_processor_time": quartiles([least.processor / each.processor for least, each in turns]),
            "over_floor_by_wall_time": quartiles([least.wall / each.wall for least, each in turns]),
        }
    return result


def wait_for_children() -> None:
    """Until the workers of the arm before have ended: their clocks would end within the next arm's time."""
    gc.collect()
    for child in multiprocessing.active_children():
        child.join()


def processor_seconds() -> float:
    """Of this process and its running children, all their threads."""
    total = time.process_time()
    for child in multiprocessing.active_children():
        # The clock that Linux keeps of another process; one that has just ended has none.
        with suppress(OSError):
            total += time.clock_gettime(~child.pid << 3 | 2)
    return total


def timed(batches: Iterator[Any], pictures: int) -> Seconds:
    """Time a picture of batches of so many pictures each, without those of the warm-up."""
    for _ in range(WARM_UP):
        next(batches)
    begun, begun_processor, count = time.perf_counter(), processor_seconds(), 0
    ended = ended_processor = 0.0
    for _ in batches:
        # Before the workers end.
        count, ended, ended_processor = count + 1, time.perf_counter(), processor_seconds()
    shown = count * pictures
    return Seconds((ended - begun) / shown, (ended_processor - begun_processor) / shown)


def dataset_of(cache: Path, label_set: str | None, views: str) -> ExtraDataset:
    expected = ExpectedCache(views=views, labels="topk")  # type: ignore[arg-type]
    return ExtraDataset(open_training_cache(cache, label_set=label_set, expected=expected), seed=0)


def floor(cache: Path, label_set: str | None, views: str, rounds: int) -> Arm:
    """Read, decode and render; nothing else."""
    dataset = dataset_of(cache, label_set, views)
    source, order = dataset.cache.source, dataset.order
    # Which views there are, and in which order, is known beforehand.
    addresses = [order.addresses(n)[0] for n in range(rounds * order.samples_per_round)]
    names = [dataset.reader.read(address).name for address in addresses]
    numbers = range(source.plan.shards)
    shards = {number: (source.picture_shard(number), source.label_shard(number)) for number in numbers}
    pictures = {number: shard.rows() for number, (shard, _) in shards.items()}
    row_of = {
        (number, sample): row for number in numbers for row, sample in enumerate(pictures[number]["sample"].tolist())
    }
    rows: dict[str, Rows] = {}
    for _, shard in shards.values():
        views_of_shard = shard.rows()
        rows |= {name: views_of_shard[[row]] for row, name in enumerate(view_names(views_of_shard))}

    def measure() -> Seconds:
        shown, begun, begun_processor = 0, time.perf_counter(), time.process_time()
        for name in names:
            number = int(name[:6])
            picture_shard, label_shard = shards[number]
            (labelled,) = label_shard.views(rows[name])
            samples = sorted(set(labelled.view.tiles["sample"].tolist()))
            wanted = pictures[number][[row_of[number, sample] for sample in samples]]
            stored = picture_shard.pictures(wanted, root=None)
            decoded = {int(item.row["sample"]): decode_picture(item.data) for item in stored}
            render_view(labelled.view, decoded)
            shown += len(labelled.view.tiles)
        return Seconds((time.perf_counter() - begun) / shown, (time.process_time() - begun_processor) / shown)

    return measure


class Nothing(Dataset):
    """Detection data that costs nothing, so that only the extra data is measured."""

    def __getitem__(self, _: Any) -> Sample:
        target = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 0, (1, 1), (1, 1))
        return Sample(torch.zeros(3, 1, 1, dtype=torch.uint8), target, "nothing")


def loader(cache: Path, label_set: str | None, views: str, batch: int, batches: int, *, workers: int) -> Iterator[Any]:
    """The extra batches of the trainer's own loader."""
    feed = DetectionFeed(Nothing(), lambda _: np.zeros(10**6, np.int64), 10**6)
    dataset = dataset_of(cache, label_set, views)
    loaders = TrainingLoaders(feed, dataset, share=RankShare(1), extra_share=RankShare(batch), workers=workers)
    return (loaded.batch for loaded in loaders.batches(0, 2 * batches) if loaded.kind == "extra")


def hashing_ms(cache: Path) -> float:
    """Processor time of hashing a picture."""
    opened = open_cache(cache)
    shards = [opened.picture_shard(number) for number in range(opened.manifest.plan.shards)]
    stored = [item.data for shard in shards for item in shard.pictures(shard.rows(), root=None)]
    begun = time.process_time()
    for data in stored:
        hash_bytes(data)
    return (time.process_time() - begun) / len(stored) * 1e3


if __name__ == "__main__":
    typer.run(main)
