"""What the stages of preparation cost a processor, and for how long of that they hold Python's lock.

    python benchmarks/stage_costs.py --json benchmarks/results/stage_costs.json

Each stage runs in one thread, on drawn pictures of ImageNet's usual size, and its time is that thread's on a processor:
medians over repeats, with quartiles. The lock counts as held where bytes are copied from and to cykooz-resizer and from
arrays, which keep it, and for what the same calls cost where pictures and vocabulary are so small that nothing but the
calls is left; Pillow's decoder, resizing itself, and NumPy's work on whole arrays let it go.
"""

import io
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import numpy as np
import typer
from common import report, when
from cykooz_resizer import ImageData
from photographs import drawn_photograph
from PIL import Image

from richsem_prep.shard.progress import Progress
from richsem_prep.shard.stage_clock import StageClock
from richsem_prep.shard.task import LabelTask
from richsem_prep.teacher.region_encoder import CropEncoder, RoiAlignEncoder
from richsem_schemas.cache.codec import RecordLayout
from richsem_schemas.cache.layout import CacheLayout
from richsem_schemas.cache.manifest import ViewGeometry, ViewsSpec
from richsem_schemas.cache.recipes import AnnotatedPicture, block_views
from richsem_schemas.cache.render import render_view
from richsem_schemas.cache.shard import LabelShard
from richsem_schemas.cache.shard_writer import ShardWriter
from richsem_schemas.cache.soft_labels import unit_rows
from richsem_schemas.cache.view import View
from richsem_schemas.pictures.decode import decode_picture
from richsem_schemas.pictures.resize import PackedPicture

DIM, PICTURES = 1024, 64

TINY = ViewGeometry(short_sides=(12,), longest_side=16, first_short_sides=(9,), crop_sides=(6, 9), mosaic_tile=12)

Costs = dict[str, dict[str, Any]]
"""By stage: `seconds` of processor time, and `held`, seconds of those with the lock."""


class Held:
    """Processor seconds inside of calls that keep the lock; of the outer one where one calls another."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time counted."""

        def timed(*arguments: Any, **named: Any) -> Any:
            start, self._depth = time.thread_time(), self._depth + 1
            try:
                return function(*arguments, **named)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.seconds += time.thread_time() - start

        return timed


HELD = Held()


def cost(action: Callable[[], Any], repeats: int, *, calls: int = 1) -> dict[str, Any]:
    """Median processor seconds of one of the `calls` that `action` makes, their quartiles, and those with the lock."""
    found = []
    action()
    for _ in range(repeats):
        HELD.seconds, start = 0.0, time.thread_time()
        action()
        found.append(((time.thread_time() - start) / calls, HELD.seconds / calls))
    low, seconds, high = statistics.quantiles([total for total, _ in found], n=4)
    return {"seconds": seconds, "quartiles": [low, high], "held": statistics.median(held for _, held in found)}


def with_overhead(costs: dict[str, Any], tiny: dict[str, Any]) -> dict[str, Any]:
    """With what next to no work costs counted as held, too."""
    return {**costs, "held": min(costs["held"] + tiny["seconds"], costs["seconds"])}


@dataclass(frozen=True)
class Shown:
    """Pictures, the views of them, and encoders that prepare these.

    Attributes:
        views: crops first.
    """

    pictures: dict[int, PackedPicture]
    views: list[View]
    encoders: dict[str, Any]

    @classmethod
    def of(cls, pictures: dict[int, Image.Image], geometry: ViewGeometry, input_hw: tuple[int, int]) -> "Shown":
        """All views of a block."""
        annotated = [AnnotatedPicture(n, (p.height, p.width), 1) for n, p in pictures.items()]
        views = drawn(annotated, geometry)
        crop, roi = object.__new__(CropEncoder), object.__new__(RoiAlignEncoder)
        crop.spec = roi.spec = SimpleNamespace(teacher_size=None)  # type: ignore[assignment]
        crop._identity = SimpleNamespace(input_hw=input_hw, interpolation="bicubic")  # type: ignore[assignment]
        packed = {number: PackedPicture.of(picture) for number, picture in pictures.items()}
        return cls(packed, views, {"crop": crop, "roi-align": roi})

    def cost(self, kind: str, by: str, repeats: int) -> dict[str, Any]:
        """Of rendering a view and making of it what the network takes."""
        views = [view for view in self.views if view.kind == kind][:8]

        def render() -> None:
            for view in views:
                self.encoders[by].prepare(render_view(view, self.pictures), view.regions["box_xyxy_px"])

        return cost(render, repeats, calls=len(views))


def drawn(annotated: list[AnnotatedPicture], geometry: ViewGeometry) -> list[View]:
    """A pass of crops and one of mosaics."""
    spec = ViewsSpec(crops=1, mosaics=1, geometry=geometry)
    return list(block_views(annotated, spec, seed=0, shard=0, first_sample=0))


def measured(repeats: int) -> Costs:
    """All stages; by view, region, picture or megabyte as their names say."""
    data = [drawn_photograph(number) for number in range(PICTURES)]
    pictures = {number: decode_picture(each) for number, each in enumerate(data)}
    usual = Shown.of(pictures, ViewGeometry(), (224, 224))
    tiny_pictures = {n: each.resize((12, 9)) for n, each in pictures.items()}
    tiny = Shown.of(tiny_pictures, TINY, (8, 8))
    tiny_file = io.BytesIO()
    tiny_pictures[0].save(tiny_file, "JPEG")
    found = {
        "decode a picture": with_overhead(
            cost(lambda: [PackedPicture.of(decode_picture(each)) for each in data[:8]], repeats, calls=8),
            cost(lambda: PackedPicture.of(decode_picture(tiny_file.getvalue())), repeats),
        )
    }
    for kind, by in product(("crop", "mosaic"), ("roi-align", "crop")):
        found[f"{kind} for {by}"] = with_overhead(usual.cost(kind, by, repeats), tiny.cost(kind, by, repeats))
    big = np.zeros((4, 1280, 1280, 3), np.uint8)
    target = np.empty_like(big)
    found["stage a megabyte"] = cost(lambda: np.copyto(target, big), repeats, calls=big.nbytes // 10**6)
    annotated = [AnnotatedPicture(n, (p.height, p.width), 1) for n, p in pictures.items()]
    draw = cost(lambda: drawn(annotated, ViewGeometry()), repeats, calls=len(usual.views))
    write = writing(usual.views, repeats)
    found |= {"draw a view": with_overhead(draw, draw), "write a view": with_overhead(write, write)}
    overhead = packing(usual.views, 65, repeats)
    for classes in (1204, 20_000):
        found[f"pack a region of {classes} classes"] = with_overhead(packing(usual.views, classes, repeats), overhead)
    return found


def packing(views: list[Any], classes: int, repeats: int) -> dict[str, Any]:
    """Of a region, in a piece as the task packs them."""
    rng = np.random.default_rng(0)
    piece = [view for view in views if view.kind == "mosaic"][:16]
    features = [rng.standard_normal((len(view.regions), DIM)).astype(np.float32) for view in piece]
    inputs = SimpleNamespace(
        spec=SimpleNamespace(embeddings="float16", top_k=64, record_layout=RecordLayout("float16", DIM, 64)),
        text=SimpleNamespace(logit_scale=100.0),
        text_units=unit_rows(rng.standard_normal((classes, DIM)).astype(np.float32)),
    )
    task = LabelTask(None, inputs, None, Progress(), StageClock(), ThreadPoolExecutor(1))  # type: ignore[arg-type]
    pairs = list(zip(piece, features, strict=True))
    return cost(lambda: task.pack(pairs), repeats, calls=sum(map(len, features)))


def writing(views: list[Any], repeats: int) -> dict[str, Any]:
    """Of a view into the tar of labels."""
    with tempfile.TemporaryDirectory() as folder:
        shard = LabelShard(CacheLayout(Path(folder), "cost").label_set("cost"), 0)
        with ShardWriter(shard) as writer:
            members = [(f"000000-{n:05d}", {view.member: b"0" * 9_000}) for n, view in enumerate(views)]
            return cost(lambda: [writer.add(key, each) for key, each in members], repeats, calls=len(views))


def main(
    repeats: Annotated[int, typer.Option()] = 9,
    json: Annotated[Path | None, typer.Option(help="Write the figures here.")] = None,
) -> None:
    """Measure all stages."""
    PackedPicture.of_pixels = HELD.wrap(PackedPicture.of_pixels)  # type: ignore[method-assign]
    ImageData.__init__ = HELD.wrap(ImageData.__init__)
    ImageData.get_buffer = HELD.wrap(ImageData.get_buffer)
    report("stage_costs", {**when(), "costs": measured(repeats)}, json)


if __name__ == "__main__":
    typer.run(main)
