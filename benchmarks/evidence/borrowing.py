"""How near a borrowed label is to the exact one: views drawn anew against the nearest of K stored ones.

    python -m benchmarks.evidence.borrowing --annotations coco128/annotations/instances_train2017.json \
        --images coco128/train2017 --json benchmarks/results/fresh_labels.json --figure docs/images/fresh-labels.svg

Both worlds of `views`, seen by the demo's teacher with RoIAlign.

The pipeline draws K windows of each picture, the trainer's augmentation fresh ones. The teacher sees both. The exact
label of a fresh box is what it says of that very view, the borrowed one what it said of the nearest window. KL(exact ‖
borrowed), the cosine of the embeddings, and how often both have the same class first; beside the nearest one whatever
part it shows, the mean of all K (in probabilities), the best of the K by KL, which nobody can know, and the entropy of
the exact labels. The same for free mosaics: the exact label of a tile as the canvas cuts it, the borrowed one of the
nearest of K stored crops of its picture.
"""

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from benchmarks.common import report
from benchmarks.evidence.distances import entropy, kl
from benchmarks.evidence.views import (
    STORED,
    Sees,
    Shown,
    World,
    annotated_world,
    demo_world,
    fresh_mosaics,
    fresh_windows,
    stored_crops,
    stored_windows,
)
from richsem_prep.teacher.teacher import Teacher, load_teacher, parse_teacher
from richsem_schemas.cache.soft_labels import class_log_probs
from richsem_train.data.cache import nearest
from richsem_train.data.fresh_windows import MIN_OVERLAP

COUNTS = (1, 2, 4, 8)

WEIGHTS = (nearest.WEIGHTS, *itertools.product((0.0, 0.25, 0.5, 1.0), (1.0,), (0.0, 0.1, 0.2)), (1.0, 0.0, 0.0))
OVERLAPS = (0.0, 0.3, 0.5, 0.7, 0.8)


def main(
    annotations: Annotated[Path | None, typer.Option(help="In COCO's format; none: the demo's world alone.")] = None,
    images: Annotated[Path | None, typer.Option(help="Their pictures.")] = None,
    scenes: Annotated[int, typer.Option(help="Of the demo's world, and as many pictures.")] = 300,
    fresh: Annotated[int, typer.Option(help="Fresh views of each picture.")] = 2,
    json: Annotated[Path | None, typer.Option(help="Write the figures here.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw the curves here.")] = None,
) -> None:
    """Measure both worlds."""
    torch.set_num_threads(1)
    teacher = load_teacher(parse_teacher("demo"), device=torch.device("cpu"))
    worlds = {"demo": demo_world(scenes)}
    if annotations is not None and images is not None:
        worlds["pictures"] = annotated_world(annotations, images)
    figures = {name: measured(each, teacher, fresh) for name, each in worlds.items()}
    report("fresh_labels", {"fresh_views": fresh, "worlds": figures, "load_average": os.getloadavg()}, json)
    if figure is not None:
        draw_curves(figures, figure)


@dataclass(frozen=True, eq=False)
class Seen:
    """What the teacher says of R regions.

    Attributes:
        things: [R] picture and box.
        numbers: [R] the view among those of the picture.
        sights: [R] how it is seen.
        embeddings: [R, D].
        log_probs: [R, C].
    """

    things: list[tuple[int, int]]
    numbers: list[int]
    sights: nearest.Sights
    embeddings: NDArray[np.float32]
    log_probs: NDArray[np.float64]


def seen(sees: Sees, views: Iterator[Shown]) -> Seen:
    """Show views to the teacher."""
    kept, features = zip(*sees.embeddings(views), strict=True)
    embeddings = np.concatenate(features)
    size = sees.encoder.spec.teacher_size
    return Seen(
        [thing for shown in kept for thing in shown.things],
        [shown.number for shown in kept for _ in shown.things],
        nearest.joined_sights([nearest.sights_of(shown.view, teacher_size=size) for shown in kept]),
        embeddings,
        class_log_probs(embeddings, sees.text.features, logit_scale=sees.text.logit_scale),
    )


def measured(each: World, teacher: Teacher, fresh: int) -> dict[str, Any]:
    sees = Sees.for_world(teacher, each)
    return {
        "scenes": len(each.scenes),
        "pictures": len(each.pictures),
        "windows": compared(
            seen(sees, fresh_windows(each, fresh)), seen(sees, stored_windows(each)), overlap=MIN_OVERLAP
        ),
        "free_mosaics": compared(seen(sees, fresh_mosaics(each, fresh)), seen(sees, stored_crops(each)), overlap=0.0),
    }


def compared(fresh: Seen, stored: Seen, *, overlap: float) -> dict[str, Any]:
    """Borrowed labels beside the exact ones, for several numbers of stored views."""
    rows_SK = candidates(fresh, stored)
    differences_SK3 = nearest.differences(fresh.sights.of((slice(None), None)), stored.sights.of(rows_SK))
    kl_SK = kl(fresh.log_probs[:, None], stored.log_probs[rows_SK])
    few = Few(fresh, stored, rows_SK, differences_SK3, kl_SK, overlap)
    return {
        "regions": len(fresh.things),
        "entropy": float(entropy(fresh.log_probs).mean()),
        "stored": {count: few.compared(count) for count in COUNTS},
        "min_overlap": overlap,
        "weights": [{"weights": weights, **few.by_count(weights=weights)} for weights in WEIGHTS],
        "overlaps": [{"overlap": least, **few.by_count(overlap=least)} for least in OVERLAPS],
    }


@dataclass(frozen=True, eq=False)
class Few:
    """Fresh regions beside the first few stored ones of the same things."""

    fresh: Seen
    stored: Seen
    rows: NDArray[np.int64]
    differences: NDArray[np.float64]
    kl: NDArray[np.float64]
    overlap: float

    def chosen(
        self, count: int, *, weights: Sequence[float] = nearest.WEIGHTS, overlap: float | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Fresh regions that find one, and which of their stored views."""
        least = self.overlap if overlap is None else overlap
        differences = self.differences[:, :count]
        lacking = (self.rows[:, :count] < 0) | (differences[..., 1] > 1 - least)
        best = np.where(lacking, np.inf, differences @ np.array(weights)).argmin(axis=1)
        found = np.flatnonzero(~lacking.all(axis=1))
        return found, best[found]

    def by_count(self, **rule: Any) -> dict[str, Any]:
        """Mean KL and the share without a label, by the number of stored views."""
        result = {}
        for count in COUNTS:
            found, best = self.chosen(count, **rule)
            result[str(count)] = {
                "without_label": float(1 - len(found) / len(self.rows)), "kl": float(self.kl[found, best].mean()),
            }  # fmt: skip
        return result

    def compared(self, count: int) -> dict[str, float]:
        found, best = self.chosen(count)
        exact, rows_FK = self.fresh.log_probs[found], self.rows[found, :count]
        chosen_F = self.rows[found, best]
        borrowed = self.stored.log_probs[chosen_F]
        is_there = (rows_FK >= 0)[..., None]
        mean = np.log(np.where(is_there, np.exp(self.stored.log_probs[rows_FK]), 0).sum(1) / is_there.sum(1))
        any_found, any_best = self.chosen(count, overlap=0.0)
        kl_F = self.kl[found, best]
        return {
            "without_label": float(1 - len(found) / len(self.rows)),
            "kl": float(kl_F.mean()),
            "median_kl": float(np.median(kl_F)),
            "cosine": float((self.fresh.embeddings[found] * self.stored.embeddings[chosen_F]).sum(1).mean()),
            "top_1_agrees": top_1(exact, borrowed),
            "kl_of_any_part": float(self.kl[any_found, any_best].mean()),
            "shown_by_none": float(1 - len(any_found) / len(self.rows)),
            "kl_of_mean": float(kl(exact, mean).mean()),
            "top_1_of_mean": top_1(exact, mean),
            "kl_of_best": float(np.where(is_there[..., 0], self.kl[found, :count], np.inf).min(axis=1).mean()),
        }


def candidates(fresh: Seen, stored: Seen) -> NDArray[np.int64]:
    """Rows of `stored` that show the same thing, [S, K], one a view; -1 where that view doesn't."""
    row_of = {key: row for row, key in enumerate(zip(stored.things, stored.numbers, strict=True))}
    return np.array([[row_of.get((thing, number), -1) for number in range(STORED)] for thing in fresh.things])


def top_1(exact: NDArray[np.float64], borrowed: NDArray[np.float64]) -> float:
    return float((exact.argmax(-1) == borrowed.argmax(-1)).mean())


def draw_curves(figures: dict[str, Any], path: Path) -> None:
    """KL over the number of stored views, a panel a world and kind of view."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "richsem"
    titles = {"windows": "boxes of fresh windows", "free_mosaics": "tiles of free mosaics"}
    lines = {
        "kl": ("nearest, as it is borrowed", "C0o-"),
        "kl_of_any_part": ("nearest, of whatever part", "C1s--"),
        "kl_of_mean": ("mean of all", "C2^:"),
        "kl_of_best": ("best of all (an oracle)", "C3x:"),
    }
    figure, axes = pyplot.subplots(
        len(figures), len(titles), figsize=(8.5, 3.1 * len(figures)), squeeze=False, layout="constrained"
    )
    for row, (name, kinds) in zip(axes, figures.items(), strict=True):
        for panel, (kind, title) in zip(row, titles.items(), strict=True):
            stored = kinds[kind]["stored"]
            for key, (label, style) in lines.items():
                # Where any part will do, the nearest of about the same part is just that.
                if key != "kl_of_any_part" or kinds[kind]["min_overlap"]:
                    values = [each[key] for each in stored.values()]
                    panel.plot([int(count) for count in stored], values, style, label=label)
            panel.axhline(kinds[kind]["entropy"], color="grey", lw=1, label="entropy of the exact label")
            panel.set(title=f"{name}: {title}", xscale="log", xticks=COUNTS, xticklabels=COUNTS, ylim=(0, None))
            panel.minorticks_off()
            panel.set_xlabel("stored views of a picture")
            panel.set_ylabel("KL(exact ‖ borrowed), nats")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    typer.run(main)
