"""Seconds and memory of a report of LVIS's size: 19,809 pictures x 300 drawn detections, 1,203 classes.

    python benchmarks/report.py --json benchmarks/results/report.json

Annotations and detections are drawn as `score.py` draws them; all pictures are one file under many names. Each report
is made by `richsem-train report`'s own code in a process of its own, so that its peak memory is its own: annotations
are read, the detections scored and explained, boxes cut out, page and JSON written. Seconds count no imports; processor
seconds count them too, but no other's load.
"""

import json as jsonlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from common import report, spread
from PIL import Image
from score import SIDE, draw_annotations, draw_detections

from richsem_schemas.scoring.detections import Detections, PictureDetections

EVALUATIONS = 12


def draw_run(folder: Path, images: int, an_image: int) -> None:
    """A run as its training would leave it, and its data."""
    from richsem_train.config import as_config, config_yaml
    from richsem_train.results.rank_files import rank_file, write_detections

    rng = np.random.default_rng(0)
    data = draw_annotations(images, rng)
    detections = draw_detections(data, an_image, rng)
    pictures = folder / "pictures"
    pictures.mkdir()
    Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(folder / "one.jpg")
    for image in data["images"]:
        image["file_name"] = f"{image['id']:012d}.jpg"
        os.link(folder / "one.jpg", pictures / image["file_name"])
    (folder / "annotations.json").write_text(jsonlib.dumps(data))
    split = {"annotations": "annotations.json", "images": "pictures"}
    config = as_config({"base": "baseline_r50_lvis", "data": str(folder), "detection": {"train": split, "val": split}})
    out = folder / "run"
    out.mkdir()
    (out / "config.yaml").write_text(config_yaml(config))
    names = [category["name"] for category in data["categories"]]
    with (out / "log.jsonl").open("w") as log:
        for step in range(1, EVALUATIONS + 1):
            aps = rng.random(len(names)).round(6).tolist()
            letters = "".join(category["frequency"] for category in data["categories"])
            for record in (
                {"event": "train", "step": step, "loss": 1.0},
                {"event": "classes", "step": step, "names": names, "frequencies": letters, "ap": aps},
                {"event": "eval", "step": step, "AP": 0.1},
            ):
                log.write(jsonlib.dumps(record) + "\n")
    write_detections(rank_file(out / "detections", 0), by_picture(detections))


def by_picture(detections: Detections) -> Iterator[tuple[int, PictureDetections]]:
    """Detections of a picture after the other, which is how they were drawn."""
    ids, starts = np.unique(detections.image_ids, return_index=True)
    corners = detections.boxes_xywh_px.copy()
    corners[:, 2:] += corners[:, :2]
    for image_id, start, end in zip(ids.tolist(), starts, [*starts[1:], len(corners)], strict=True):
        part = slice(start, end)
        yield image_id, PictureDetections(detections.category_ids[part], corners[part], detections.scores[part])


def made_report(folder: Path) -> dict[str, Any]:
    """Seconds and peak memory of this process."""
    from richsem_train.console import SilentReporter
    from richsem_train.run.reported_run import read_evaluated_run
    from richsem_train.run.write_report import write_report

    start = time.perf_counter()
    written = write_report(read_evaluated_run(folder / "run"), None, folder / "run", SilentReporter())
    return {
        "seconds": time.perf_counter() - start,
        "processor_seconds": time.process_time(),
        "peak_gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "page_megabytes": written.page.stat().st_size / 1e6,
        "json_megabytes": written.file.stat().st_size / 1e6,
    }


def main(
    images: Annotated[int, typer.Option()] = 19_809,
    detections: Annotated[int, typer.Option(help="An image.")] = 300,
    repeats: Annotated[int, typer.Option()] = 3,
    json: Annotated[Path | None, typer.Option(help="Write the figures here.")] = None,
    folder: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Make the same report several times."""
    if folder is not None:
        print(jsonlib.dumps(made_report(folder)))
        return
    with tempfile.TemporaryDirectory() as name:
        draw_run(Path(name), images, detections)
        command = [sys.executable, __file__, "--folder", name]
        made = [
            jsonlib.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout) for _ in range(repeats)
        ]
        detection_bytes = sum(file.stat().st_size for file in (Path(name) / "run" / "detections").iterdir())
    report(
        "report",
        {
            "images": images,
            "detections_an_image": detections,
            "detection_megabytes": detection_bytes / 1e6,
            "load_average_of_15_minutes": os.getloadavg()[2],
            **{key: spread([each[key] for each in made]) for key in made[0]},
        },
        json,
    )


if __name__ == "__main__":
    typer.run(main)
