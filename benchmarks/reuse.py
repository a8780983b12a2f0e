"""A cache used again, over making it: a second label set, and rescoring, by seconds and bytes.

    python benchmarks/reuse.py --root PICTURES --json benchmarks/results/reuse.json

The first run makes pictures and labels, the second another label set on the same pictures, with the same teacher, so
that only the pictures make a difference. Rescoring makes top-k labels for another temperature from the first set's
embeddings. All in this process on one worker; seconds are of the work, teacher and text are loaded before. Rescoring is
fast enough to repeat: the median. Without `--teacher`, a randomly initialised RN50 stands in: it costs the same.
"""

import os
import statistics
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from common import report
from teachers import random_rn50
from trial import few_classes, run_trial, trial_config

from richsem_prep.rescore.rescore import rescore
from richsem_schemas.cache.reader import open_cache


def main(
    root: Annotated[Path, typer.Option(help="A folder of pictures.")],
    teacher: Annotated[str | None, typer.Option(help="[default: a random RN50]")] = None,
    device: Annotated[str | None, typer.Option()] = None,
    pictures: Annotated[int, typer.Option()] = 32,
    classes: Annotated[int, typer.Option(help="Folders that the pictures are dealt into.")] = 16,
    teacher_size: Annotated[int | None, typer.Option(help="[default: the views' own, as in the paper]")] = None,
    rounds: Annotated[int, typer.Option(help="Of rescoring.")] = 7,
    json: Annotated[Path | None, typer.Option(help="Write the figures here.")] = None,
) -> None:
    """Measure one teacher."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        raw = few_classes(root, folder / "raw", pictures=pictures, classes=classes)
        named = teacher or random_rn50(folder)
        out = folder / "cache"
        options = {"teacher": named, "device": device, "teacher_size": teacher_size}
        runs = {name: run_trial(trial_config(raw, out, label_set=name, **options)) for name in ("first", "second")}
        rescored = [
            rescore(out, label_set=f"soft-{number}", source="first", temperature=2.0, threads=1).seconds
            for number in range(rounds)
        ]
        cache = open_cache(out)
    figures = compared(cache, {name: run.work_seconds for name, run in runs.items()}, rescored)
    setting = {"teacher": teacher or "RN50, randomly initialised", "pictures": pictures, "teacher_size": teacher_size}
    report("reuse", {**setting, **figures, "load_average": os.getloadavg()}, json)


def compared(cache: Any, seconds: dict[str, float], rescored: list[float]) -> dict[str, Any]:
    sets = {name: manifest.bytes for name, manifest in cache.label_sets.items()}
    first_bytes = cache.manifest.bytes + sets["first"]
    return {
        "regions": cache.label_sets["first"].regions,
        "seconds": {**seconds, "rescored": statistics.median(rescored), "rescored_all": rescored},
        "bytes": {
            "pictures": cache.manifest.bytes, "first": sets["first"], "second": sets["second"],
            "rescored": sets["soft-0"],
        },
        "second_over_first": {"seconds": seconds["second"] / seconds["first"], "bytes": sets["second"] / first_bytes},
        "rescored_over_first": {
            "seconds": statistics.median(rescored) / seconds["first"], "bytes": sets["soft-0"] / first_bytes,
        },
        "shard_over_rescore": seconds["second"] / statistics.median(rescored),
    }  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
