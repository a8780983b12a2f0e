"""Pictures/s of the extra data's loader over the floor, and beside plain webdataset and litdata.

    python benchmarks/loader.py --cache CACHE --json benchmarks/results/loader.json

The floor is one process with one thread that reads, decodes and renders the very views of a round, in their order, with
the functions of the cache's schema. The loader is `TrainingLoaders` with one worker (and, for its own cost, with none).
webdataset and litdata read the same pictures with one worker, decode them, and resize them to a mosaic's tile. All are
timed from their second batch on, since starting a process is no throughput; they take turns, medians over repeats.
"""

import functools
import io
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from common import report
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from richsem_schemas.cache.index import Rows, view_names
from richsem_schemas.cache.reader import find_layout, open_cache
from richsem_schemas.cache.render import render_view
from richsem_schemas.cache.shard import PictureShard
from richsem_schemas.io.files import hash_bytes
from richsem_schemas.pictures.decode import decode_picture
from richsem_train.data.cache.source import ExpectedCache, open_training_cache
from richsem_train.data.collate import Sample
from richsem_train.data.extra import ExtraDataset
from richsem_train.data.loaders import DetectionFeed, TrainingLoaders
from richsem_train.data.order import RankShare
from richsem_train.targets import Target

IN_PROCESS = ("floor", "loader, no worker")

TILES = {"mosaics": 4, "crops": 1, "free-mosaics": 4}


def main(
    cache: Annotated[Path, typer.Option(help="A finished cache that holds its pictures.")],
    label_set: Annotated[str | None, typer.Option(help="Needed where the cache has several.")] = None,
    batch: Annotated[int, typer.Option(help="Views a batch.")] = 16,
    rounds: Annotated[int, typer.Option(help="Rounds over the views in each measurement.")] = 3,
    repeats: Annotated[int, typer.Option()] = 5,
    json: Annotated[Path | None, typer.Option(help="Write the figures here.")] = None,
) -> None:
    """Measure all of them."""
    torch.set_num_threads(1)
    figures: dict[str, Any] = {"views_a_batch": batch, "rounds": rounds, "repeats": repeats}
    with tempfile.TemporaryDirectory() as scratch:
        figures["views"] = {
            views: compared(
                {
                    "floor": floor(cache, label_set, views, rounds),
                    "loader, 1 worker": loader(cache, label_set, views, batch, rounds, workers=1),
                    "loader, no worker": loader(cache, label_set, views, batch, rounds, workers=0),
                },
                repeats,
            )
            for views in ("mosaics", "crops")
        }
        figures["plain_pictures"] = compared(
            {
                "webdataset": from_webdataset(cache, 4 * batch, rounds),
                "litdata": from_litdata(cache, Path(scratch) / "litdata", 4 * batch, rounds),
            },
            repeats,
        )
    figures["hashing_share_of_the_floor"] = hashing_share(cache, figures["views"]["mosaics"]["floor"])
    figures["load_average"] = os.getloadavg()
    report("loader", figures, json)


Measurement = Callable[[], tuple[float, int]]
"""Gives pictures/s, and how many pictures were read in all."""


def compared(measurements: dict[str, Measurement], repeats: int) -> dict[str, Any]:
    """Pictures/s of each in turn, and the median of their ratios to the floor's.

    Processor seconds, where all is done in this process, stand beside them: on a machine with other work they are the
    steadier figure.
    """
    rates: dict[str, list[float]] = defaultdict(list)
    processor: dict[str, list[float]] = defaultdict(list)
    for _ in range(repeats):
        for name, measure in measurements.items():
            begun = sum(os.times()[:4])
            rate, pictures = measure()
            rates[name].append(rate)
            processor[name].append((sum(os.times()[:4]) - begun) / pictures)
    result: dict[str, Any] = {
        name: {"pictures_per_second": rates[name], "median": statistics.median(rates[name])} for name in measurements
    }
    for name in measurements if "floor" in rates else ():
        result[name]["over_floor"] = median_ratio(rates[name], rates["floor"])
        if name in IN_PROCESS:
            result[name]["processor_ms_a_picture"] = statistics.median(processor[name]) * 1e3
            result[name]["over_floor_by_processor_time"] = median_ratio(processor["floor"], processor[name])
    return result


def median_ratio(ones: list[float], others: list[float]) -> float:
    return statistics.median(one / other for one, other in zip(ones, others, strict=True))


def dataset_of(cache: Path, label_set: str | None, views: str) -> ExtraDataset:
    expected = ExpectedCache(views=views, labels="topk")  # type: ignore[arg-type]
    return ExtraDataset(open_training_cache(cache, label_set=label_set, expected=expected), seed=0)


def floor(cache: Path, label_set: str | None, views: str, rounds: int) -> Measurement:
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

    def measure() -> tuple[float, int]:
        shown, begun = 0, time.perf_counter()
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
        return shown / (time.perf_counter() - begun), shown

    return measure


class Nothing(Dataset):
    """Detection data that costs nothing, so that only the extra data is measured."""

    def __getitem__(self, _: Any) -> Sample:
        target = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 0, (1, 1), (1, 1))
        return Sample(torch.zeros(3, 1, 1, dtype=torch.uint8), target, "nothing")


def loader(cache: Path, label_set: str | None, views: str, batch: int, rounds: int, *, workers: int) -> Measurement:
    """The trainer's own way."""
    feed = DetectionFeed(Nothing(), lambda _: np.zeros(10**6, np.int64), 10**6 // batch)

    def measure() -> tuple[float, int]:
        dataset = dataset_of(cache, label_set, views)
        batches = rounds * dataset.order.samples_per_round // batch
        loaders = TrainingLoaders(feed, dataset, share=RankShare(batch), workers=workers)
        extra = (loaded for loaded in loaders.batches(0, 2 * (batches + 1)) if loaded.kind == "extra")
        return timed(extra, batch * TILES[views])

    return measure


def timed(batches: Iterator[Any], pictures: int) -> tuple[float, int]:
    """Pictures/s from the first batch to the last, and how many they and the first one hold."""
    next(batches)
    begun = time.perf_counter()
    count = sum(1 for _ in batches)
    return count * pictures / (time.perf_counter() - begun), (count + 1) * pictures


def tile_of(picture: Image.Image, side: int) -> torch.Tensor:
    resized = picture.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


def tile_side(cache: Path) -> int:
    return next(iter(open_cache(cache).label_sets.values())).spec.views.geometry.mosaic_tile


def from_webdataset(cache: Path, batch: int, rounds: int) -> Measurement:
    """A plain pipeline: decode, resize, batch."""
    import webdataset

    opened = open_cache(cache)
    shards = [str(opened.layout.pictures_tar(shard)) for shard in range(opened.manifest.plan.shards)]
    batches = rounds * opened.manifest.samples // batch
    side = tile_side(cache)

    def measure() -> tuple[float, int]:
        dataset = webdataset.WebDataset(shards, shardshuffle=False, empty_check=False).repeat()
        dataset = dataset.decode("pil").to_tuple("jpg;png;gif;webp;bmp;tif")
        dataset = dataset.map_tuple(functools.partial(tile_of, side=side)).batched(batch).with_epoch(batches + 1)
        return timed(iter(DataLoader(dataset, batch_size=None, num_workers=1)), batch)

    return measure


class DecodedTiles:
    """What litdata's dataset gives, decoded and resized."""

    def __init__(self, side: int) -> None:
        self.side = side

    def __call__(self, items: list[bytes]) -> torch.Tensor:
        return torch.stack([tile_of(Image.open(io.BytesIO(data)), self.side) for data in items])


def from_litdata(cache: Path, out: Path, batch: int, rounds: int) -> Measurement:
    """The same from litdata's own format, made of the same bytes."""
    import litdata

    opened = open_cache(cache)
    shards = range(opened.manifest.plan.shards)
    samples = [(shard, row) for shard in shards for row in range(len(opened.picture_shard(shard).rows()))]
    litdata.optimize(
        functools.partial(picture_bytes, cache),
        samples,
        str(out), num_workers=1, chunk_bytes="16MB", verbose=False,
    )  # fmt: skip
    side = tile_side(cache)

    def measure() -> tuple[float, int]:
        def batches() -> Iterator[Any]:
            for _ in range(rounds):
                yield from loader

        dataset = litdata.StreamingDataset(str(out), shuffle=False)
        loader = litdata.StreamingDataLoader(
            dataset, batch_size=batch, num_workers=1, collate_fn=DecodedTiles(side), drop_last=True,
            persistent_workers=True,
        )  # fmt: skip
        return timed(batches(), batch)

    return measure


def picture_bytes(cache: Path, place: tuple[int, int]) -> bytes:
    number, row = place
    shard, rows = shard_and_rows(cache, number)
    (stored,) = shard.pictures(rows[[row]], root=None)
    return stored.data


@functools.lru_cache(maxsize=64)
def shard_and_rows(cache: Path, number: int) -> tuple[PictureShard, Rows]:
    shard = PictureShard(find_layout(cache), number)
    return shard, shard.rows()


def hashing_share(cache: Path, floor: dict[str, Any]) -> float:
    """Processor time of hashing a picture over that of the floor for it."""
    opened = open_cache(cache)
    shards = [opened.picture_shard(number) for number in range(opened.manifest.plan.shards)]
    stored = [item.data for shard in shards for item in shard.pictures(shard.rows(), root=None)]
    begun = time.process_time()
    for data in stored:
        hash_bytes(data)
    return (time.process_time() - begun) / len(stored) / floor["processor_ms_a_picture"] * 1e3


if __name__ == "__main__":
    typer.run(main)
