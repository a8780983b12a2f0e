"""`richsem-prep verify` over reading and hashing the same bytes with the same threads.

    python benchmarks/verify.py --root PICTURES --json benchmarks/results/verify.json
    python benchmarks/verify.py --root PICTURES --cache caches/demo --json benchmarks/results/verify.json

The floor reads every file of the cache from start to end and takes its SHA-256. Both take turns, after a round that
doesn't count, so that the files are in the page cache for both; a ratio is the median over rounds of both in a round.
Processor seconds stand beside wall seconds, since cores may be shared. The cache of `--root` has pictures as they are
and labels as wide as RN50's (1,024 numbers, top 64, one pass of crops and four of mosaics), by a tiny stand-in of a
teacher. Caches of smaller pictures, or in smaller shards, have more to do a byte: they are the harder case.
"""

import hashlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer
from common import report
from teachers import small_clip
from trial import few_classes, run_trial, trial_config

from richsem_prep.verify.cache import verify_cache

WIDTH_OF_RN50 = 1024


def main(
    root: Annotated[Path, typer.Option(help="A folder of pictures.")],
    cache: Annotated[list[Path] | None, typer.Option(help="A finished cache to measure as well.")] = None,
    pictures: Annotated[int, typer.Option(help="Of ROOT, repeated where it has fewer: a whole shard.")] = 1024,
    threads: Annotated[int, typer.Option()] = 1,
    rounds: Annotated[int, typer.Option()] = 7,
    json: Annotated[Path | None, typer.Option(help="Write the figures here.")] = None,
) -> None:
    """Measure the cache of ROOT, and others."""
    with tempfile.TemporaryDirectory() as scratch:
        made = make_cache(root, Path(scratch), pictures)
        cases = {"pictures of ROOT": made, **{str(path): path for path in cache or ()}}
        figures = {name: measured(path, threads, rounds) for name, path in cases.items()}
    report("verify", {"threads": threads, "rounds": rounds, "caches": figures, "load_average": os.getloadavg()}, json)


def make_cache(root: Path, scratch: Path, pictures: int) -> Path:
    raw = few_classes(root, scratch / "raw", pictures=pictures, classes=80)
    teacher = small_clip(scratch / "teacher", embed_dim=WIDTH_OF_RN50)
    out = scratch / "cache"
    run_trial(trial_config(raw, out, teacher=teacher, teacher_size=64, label_set="wide", device="cpu"))
    return out


def measured(cache: Path, threads: int, rounds: int) -> dict[str, Any]:
    arms: dict[str, Callable[[], int]] = {
        "floor": lambda: read_and_hash(cache, threads),
        "verify": lambda: checked(cache, threads, thorough=False),
        "thorough": lambda: checked(cache, threads, thorough=True),
    }
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
    found = verify_cache(cache, threads=threads)
    for number in range(rounds + 1):
        for name, arm in arms.items():
            start = time.perf_counter(), time.process_time()
            arm()
            if number:
                seconds[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return {
        "bytes": found.bytes,
        "files": found.files,
        "pictures": found.pictures,
        "views": found.views,
        "regions": found.regions,
        "seconds": {name: statistics.median(wall for wall, _ in runs) for name, runs in seconds.items()},
        "megabytes_per_second": found.bytes / 1e6 / statistics.median(wall for wall, _ in seconds["verify"]),
        **{
            f"{name}_over_floor": {
                "seconds": ratio(seconds[name], seconds["floor"], 0),
                "processor_seconds": ratio(seconds[name], seconds["floor"], 1),
            }
            for name in ("verify", "thorough")
        },
    }


def ratio(ones: list[tuple[float, float]], others: list[tuple[float, float]], place: int) -> float:
    return statistics.median(one[place] / other[place] for one, other in zip(ones, others, strict=True))


def read_and_hash(cache: Path, threads: int) -> int:
    files = [path for path in sorted(cache.rglob("*")) if path.is_file()]
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(hash_file, files))


def hash_file(path: Path) -> int:
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        while data := file.read(2**20):
            digest.update(data)
            size += len(data)
    return size


def checked(cache: Path, threads: int, *, thorough: bool) -> int:
    found = verify_cache(cache, threads=threads, thorough=thorough)
    assert not found.problems, found.problems
    return found.bytes


if __name__ == "__main__":
    typer.run(main)
