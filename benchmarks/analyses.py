"""Seconds and memory of `richsem-prep analyze zero-shot` and `location-noise` on caches of the size of LVIS.

    python benchmarks/analyses.py --json benchmarks/results/analyses.json

Three caches are drawn, one after the other, by the writers of real ones: as many wholes as LVIS's training split has
boxes (1.2 million), as many as its val split has (245,000, scored as well), and a tenth of the first number with a
noised copy of each at ten scales. Labels are as wide as RN50's: 1,204 classes, of which 64 are kept, and embeddings of
1,024 float16. Each region has one of some thousand embeddings, since making a million labels takes longer than what is
measured. Needs 3.5 GB of disk below --scratch for as long as it runs; `--scale 0.1` draws a tenth.

Each round runs in a process of its own, so that its peak memory is its own; importing doesn't count as time. Processor
seconds stand beside wall seconds, since cores may be shared.
"""

import json as jsonlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from common import report
from numpy.typing import NDArray

from richsem_prep.shard.finish import finish_cache
from richsem_prep.shard.plan import freeze_listing
from richsem_prep.sources.entry import PictureBoxes, SourceEntry
from richsem_schemas.cache.codec import pack_view
from richsem_schemas.cache.index import PICTURE_ROW, VIEW_ROW
from richsem_schemas.cache.layout import CacheLayout, sample_key
from richsem_schemas.cache.manifest import (
    Environment,
    LabelSpec,
    LabelsReceipt,
    PicturesReceipt,
    Plan,
    RegionEncoderSpec,
    TeacherIdentity,
    TextSpec,
    ViewGeometry,
    ViewsSpec,
)
from richsem_schemas.cache.permutation import permuted
from richsem_schemas.cache.recipes import AnnotatedPicture, block_views
from richsem_schemas.cache.shard import LabelShard, PictureShard
from richsem_schemas.cache.shard_writer import ShardWriter
from richsem_schemas.cache.soft_labels import TopKSoftLabels, class_log_probs, top_k_soft_labels
from richsem_schemas.cache.text_bank import TextBank, write_text_bank
from richsem_schemas.pictures.originals import WHOLE_FILE
from richsem_schemas.vocabularies.known import known_vocabulary
from richsem_schemas.vocabularies.lvis import lvis_categories

DIM, TOP_K, LOGIT_SCALE = 1024, 64, 100.0
BOXES_A_PICTURE = 12.25
NEGATIVES_A_PICTURE = 10
POOL = 8_192
"""Different embeddings."""

HW = (480, 640)
SAMPLES_PER_SHARD = 1024
LABELS = "drawn"
NAMES = known_vocabulary("lvis").class_names
SCALES = tuple(round(0.1 * n, 1) for n in range(1, 11))


@dataclass(frozen=True)
class Case:
    """A cache of so many boxes, and the arms that are run on it: analysis and form of labels."""

    boxes: int
    scales: tuple[float, ...]
    arms: tuple[tuple[str, str], ...]


CASES = {
    "wholes of 1.2 M boxes": Case(1_200_000, (), (("zero-shot", "topk"), ("zero-shot", "embedding"))),
    "wholes of 245,000 boxes": Case(245_000, (), (("zero-shot and AP", "topk"), ("zero-shot and AP", "embedding"))),
    "109,000 boxes and 10 noised copies of each": Case(
        109_090, SCALES, (("location-noise", "topk"), ("location-noise", "embedding"))
    ),
}


@dataclass(frozen=True, eq=False)
class Pool:
    """What regions say: an embedding in the direction of a class's text, and the label that it gives."""

    features: NDArray[np.float32]
    labels: TopKSoftLabels
    text: NDArray[np.float32]

    @classmethod
    def drawn(cls) -> "Pool":
        rng = np.random.default_rng(0)
        text = rng.standard_normal((len(NAMES), DIM)).astype(np.float32) / np.sqrt(DIM)
        noise = rng.standard_normal((POOL, DIM)) / np.sqrt(DIM)
        mixed = 0.08 * text[rng.integers(0, len(NAMES), POOL)] + noise
        features = (mixed / np.linalg.norm(mixed, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)
        parts = [
            top_k_soft_labels(class_log_probs(part, text, logit_scale=LOGIT_SCALE), top_k=TOP_K)
            for part in np.array_split(features, 16)
        ]
        return cls(features, TopKSoftLabels.joined(parts), text)


def pictures_of(boxes: int) -> Iterator[SourceEntry]:
    """Pictures with about as many boxes as LVIS's, until there are so many of them."""
    rng = np.random.default_rng(1)
    drawn = number = 0
    while drawn < boxes:
        count = min(int(rng.poisson(BOXES_A_PICTURE)), boxes - drawn)
        corner, side = rng.uniform(0, 400, (count, 2)), rng.uniform(4, 80, (count, 2))
        rows = (rng.zipf(1.3, count) - 1) % (len(NAMES) - 1) + 1
        xyxy = np.concatenate([corner, corner + side], axis=1).astype(np.float32)
        name = f"{number:012d}.jpg"
        yield SourceEntry(name, name.encode(), WHOLE_FILE, 1, 0, PictureBoxes(xyxy, rows.astype(np.int32), HW))
        drawn, number = drawn + count, number + 1


def draw_cache(out: Path, case: Case, pool: Pool) -> None:
    layout, entries = CacheLayout(out, "lvis"), list(pictures_of(case.boxes))
    listing = freeze_listing(layout, entries, on_progress=lambda _: None, has_boxes=True)
    plan = Plan(
        dataset="lvis", seed=0, listed=listing.listed, samples=listing.listed, samples_per_shard=SAMPLES_PER_SHARD,
        limit=None, pictures="reference", max_side=None, root="/", vocabulary=known_vocabulary("lvis"),
        absent_classes=(), listing=listing.file, rejected=0, listing_quarantine=None,
    )  # fmt: skip
    plan.write(layout.plan)
    spec = label_spec(plan, case.scales)
    labels = layout.label_set(LABELS)
    write_text_bank(labels, TextBank(NAMES, NAMES, ("{}.",), LOGIT_SCALE, pool.text))
    spec.write(labels.spec)
    for number in range(plan.shards):
        pictures = PictureShard(layout, number)
        with ShardWriter(pictures) as writer:
            none = writer.finish(np.zeros(0, PICTURE_ROW), samples=0)
        PicturesReceipt(plan_fingerprint=plan.fingerprint, summary=none, quarantine=None, seconds={}).write(
            pictures.receipt
        )
        write_labels(LabelShard(labels, number), plan, spec, entries, pool)
    finish_cache(layout, [LABELS])
    write_annotations(out / "annotations.json", entries)


def label_spec(plan: Plan, scales: tuple[float, ...]) -> LabelSpec:
    identity = TeacherIdentity(
        name="drawn", weights_sha256="0" * 64, model_config_sha256="1" * 64, quick_gelu=True, embed_dim=DIM,
        mean=(0, 0, 0), std=(1, 1, 1), input_hw=(224, 224), interpolation="bicubic", logit_scale=LOGIT_SCALE,
        logit_bias=None,
    )  # fmt: skip
    noise: dict[str, Any] = {"jitters": 1, "noise_scales": scales} if scales else {}
    return LabelSpec(
        plan_fingerprint=plan.fingerprint,
        teacher=identity,
        region_encoder=RegionEncoderSpec(kind="crop", teacher_size=None, pooled_hw=None),
        precision="fp32",
        views=ViewsSpec(crops=0, mosaics=0, whole=True, geometry=ViewGeometry(), **noise),
        text=TextSpec(vocabulary="lvis-v1", names="raw", classes=len(NAMES), templates=1, prompts_sha256="2" * 64),
        embeddings="float16",
        top_k=TOP_K,
    )


def write_labels(shard: LabelShard, plan: Plan, spec: LabelSpec, entries: list[SourceEntry], pool: Pool) -> None:
    first, samples = shard.number * plan.samples_per_shard, plan.shard_samples(shard.number)
    order = permuted(np.arange(first, first + samples), size=plan.listed, seed=plan.seed).tolist()
    rng, rows = np.random.default_rng([2, shard.number]), []
    with ShardWriter(shard) as writer:
        for sample, place in enumerate(order):
            boxes = entries[place].boxes
            assert boxes is not None
            picture = AnnotatedPicture(sample, HW, 0, boxes.boxes_xyxy, boxes.rows)
            views = list(block_views([picture], spec.views, seed=0, shard=shard.number, first_sample=sample))
            packed = {}
            for view in views:
                chosen = rng.integers(0, POOL, len(view.regions))
                packed[view.member] = pack_view(view, pool.features[chosen], pool.labels[chosen], spec.record_layout)
            offsets = writer.add(sample_key(shard.number, sample), packed)
            rows += [
                (sample_key(shard.number, sample), sample, v.kind, 0, 1, len(v.regions), offsets[v.member],
                 len(packed[v.member]))
                for v in sorted(views, key=lambda view: view.member)
            ]  # fmt: skip
        summary = writer.finish(np.array(rows, VIEW_ROW), samples=samples)
    environment = Environment(device="none", torch_threads=1, versions={})
    LabelsReceipt(spec_fingerprint=spec.fingerprint, summary=summary, seconds={}, environment=environment).write(
        shard.receipt
    )


def write_annotations(path: Path, entries: list[SourceEntry]) -> None:
    """What scoring needs of them beside the boxes: frequencies, and which categories were looked for."""
    rng = np.random.default_rng(3)
    images = [
        {"id": number, "file_name": entry.name, "height": HW[0], "width": HW[1], "not_exhaustive_category_ids": []}
        | {"neg_category_ids": rng.integers(1, len(NAMES), NEGATIVES_A_PICTURE).tolist()}
        for number, entry in enumerate(entries)
    ]
    categories = [{"id": each.id, "name": each.name, "frequency": each.frequency} for each in lvis_categories()]
    path.write_text(jsonlib.dumps({"images": images, "annotations": [], "categories": categories}))


def analyse(out: Path, analysis: str, form: Any, threads: int) -> dict[str, Any]:
    """Run one analysis in this process: seconds and peak memory."""
    from richsem_prep.analyses.analysed_set import open_set
    from richsem_prep.analyses.annotations import read_annotations
    from richsem_prep.analyses.average_precision import average_precisions
    from richsem_prep.analyses.classified_boxes import classify_boxes
    from richsem_prep.analyses.location_noise import location_noise
    from richsem_prep.analyses.zero_shot import zero_shot
    from richsem_schemas.cache.reader import open_cache

    start = time.perf_counter(), time.process_time()
    analysed = open_set(open_cache(out), LABELS, form=form)
    seconds = {}
    if analysis == "location-noise":
        found: Any = location_noise(analysed, threads=threads).scales[-1].accuracies
    else:
        boxes = classify_boxes(analysed, threads=threads)
        found = zero_shot(analysed, boxes).accuracies
        if analysis == "zero-shot and AP":
            scoring = time.perf_counter()
            found += average_precisions(
                analysed, boxes, read_annotations(out / "annotations.json", with_negatives=True)
            )
            seconds["seconds_of_ap"] = time.perf_counter() - scoring
    assert found
    return {
        "seconds": time.perf_counter() - start[0],
        "processor_seconds": time.process_time() - start[1],
        **seconds,
        "peak_gigabytes": peak_kibibytes() / 2**20,
    }


def peak_kibibytes() -> int:
    """Of this program; that of `getrusage` counts the one that started it, too."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def in_own_process(out: Path, analysis: str, form: str, threads: int) -> dict[str, Any]:
    arm = jsonlib.dumps([str(out), analysis, form, threads])
    output = subprocess.run([sys.executable, __file__, "--arm", arm], check=True, stdout=subprocess.PIPE).stdout
    return dict(jsonlib.loads(output))


def measured(case: Case, scratch: Path, threads: int, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        out = Path(folder)
        draw_cache(out, case, Pool.drawn())
        size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
        arms = {}
        for analysis, form in case.arms:
            runs = [in_own_process(out, analysis, form, threads) for _ in range(rounds)]
            medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
            arms[f"{analysis}, {form}"] = medians | {"load_average": os.getloadavg()[0]}
    return {"boxes": case.boxes, "regions": case.boxes * (1 + len(case.scales)), "bytes": size, "arms": arms}


def main(
    scratch: Annotated[Path, typer.Option(help="Where the caches are drawn, and removed afterwards.")] = Path("/tmp"),
    scale: Annotated[float, typer.Option(help="Of the boxes.")] = 1.0,
    threads: Annotated[int, typer.Option()] = 2,
    rounds: Annotated[int, typer.Option()] = 3,
    json: Annotated[Path | None, typer.Option(help="Write the figures here.")] = None,
    arm: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure all cases."""
    if arm is not None:
        out, analysis, form, threads = jsonlib.loads(arm)
        print(jsonlib.dumps(analyse(Path(out), analysis, form, threads)))
        return
    cases = {
        name: measured(Case(int(case.boxes * scale), case.scales, case.arms), scratch, threads, rounds)
        for name, case in CASES.items()
    }
    report("analyses", {"threads": threads, "rounds": rounds, "scale": scale, "cases": cases}, json)


if __name__ == "__main__":
    typer.run(main)
