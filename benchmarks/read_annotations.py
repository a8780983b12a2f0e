"""Seconds and memory to read annotations of LVIS's size: records decoded by their type against the standard parser.

    python benchmarks/read_annotations.py --json benchmarks/results/read_annotations.json

The file is drawn: as many pictures and annotations as LVIS v1's training split has, with polygons, about a gigabyte,
and an empty file for each picture, since looking for pictures belongs to reading. Each reader runs in a process of its
own, so that its peak memory is its own; importing doesn't count as time. Where the disk is slow, `--scale 0.1` draws a
tenth.
"""

import hashlib
import json as jsonlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from common import report

PICTURES, ANNOTATIONS, CATEGORIES = 100_170, 1_270_141, 1_203
POLYGONS = 5_000
"""Different polygons; the boxes, ids and areas beside them are drawn for each annotation."""

MEAN_POINTS = 42


def draw_polygons(rng: np.random.Generator) -> list[str]:
    """One or two polygons each, two decimals as LVIS has them."""
    return [
        jsonlib.dumps(
            [
                rng.uniform(0, 640, 2 * int(3 + rng.exponential(MEAN_POINTS - 3))).round(2).tolist()
                for _ in range(1 + int(rng.random() < 0.15))
            ]
        )
        for _ in range(POLYGONS)
    ]


def draw_file(folder: Path, scale: float, rng: np.random.Generator) -> None:
    """`annotations.json`, its lists in LVIS's order, and the pictures below `pictures`."""
    pictures, annotations = int(PICTURES * scale), int(ANNOTATIONS * scale)
    polygons = draw_polygons(rng)
    (folder / "pictures/train2017").mkdir(parents=True)
    with (folder / "annotations.json").open("w") as file:
        file.write('{"info": {"year": 2020}, "annotations": [')
        for start in range(0, annotations, 10_000):
            count = min(10_000, annotations - start)
            owners, classes = rng.integers(0, pictures, count), rng.integers(1, CATEGORIES + 1, count)
            boxes = np.concatenate([rng.uniform(0, 300, (count, 2)), rng.uniform(1, 180, (count, 2))], axis=1).round(2)
            chosen = rng.integers(0, POLYGONS, count)
            columns = zip(owners.tolist(), classes.tolist(), boxes.tolist(), chosen.tolist(), strict=True)
            records = [
                f'{{"area": {w * h * 0.7:.2f}, "id": {number}, "segmentation": {polygons[polygon]}, '
                f'"image_id": {owner}, "bbox": [{x}, {y}, {w}, {h}], "category_id": {category}}}'
                for number, (owner, category, (x, y, w, h), polygon) in enumerate(columns, start + 1)
            ]
            file.write((", " if start else "") + ", ".join(records))
        file.write('], "images": [')
        for number in range(pictures):
            name = f"train2017/{number:012d}.jpg"
            (folder / "pictures" / name).touch()
            record = {
                "id": number,
                "coco_url": f"http://images.cocodataset.org/{name}",
                "height": 480,
                "width": 640,
                "neg_category_ids": rng.integers(1, CATEGORIES + 1, 5).tolist(),
                "not_exhaustive_category_ids": [],
            }
            file.write((", " if number else "") + jsonlib.dumps(record))
        categories = [{"id": n, "name": f"c{n}", "frequency": "rcf"[n % 3]} for n in range(1, CATEGORIES + 1)]
        file.write(f'], "categories": {jsonlib.dumps(categories)}}}')


def read_with(reader: str, folder: Path) -> dict[str, Any]:
    """Seconds, peak memory and what was read, of this process; processor seconds count its imports too."""
    from richsem_schemas.annotations import coco_file, read_annotations

    if reader == "standard":
        coco_file._types = lambda _: {}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    start = time.perf_counter()
    data = read_annotations(folder / "annotations.json", folder / "pictures")
    seconds = time.perf_counter() - start
    content = [data.image_ids, data.hws_px, data.offsets, data.boxes_xywh_px, data.category_ids]
    return {
        "seconds": seconds,
        "processor_seconds": time.process_time(),
        "peak_gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "of_it_imports_gigabytes": before,
        "boxes": len(data.category_ids),
        "sha256": hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in content)).hexdigest(),
    }


def in_own_process(reader: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--reader", reader, "--folder", str(folder)]
    return dict(jsonlib.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, env=os.environ).stdout))


def main(
    scale: Annotated[float, typer.Option(help="Of LVIS's training split.")] = 1.0,
    json: Annotated[Path | None, typer.Option(help="Write the figures here.")] = None,
    reader: Annotated[str | None, typer.Option(hidden=True)] = None,
    folder: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Read the same file with both."""
    if reader is not None and folder is not None:
        print(jsonlib.dumps(read_with(reader, folder)))
        return
    with tempfile.TemporaryDirectory() as name:
        draw_file(Path(name), scale, np.random.default_rng(0))
        gigabytes = (Path(name) / "annotations.json").stat().st_size / 1e9
        typed, standard = (in_own_process(each, Path(name)) for each in ("typed", "standard"))
    assert typed["sha256"] == standard["sha256"], "both read the same"
    report(
        "read_annotations",
        {
            "scale": scale,
            "file_gigabytes": gigabytes,
            "typed": typed,
            "standard": standard,
            "standard_over_typed": standard["seconds"] / typed["seconds"],
            "load_average_of_15_minutes": os.getloadavg()[2],
        },
        json,
    )


if __name__ == "__main__":
    typer.run(main)
