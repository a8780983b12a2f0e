"""Peak memory from 200 to 2,000 pictures, and the plan of 14 million.

    python benchmarks/memory.py --json benchmarks/results/memory.json

Each measurement runs in a process of its own and reports its own peak (`ru_maxrss`).
"""

import io
import json as json_module
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from common import report
from PIL import Image

PEAK = "import resource, json; peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"

PLAN = (
    PEAK
    + """
import sys, time
from pathlib import Path
from richsem_prep.shard.plan import planned_entries
from richsem_schemas.cache.manifest import Plan
from richsem_schemas.cache.reader import find_layout
before = peak()
start = time.perf_counter()
layout = find_layout(Path(sys.argv[1]))
plan = Plan.read(layout.plan)
first = len(planned_entries(layout, plan, 0))
started = time.perf_counter() - start
start = time.perf_counter()
for shard in range(1, 21):
    planned_entries(layout, plan, shard)
print(json.dumps({"seconds_to_first_shard": started, "seconds_a_shard_after": (time.perf_counter() - start) / 20,
                  "peak_mib": peak(), "of_it_imports_mib": before, "shards": plan.shards}))
"""
)

SHARD = PEAK + (
    "import sys; from richsem_prep import cli; sys.argv[0] = 'richsem-prep'\n"
    "try: cli.app(standalone_mode=False)\n"
    "finally: print(json.dumps({'peak_mib': peak()}))\n"
)


def main(
    pictures: Annotated[str, typer.Option(help="Numbers of pictures, with commas.")] = "200,2000",
    entries: Annotated[int, typer.Option(help="Synthetic entries of the large plan.")] = 14_000_000,
    json: Annotated[Path | None, typer.Option(help="Write the figures here.")] = None,
) -> None:
    """Measure both."""
    counts = [int(count) for count in pictures.split(",")]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        peaks = {count: shard_peak(folder, count) for count in counts}
        freeze_seconds = freeze_large_plan(folder / "large", entries)
        plan = measured(PLAN, str(folder / "large"))
    report(
        "memory",
        {
            "peak_mib_by_pictures": peaks,
            "growth": peaks[counts[-1]] / peaks[counts[0]],
            "plan": {"entries": entries, "seconds_to_freeze": freeze_seconds, **plan},
        },
        json,
    )


def shard_peak(folder: Path, count: int) -> float:
    """Peak MiB of an inline run with the demo's teacher over `count` pictures of 400x500 pixels."""
    root = folder / f"pictures-{count}"
    rng = np.random.default_rng(0)
    (root / "class").mkdir(parents=True)
    for number in range(count):
        small = Image.fromarray(rng.integers(0, 256, (10, 8, 3), np.uint8))
        buffer = io.BytesIO()
        small.resize((400, 500)).save(buffer, "JPEG")
        (root / "class" / f"{number:05d}.jpg").write_bytes(buffer.getvalue())
    arguments = [
        "shard", "--dataset", "folder", "--root", str(root), "--out", str(folder / f"cache-{count}"), "--teacher",
        "demo", "--teacher-size", "256", "--mosaics", "1", "--executor", "inline",
    ]  # fmt: skip
    return measured(SHARD, *arguments)["peak_mib"]


def freeze_large_plan(out: Path, entries: int) -> float:
    """Seconds to freeze a listing of synthetic entries."""
    from richsem_prep.shard.plan import freeze_listing
    from richsem_prep.sources.entry import SourceEntry
    from richsem_schemas.cache.layout import CacheLayout
    from richsem_schemas.cache.manifest import Plan
    from richsem_schemas.vocabularies.vocabulary import Vocabulary

    def synthetic():
        for number in range(entries):
            name = f"n{number // 1000:08d}/n{number // 1000:08d}_{number % 1000}.JPEG"
            yield SourceEntry(name, name.encode(), -1, 100_000, 1)

    layout = CacheLayout(out, "synthetic")
    start = time.perf_counter()
    listing = freeze_listing(layout, synthetic(), on_progress=lambda _: None)
    seconds = time.perf_counter() - start
    Plan(
        dataset="synthetic", seed=0, listed=entries, samples=entries, samples_per_shard=1024, limit=None,
        pictures="copy", max_side=None, root=None, vocabulary=Vocabulary(name="x", class_names=("none", "x")),
        absent_classes=(), listing=listing.file, rejected=0, listing_quarantine=None,
    ).write(layout.plan)  # fmt: skip
    return seconds


def measured(code: str, *arguments: str) -> dict:
    """Run code in a process of its own; the JSON on its last line."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True, env={**os.environ}
    )
    return json_module.loads(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    typer.run(main)
