"""`richsem-prep shard` on drawn photographs against the bare teacher, the same bytes twice, the trainer's loader."""

import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from figures import DEVICE, SMOKE, WORK, Figures
from loader import TILES, batches_in, loader, timed
from photographs import drawn_photograph
from PIL import Image
from teachers import random_teacher
from throughput import bare_forward, config
from trial import run_trial

from richsem_prep.shard.stage_clock import STAGES
from richsem_schemas.cache.soft_labels import class_log_probs, top_k_soft_labels
from richsem_schemas.pictures.decode import decode_picture

PICTURES = WORK / "pictures"
COUNT = 16 if SMOKE else 512
INET_LVIS_PICTURES = 1_200_000
"""ImageNet's pictures of LVIS's classes, about."""

BATCH = 2 if SMOKE else 16
MOSAIC_SIDE, TILE = (160, (80, 60)) if SMOKE else (1280, (640, 480))

Options = dict[str, Any]


def draw_pictures() -> dict[str, float]:
    """Pictures of ImageNet's usual size that compress about as photographs do; drawn once for all parts."""
    if not PICTURES.is_dir():
        with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            list(pool.map(draw_picture, range(COUNT), chunksize=8))
    sizes = [path.stat().st_size for path in PICTURES.glob("*/*.jpg")]
    return {"pictures": len(sizes), "mean_KiB": sum(sizes) / len(sizes) / 1024}


def draw_picture(number: int) -> None:
    path = PICTURES / f"class {number % 8}" / f"{number:05d}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(drawn_photograph(number))


def options_of(model: str, encoder: str, *, crops: int = 0, mosaics: int = 4) -> Options:
    """Of a run; in small by the demo's teacher."""
    return {
        "teacher": "demo" if SMOKE else random_teacher(model, WORK),
        "region_encoder": encoder,
        "teacher_size": 128 if SMOKE else None,
        "device": DEVICE.type,
        "precision": None,
        "limit": COUNT,
        "crops": crops,
        "mosaics": min(mosaics, 1) if SMOKE else mosaics,
    }


def run(out: Path, options: Options) -> dict[str, Any]:
    """Views/s of a whole run, and its seconds by stage, of threads those of all."""
    shutil.rmtree(out, ignore_errors=True)
    done = run_trial(config(PICTURES, out, options))
    results = done.results.values()
    views = sum(result.receipt.summary.views for result in results)
    return {
        "seconds": done.work_seconds,
        "views": views,
        "views_s": views / done.work_seconds,
        "failed": list(done.failed.values()),
        "stage_seconds": {stage: sum(result.seconds[stage] for result in results) for stage in STAGES},
    }


def bare(out: Path, options: Options) -> dict[str, float]:
    """The network alone, over the views of a run."""
    seconds, regions = bare_forward(out, options)
    return {"seconds": seconds, "regions": regions, "regions_s": regions / seconds}


def projected_hours(made: dict[str, Any], *, crops: int, mosaics: int) -> dict[str, float]:
    """Hours of one worker for INet-LVIS, by the pictures/s of a run with the same passes."""
    pictures_s = COUNT / made["seconds"]
    return {
        "pictures": INET_LVIS_PICTURES,
        "crops": crops,
        "mosaics": mosaics,
        "pictures_s": pictures_s,
        "hours": INET_LVIS_PICTURES / pictures_s / 3600,
    }


def same_bytes(first: Path, second: Path) -> dict[str, Any]:
    """Whether two runs wrote the same tars."""
    ones, others = digests(first), digests(second)
    return {
        "tars": len(ones),
        "differing": sorted(name for name in ones | others if ones.get(name) != others.get(name)),
    }


def digests(out: Path) -> dict[str, str]:
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in out.rglob("*.tar")}


def rates_of_threads() -> dict[int, dict[str, float]]:
    """Mosaics and pictures a second by threads of one process: what holds the interpreter's lock is a ceiling."""
    data = next(PICTURES.glob("*/*.jpg")).read_bytes()
    picture = decode_picture(data)

    def render(_: int) -> None:
        canvas = Image.new("RGB", (MOSAIC_SIDE, MOSAIC_SIDE))
        for corner in np.ndindex(2, 2):
            tile = picture.resize(TILE, Image.Resampling.BILINEAR, box=(5, 5, 370, 370))
            canvas.paste(tile, (corner[1] * MOSAIC_SIDE // 2, corner[0] * MOSAIC_SIDE // 2))
        np.asarray(canvas)

    found = {}
    for threads in (1, 2) if SMOKE else (1, 4, 8, 16, 32):
        calls = (4 if SMOKE else 24) * threads
        with ThreadPoolExecutor(threads) as pool:
            found[threads] = {
                "mosaics_s": rate(pool, render, calls),
                "decoded_s": rate(pool, lambda _: decode_picture(data), 4 * calls),
            }
    return found


def rate(pool: ThreadPoolExecutor, action: Callable[[int], object], calls: int) -> float:
    begun = time.perf_counter()
    list(pool.map(action, range(calls)))
    return calls / (time.perf_counter() - begun)


def packing() -> dict[int, dict[str, float]]:
    """Milliseconds a region of a thread that packs, by the number of classes."""
    rng = np.random.default_rng(0)
    regions_RD = rng.standard_normal((256, 1024)).astype(np.float32)
    found = {}
    for classes in (1204, 20_000):
        text_CD = rng.standard_normal((classes, 1024)).astype(np.float32)
        class_log_probs(regions_RD[:8], text_CD, logit_scale=100.0)
        begun = time.perf_counter()
        log_probs_RC = class_log_probs(regions_RD, text_CD, logit_scale=100.0)
        compared = time.perf_counter()
        for start in range(0, len(regions_RD), 64):
            top_k_soft_labels(log_probs_RC[start : start + 64], top_k=64)
        kept = time.perf_counter()
        found[classes] = {"log_probs_ms": 1e3 * (compared - begun) / 256, "top_k_ms": 1e3 * (kept - compared) / 256}
    return found


def loaded(cache: Path, workers: int) -> dict[str, float]:
    """The trainer's loader over the cache just made."""
    batches = batches_in(cache, None, "mosaics", BATCH, max(2, workers // 2))
    tiles = BATCH * TILES["mosaics"]
    seconds = timed(loader(cache, None, "mosaics", BATCH, batches, workers=workers), tiles)
    return {"views_s": 1 / seconds.wall / TILES["mosaics"], "tiles_s": 1 / seconds.wall, "tiles": batches * tiles}


def roi_align(figures: Figures) -> None:
    figures.measure("threads", rates_of_threads)
    figures.measure("packing", packing)
    mosaics = options_of("RN50-quickgelu", "roi-align")
    figures.measure("mosaics, RN50, roi-align, first run", lambda: run(WORK / "first", mosaics))
    figures.measure("mosaics, RN50, roi-align, second run", lambda: run(WORK / "mosaics", mosaics))
    figures.measure("the same bytes twice", lambda: same_bytes(WORK / "first", WORK / "mosaics"))
    figures.measure("bare forward of mosaics, RN50", lambda: bare(WORK / "mosaics", mosaics))
    crops = options_of("RN50-quickgelu", "roi-align", crops=1, mosaics=0)
    figures.measure("crops, RN50, roi-align", lambda: run(WORK / "crops", crops))
    figures.measure("bare forward of crops, RN50", lambda: bare(WORK / "crops", crops))
    usual = options_of("RN50-quickgelu", "roi-align", crops=1)
    project(figures, "RN50, roi-align", usual, crops=1, mosaics=4)


def project(figures: Figures, name: str, options: Options, *, crops: int, mosaics: int) -> None:
    """A run with the reference's passes, and what it makes of INet-LVIS."""
    made = figures.measure(f"1 crop and 4 mosaic passes, {name}", lambda: run(WORK / "usual", options))
    figures.measure(f"INet-LVIS, {name}", lambda: projected_hours(made, crops=crops, mosaics=mosaics))


def main(part: str) -> None:
    figures = Figures(part)
    if part == "loader":
        for workers in (0, 1) if SMOKE else (1, 4, 8, 16):
            figures.measure(f"{workers} workers", lambda workers=workers: loaded(WORK / "mosaics", workers))
        return
    figures.measure("pictures", draw_pictures)
    if part == "preparation-rn50":
        roi_align(figures)
        return
    by_vit = options_of("ViT-L-14-quickgelu", "crop", crops=1)
    project(figures, "ViT-L/14, crop", by_vit, crops=1, mosaics=4)
    figures.measure("bare forward, ViT-L/14", lambda: bare(WORK / "usual", by_vit))


if __name__ == "__main__":
    main(sys.argv[1])
