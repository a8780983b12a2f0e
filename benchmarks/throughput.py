"""End-to-end regions/s over the bare teacher's forward, and what bounds the run.

    python benchmarks/throughput.py --root PICTURES --json benchmarks/results/throughput.json

The floor is the network's forward over the very views of the run, rendered and in memory, on the same device in the
same batches with the same threads. Run and floor alternate, and each run is compared with the floor after it: medians
over repeats, with quartiles. Imports, weights and the text bank are left out of both. Without `--teacher`, a randomly
initialised RN50 stands in.
"""

import shutil
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from common import report, spread
from teachers import random_rn50
from trial import run_trial, trial_config

from richsem_prep.shard.stage_clock import STAGES
from richsem_schemas.cache.reader import open_cache
from richsem_schemas.cache.render import render_view
from richsem_schemas.pictures.decode import decode_picture


def main(
    root: Annotated[Path, typer.Option(help="A folder of pictures, one folder a class.")],
    teacher: Annotated[str | None, typer.Option(help="[default: a random RN50]")] = None,
    region_encoder: Annotated[str, typer.Option()] = "roi-align",
    teacher_size: Annotated[int | None, typer.Option()] = None,
    device: Annotated[str | None, typer.Option()] = None,
    precision: Annotated[str | None, typer.Option()] = None,
    limit: Annotated[int, typer.Option(help="Pictures.")] = 64,
    crops: Annotated[int, typer.Option()] = 1,
    mosaics: Annotated[int, typer.Option()] = 4,
    repeats: Annotated[int, typer.Option(min=2)] = 5,
    json: Annotated[Path | None, typer.Option(help="Write the figures here.")] = None,
) -> None:
    """Measure one setting."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        options = {
            "teacher": teacher or random_rn50(folder), "region_encoder": region_encoder, "teacher_size": teacher_size,
            "device": device, "precision": precision, "limit": limit, "crops": crops, "mosaics": mosaics,
        }  # fmt: skip
        runs, floors, regions, last = [], [], 0, None
        for number in range(repeats):
            out = folder / f"cache-{number}"
            last = run_trial(config(root, out, options))
            runs.append(last.work_seconds)
            seconds, regions = bare_forward(out, options)
            floors.append(seconds)
            shutil.rmtree(out)
        assert last is not None
    run, floor = spread(runs), spread(floors)
    stages = {stage: sum(result.seconds[stage] for result in last.results.values()) for stage in STAGES}
    setting = {name: value for name, value in options.items() if name != "teacher"}
    report(
        f"throughput-{region_encoder}",
        {
            "teacher": teacher or "RN50, randomly initialised",
            **setting,
            "regions": regions,
            "run_seconds": {**run, "all": runs},
            "floor_seconds": {**floor, "all": floors},
            "run_regions_per_second": regions / run["median"],
            "floor_regions_per_second": regions / floor["median"],
            "ratio": spread([floor / run for run, floor in zip(runs, floors, strict=True)]),
            "stage_seconds_last_run": stages,
            "bound_by": "the teacher" if stages["wait"] < stages["encode"] / 10 else "reading, decoding and rendering",
        },
        json,
    )


def config(root: Path, out: Path, options: dict[str, Any]) -> Any:
    """A run in this process, pictures and labels, with everything else as it is by default."""
    return trial_config(root, out, label_set="bench", **options)


def bare_forward(out: Path, options: dict[str, Any]) -> tuple[float, int]:
    """Seconds of the network alone over the views of a cache, prepared beforehand; and how many regions they have."""
    from richsem_prep.executors.worker import Worker
    from richsem_prep.teacher.worker_settings import WorkerSettings

    names = ("teacher", "region_encoder", "teacher_size", "device", "precision")
    worker = Worker(WorkerSettings(**{name: options[name] for name in names}, decode_threads=1))
    cache = open_cache(out)
    prepared = []
    for shard in range(cache.manifest.plan.shards):
        kept, labels = cache.picture_shard(shard), cache.label_shard("bench", shard)
        stored = kept.pictures(kept.rows(), root=None)
        pictures = {int(item.row["sample"]): decode_picture(item.data) for item in stored}
        views = [v.view for v in labels.views(labels.rows())]
        # In the order of the run, so that batches are the same: by block, crops first, then mosaics by pass.
        views.sort(key=lambda view: (view.tiles["sample"][0] // 64, view.kind, view.pass_index))
        encoder = worker.encoder
        prepared += [encoder.prepare(render_view(view, pictures), view.regions["box_xyxy_px"]) for view in views]
    start = time.perf_counter()
    regions = sum(len(features) for _, features in worker.encoder.encode(enumerate(prepared)))
    return time.perf_counter() - start, regions


if __name__ == "__main__":
    typer.run(main)
