"""Two Ray workers over one, on the same pictures.

    python benchmarks/workers.py --root PICTURES --json benchmarks/results/workers.json

Pictures/s while shards are made, start-up left out, medians over repeats.
"""

import statistics
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from common import report
from teachers import random_rn50
from trial import run_trial, trial_config


def main(
    root: Annotated[Path, typer.Option(help="A folder of pictures, one folder a class.")],
    teacher: Annotated[str | None, typer.Option(help="[default: a random RN50]")] = None,
    limit: Annotated[int, typer.Option(help="Pictures.")] = 48,
    shards: Annotated[int, typer.Option()] = 8,
    repeats: Annotated[int, typer.Option()] = 3,
    json: Annotated[Path | None, typer.Option(help="Write the figures here.")] = None,
) -> None:
    """Measure one and two workers in turn."""
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        named = teacher or random_rn50(folder)
        for number in range(repeats):
            for workers, measured in seconds.items():
                config = trial_config(
                    root, folder / f"{number}-{workers}", teacher=named, executor="ray", workers=workers, mosaics=1,
                    region_encoder="crop", samples_per_shard=limit // shards, limit=limit,
                )  # fmt: skip
                measured.append(run_trial(config).work_seconds)
    one, two = (statistics.median(seconds[workers]) for workers in (1, 2))
    report(
        "workers",
        {
            "teacher": teacher or "RN50, randomly initialised", "region_encoder": "crop", "pictures": limit,
            "shards": shards, "seconds_by_workers": seconds, "pictures_per_second": {1: limit / one, 2: limit / two},
            "ratio": one / two,
        },
        json,
    )  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
