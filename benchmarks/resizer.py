"""What a view costs by each resizer, and how far its pixels and embeddings are from exact arithmetic.

    python benchmarks/resizer.py --root PICTURES --json benchmarks/results/resizer.json

Views are drawn as for caches from real pictures: rectangles as crops and windows show them, mosaics, whole pictures at
evaluation's size, and, as large pictures are, shrunk to a third. All resizers take turns at each view, with one thread,
from decoded pictures to an array; processor time is the main figure, since others may share the machine. torch and
OpenCV resize rectangles on the picture's grid only, so theirs are rounded to it, and held against the exact filter of
the rounded rectangle. The exact filter is the antialiased triangle in float64; embeddings are held against those of its
pixels, rounded once.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata, util
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from common import quartiles, report
from numpy.typing import NDArray
from PIL import Image
from teachers import random_rn50

from richsem_prep.teacher.region_encoder import make_region_encoder
from richsem_prep.teacher.teacher import load_teacher, parse_teacher
from richsem_schemas.cache.geometry import resized_hw
from richsem_schemas.cache.manifest import ViewGeometry
from richsem_schemas.cache.recipes import AnnotatedPicture, crop_view, mosaic_view
from richsem_schemas.cache.render import render_view
from richsem_schemas.cache.view import PAD_VALUE, REGION_DTYPE, TILE_DTYPE, View
from richsem_schemas.pictures.decode import decode_picture
from richsem_schemas.pictures.resize import KERNEL

GEOMETRY = ViewGeometry()

Pictures = Mapping[int, Image.Image]
Render = Callable[[View, Pictures], NDArray[np.uint8]]
Resize = Callable[[Image.Image, tuple[int, int], tuple[float, float, float, float]], NDArray[np.uint8]]


def main(
    root: Annotated[Path, typer.Option(help="A folder of pictures.")],
    pictures: Annotated[int, typer.Option(help="How many, drawn from all; a view of each kind is made of each.")] = 32,
    compared: Annotated[int, typer.Option(help="Views of each kind whose pixels are compared.")] = 12,
    embedded: Annotated[int, typer.Option(help="Those of them whose embeddings are.")] = 6,
    repeats: Annotated[int, typer.Option()] = 5,
    json: Annotated[Path | None, typer.Option(help="Write the figures here.")] = None,
) -> None:
    """Measure all of them."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg"})
    chosen = [paths[index].read_bytes() for index in rng.choice(len(paths), pictures, replace=False).tolist()]
    decoded = {index: decode_picture(data) for index, data in enumerate(chosen)}
    decoding = [clocked(decode_picture, data)[0] for data in chosen for _ in range(repeats)]
    views = drawn_views(decoded, rng)
    report(
        "resizer",
        {
            "resizer": KERNEL,
            "pillow": metadata.version("pillow"),
            "pictures": pictures,
            "decode_processor_ms_a_picture": quartiles(decoding),
            "render": {kind: rendering(of_kind, decoded, repeats) for kind, of_kind in views.items()},
            "grey_levels_from_exact": {kind: distances(of_kind[:compared], decoded) for kind, of_kind in views.items()},
            "embeddings": dict(embeddings({kind: each[:embedded] for kind, each in views.items()}, decoded)),
            "import_processor_ms": import_costs(),
        },
        json,
    )


def drawn_views(pictures: Pictures, rng: np.random.Generator) -> dict[str, list[View]]:
    samples = [AnnotatedPicture(index, (picture.height, picture.width), 1) for index, picture in pictures.items()]
    fours = [[samples[index] for index in rng.choice(len(samples), 4, replace=False)] for _ in samples]
    return {
        "crop or window": [crop_view(sample, 0, GEOMETRY, rng) for sample in samples],
        "mosaic": [mosaic_view(four, 0, GEOMETRY, rng) for four in fours],
        "whole at 800": [whole_view(sample, resized_hw(sample.hw, 800, 1333)) for sample in samples],
        "whole, shrunk": [whole_view(sample, (sample.hw[0] // 3, sample.hw[1] // 3)) for sample in samples],
    }


def whole_view(sample: AnnotatedPicture, out_hw: tuple[int, int]) -> View:
    height, width = out_hw
    tiles = np.array([(sample.sample, (0, 0, *sample.hw[::-1]), (0, 0, width, height), False)], TILE_DTYPE)
    return View("crop", 0, out_hw, tiles, np.array([((0, 0, width, height), 0, 1)], REGION_DTYPE))


def pillow_canvas(view: View, pictures: Pictures) -> NDArray[np.uint8]:
    """Pillow's pictures all the way, an array at the end."""
    canvas = Image.new("RGB", view.canvas_hw[::-1], (PAD_VALUE,) * 3)
    for tile in view.tiles:
        left, top, right, bottom = tile["paste_xyxy_px"].tolist()
        picture = pictures[int(tile["sample"])]
        box = inside(tile["source_xyxy_px"].tolist(), picture.size)
        scaled = picture.resize((right - left, bottom - top), Image.Resampling.BILINEAR, box=box)
        scaled = scaled.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if tile["flip"] else scaled
        if scaled.size == canvas.size:
            return np.asarray(scaled)
        canvas.paste(scaled, (left, top))
    return np.asarray(canvas)


def on_arrays(resize: Resize) -> Render:
    """As `render_view`, by another resizer."""

    def render(view: View, pictures: Pictures) -> NDArray[np.uint8]:
        canvas = np.full((*view.canvas_hw, 3), PAD_VALUE, np.uint8)
        for tile in view.tiles:
            left, top, right, bottom = tile["paste_xyxy_px"].tolist()
            picture = pictures[int(tile["sample"])]
            box = inside(tile["source_xyxy_px"].tolist(), picture.size)
            pixels = resize(picture, (bottom - top, right - left), box)
            if tile["flip"]:
                pixels = np.ascontiguousarray(pixels.view("V3")[:, ::-1, 0]).view(np.uint8).reshape(pixels.shape)
            if pixels.shape == canvas.shape:
                return pixels
            canvas[top:bottom, left:right] = pixels
        return canvas

    return render


def inside(box: list[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    return max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(size[0])), min(box[3], float(size[1]))


def on_grid(box: tuple[float, float, float, float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    left, top = min(round(box[0]), size[0] - 1), min(round(box[1]), size[1] - 1)
    return left, top, max(round(box[2]), left + 1), max(round(box[3]), top + 1)


def cut(picture: Image.Image, box: tuple[float, float, float, float]) -> NDArray[np.uint8]:
    left, top, right, bottom = on_grid(box, picture.size)
    return np.asarray(picture)[top:bottom, left:right]


def by_torch(
    picture: Image.Image, out_hw: tuple[int, int], box: tuple[float, float, float, float]
) -> NDArray[np.uint8]:
    pixels_13HW = torch.from_numpy(cut(picture, box).copy()).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(pixels_13HW, out_hw, mode="bilinear", antialias=True)
    return resized[0].permute(1, 2, 0).contiguous().numpy()


def by_opencv(
    picture: Image.Image, out_hw: tuple[int, int], box: tuple[float, float, float, float]
) -> NDArray[np.uint8]:
    """Areas where a side shrinks, since OpenCV's bilinear filter doesn't antialias; else its exact bilinear one."""
    import cv2

    pixels = cut(picture, box)
    shrinks = out_hw[0] < pixels.shape[0] or out_hw[1] < pixels.shape[1]
    filter_ = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR_EXACT
    return np.asarray(cv2.resize(pixels, out_hw[::-1], interpolation=filter_))


def exact(picture: Image.Image, out_hw: tuple[int, int], box: tuple[float, float, float, float]) -> NDArray[np.float64]:
    """The antialiased triangle filter in float64."""
    pixels = np.asarray(picture).astype(np.float64)
    rows = triangle_weights(pixels.shape[0], box[1], box[3], out_hw[0])
    columns = triangle_weights(pixels.shape[1], box[0], box[2], out_hw[1])
    return np.stack([rows @ pixels[..., channel] @ columns.T for channel in range(3)], axis=-1)


def exact_of_grid(
    picture: Image.Image, out_hw: tuple[int, int], box: tuple[float, float, float, float]
) -> NDArray[np.float64]:
    """The same of a rectangle on the grid, cut out first."""
    pixels = Image.fromarray(cut(picture, box))
    return exact(pixels, out_hw, (0, 0, *pixels.size))


def triangle_weights(size: int, start: float, stop: float, out: int) -> NDArray[np.float64]:
    scale = (stop - start) / out
    centres = start + (np.arange(out) + 0.5) * scale
    distance = np.abs(np.arange(size) + 0.5 - centres[:, None]) / max(scale, 1.0)
    weights = np.clip(1 - distance, 0, None)
    return weights / weights.sum(axis=1, keepdims=True)


def arms() -> dict[str, Render]:
    found: dict[str, Render] = {"pillow": pillow_canvas, "render_view": render_view}
    found["torch, on the grid"] = on_arrays(by_torch)
    if util.find_spec("cv2"):
        import cv2

        cv2.setNumThreads(1)
        found["opencv, on the grid"] = on_arrays(by_opencv)
    return found


def exact_view(view: View, pictures: Pictures, *, of_grid: bool) -> NDArray[np.float64]:
    resize = exact_of_grid if of_grid else exact
    canvas = np.full((*view.canvas_hw, 3), float(PAD_VALUE))
    for tile in view.tiles:
        left, top, right, bottom = tile["paste_xyxy_px"].tolist()
        picture = pictures[int(tile["sample"])]
        box = inside(tile["source_xyxy_px"].tolist(), picture.size)
        pixels = resize(picture, (bottom - top, right - left), box)
        canvas[top:bottom, left:right] = pixels[:, ::-1] if tile["flip"] else pixels
    return canvas


def clocked(action: Callable[..., Any], *args: Any) -> tuple[float, float]:
    """Processor and wall milliseconds of a call."""
    processor, wall = time.process_time(), time.perf_counter()
    action(*args)
    return (time.process_time() - processor) * 1e3, (time.perf_counter() - wall) * 1e3


def rendering(views: list[View], pictures: Pictures, repeats: int) -> dict[str, Any]:
    """Quartiles over views of each view's median, in ms; and of the ratio of Pillow's processor time to it."""
    times: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for view in views:
        each: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for _ in range(repeats):
            for name, render in arms().items():
                each[name].append(clocked(render, view, pictures))
        for name, taken in each.items():
            times[name].append((statistics.median(p for p, _ in taken), statistics.median(w for _, w in taken)))
    return {
        name: {
            "processor_ms": quartiles([processor for processor, _ in taken]),
            "wall_ms": quartiles([wall for _, wall in taken]),
            "faster_than_pillow": quartiles(
                [before / now for (before, _), (now, _) in zip(times["pillow"], taken, strict=True)]
            ),
        }
        for name, taken in times.items()
    }


def distances(views: list[View], pictures: Pictures) -> dict[str, Any]:
    """Mean, root mean square and largest distance of each resizer's pixels."""
    found: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
    for view in views:
        truths = {of_grid: exact_view(view, pictures, of_grid=of_grid) for of_grid in (False, True)}
        for name, render in {**arms(), "exact, rounded once": None}.items():
            truth = truths["grid" in name]
            distance = np.abs((render(view, pictures) if render else np.rint(truth)) - truth)
            found[name].append(np.array([distance.mean(), (distance**2).mean(), distance.max()]))
    return {
        name: {
            "mean": round(float(np.mean([each[0] for each in all_views])), 4),
            "root_mean_square": round(float(np.sqrt(np.mean([each[1] for each in all_views]))), 4),
            "largest": round(float(np.max([each[2] for each in all_views])), 3),
        }
        for name, all_views in found.items()
    }


def embeddings(views: dict[str, list[View]], pictures: Pictures) -> Iterator[tuple[str, Any]]:
    """1 - cosine between the embeddings of each resizer's pixels and of the exact ones rounded: mean and largest."""
    with tempfile.TemporaryDirectory() as scratch:
        for name, spec, size in (("demo", "demo", 256), ("RN50, random", random_rn50(Path(scratch)), 448)):
            teacher = load_teacher(parse_teacher(spec), device=torch.device("cpu"))
            encoder = make_region_encoder(teacher, kind="roi-align", teacher_size=size, precision="fp32")

            def encoded(pixels: NDArray[np.uint8], view: View, encoder: Any = encoder) -> NDArray[np.float64]:
                ((_, features),) = encoder.encode([(view, encoder.prepare(pixels, view.regions["box_xyxy_px"]))])
                return np.asarray(features, np.float64)

            found: dict[str, list[float]] = defaultdict(list)
            for view in (view for of_kind in views.values() for view in of_kind):
                truths = {
                    of_grid: encoded(np.rint(exact_view(view, pictures, of_grid=of_grid)).astype(np.uint8), view)
                    for of_grid in (False, True)
                }
                for arm, render in arms().items():
                    cosines = (encoded(render(view, pictures), view) * truths["grid" in arm]).sum(axis=1)
                    found[arm] += (1 - cosines).tolist()
            yield name, {arm: {"mean": statistics.mean(each), "largest": max(each)} for arm, each in found.items()}


def import_costs() -> dict[str, float]:
    """Median processor milliseconds that an import takes after NumPy's and Pillow's, in fresh processes."""
    found = {}
    for module in ("cykooz_resizer", "cv2", "torch"):
        if util.find_spec(module):
            code = f"import time, numpy, PIL.Image as _; t = time.process_time(); import {module}"
            code += "; print(time.process_time() - t)"
            command = [sys.executable, "-c", code]
            said = [subprocess.run(command, capture_output=True, check=True).stdout for _ in range(5)]
            found[module] = round(statistics.median(map(float, said)) * 1e3, 1)
    return found


if __name__ == "__main__":
    typer.run(main)
