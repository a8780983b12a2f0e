"""Seconds and memory to score 3,000 images x 300 detections: `richsem_schemas.scoring.evaluation` against `lvis`.

    python benchmarks/score.py --json benchmarks/results/score.json

The images, annotations and detections are drawn: 1,203 categories, a long tail of frequencies, about 11 boxes an image
and as many negative categories as LVIS has; detections are the boxes, shaken, and strays. Each scorer runs in a process
of its own, once, so that its peak memory is its own. Loading the annotations counts, importing does not. `lvis` runs
with `np.float` put back, without which it fails on NumPy >= 1.24.
"""

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

from richsem_schemas.scoring.detections import Detections

CATEGORIES = 1203
BOXES_AN_IMAGE = 11
NEGATIVES_AN_IMAGE = 8
SIDE = 640


def draw_annotations(images: int, rng: np.random.Generator) -> dict[str, Any]:
    """LVIS-like annotations; the probability of a category falls with its rank."""
    chances = 1 / np.arange(1, CATEGORIES + 1)
    chances /= chances.sum()
    frequencies = ["f"] * 405 + ["c"] * 461 + ["r"] * 337
    annotations: list[dict[str, Any]] = []
    for image_id in range(1, images + 1):
        for category in rng.choice(CATEGORIES, rng.poisson(BOXES_AN_IMAGE), p=chances):
            width, height = np.exp(rng.uniform(np.log(8), np.log(400), 2))
            box = [rng.uniform(0, SIDE - width), rng.uniform(0, SIDE - height), width, height]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(category) + 1,
                    "bbox": [round(float(edge), 2) for edge in box],
                    "area": round(float(width * height * 0.7), 2),
                }
            )
    return {
        "images": [
            {
                "id": image_id,
                "file_name": f"{image_id}.jpg",
                "height": SIDE,
                "width": SIDE,
                "neg_category_ids": (rng.choice(CATEGORIES, NEGATIVES_AN_IMAGE, replace=False) + 1).tolist(),
                "not_exhaustive_category_ids": [],
            }
            for image_id in range(1, images + 1)
        ],
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": f"c{i + 1}", "frequency": f} for i, f in enumerate(frequencies)],
    }


def draw_detections(data: dict[str, Any], an_image: int, rng: np.random.Generator) -> Detections:
    """The boxes, shaken, and strays of the categories that count there and of others."""
    rows = []
    boxes: dict[int, list[dict[str, Any]]] = {}
    for annotation in data["annotations"]:
        boxes.setdefault(annotation["image_id"], []).append(annotation)
    for image in data["images"]:
        truth = boxes.get(image["id"], [])[:an_image]
        near = [a["category_id"] for a in truth] + image["neg_category_ids"]
        shaken = np.array([a["bbox"] for a in truth]).reshape(-1, 4) * (1 + 0.05 * rng.standard_normal((len(truth), 4)))
        strays = an_image - len(truth)
        corners, sizes = rng.uniform(0, SIDE / 2, (strays, 2)), rng.uniform(4, SIDE / 2, (strays, 2))
        categories = np.where(
            rng.random(strays) < 0.5, rng.choice(near, strays), rng.integers(1, CATEGORIES + 1, strays)
        )
        table = np.concatenate(
            [
                np.column_stack([[a["category_id"] for a in truth], shaken, rng.beta(4, 3, len(truth))]).reshape(-1, 6),
                np.column_stack([categories, corners, sizes, rng.beta(1, 6, strays)]),
            ]
        )
        rows.append(np.column_stack([np.full(len(table), image["id"]), table]))
    table = np.concatenate(rows)
    return Detections(
        table[:, 0].astype(np.int64),
        table[:, 1].astype(np.int64),
        np.abs(table[:, 2:6]).astype(np.float32),
        table[:, 6].astype(np.float32),
    )


def score_with(scorer: str, annotations: Path, detections: Detections) -> dict[str, Any]:
    """Seconds, AP and peak memory of this process; processor seconds count its imports too, but no other's load."""
    if scorer == "lvis":
        np.float = float
        from lvis import LVIS, LVISEval, LVISResults

        start = time.perf_counter()
        truth = LVIS(str(annotations))
        evaluation = LVISEval(truth, LVISResults(truth, detections.as_results()), "bbox")
        evaluation.run()
        metrics = {name: float(value) for name, value in evaluation.results.items() if name.startswith("AP")}
    else:
        from richsem_schemas.annotations import read_annotations
        from richsem_schemas.scoring.evaluation import score, truth_of

        start = time.perf_counter()
        data = read_annotations(annotations, annotations.parent, is_scored=True)
        metrics = score(truth_of(data, "lvis"), detections)
    return {
        "seconds": time.perf_counter() - start,
        "processor_seconds": time.process_time(),
        "peak_gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "metrics": metrics,
    }


def in_own_process(scorer: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--scorer", scorer, "--folder", str(folder)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=os.environ).stdout
    return dict(jsonlib.loads(output))


def main(
    images: Annotated[int, typer.Option()] = 3_000,
    detections: Annotated[int, typer.Option(help="An image.")] = 300,
    json: Annotated[Path | None, typer.Option(help="Write the figures here.")] = None,
    scorer: Annotated[str | None, typer.Option(hidden=True)] = None,
    folder: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Score the same detections with both."""
    if scorer is not None and folder is not None:
        with np.load(folder / "detections.npz") as arrays:
            print(jsonlib.dumps(score_with(scorer, folder / "annotations.json", Detections(**arrays))))
        return
    rng = np.random.default_rng(0)
    data = draw_annotations(images, rng)
    drawn = draw_detections(data, detections, rng)
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "annotations.json").write_text(jsonlib.dumps(data))
        (Path(name) / "picture.jpg").touch()
        np.savez(Path(name) / "detections.npz", **vars(drawn))
        ours, oracle = (in_own_process(scorer, Path(name)) for scorer in ("ours", "lvis"))
    report(
        "score",
        {
            "images": images,
            "detections_an_image": detections,
            "boxes": len(data["annotations"]),
            "ours": ours,
            "lvis": oracle,
            "load_average_of_15_minutes": os.getloadavg()[2],
            "lvis_over_ours": oracle["seconds"] / ours["seconds"],
            "largest_difference": max(abs(ours["metrics"][key] - value) for key, value in oracle["metrics"].items()),
        },
        json,
    )


if __name__ == "__main__":
    typer.run(main)
