"""How many flipped labels `richsem-prep suspects` finds among the boxes that it ranks first.

    python benchmarks/suspects.py --json benchmarks/results/suspects.json

Reads the wholes of the demo's training scenes, drawn and labelled in --scratch where they aren't there. A share of the
labels is flipped, to any other class or to the one whose text is most alike to the teacher; soft labels don't depend on
hard ones, so that the cache stays. `bias` makes the teacher worse: a number is drawn for each class, of so many nats
standard deviation, and added to its logarithms, so that it confuses the same classes everywhere.
"""

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from common import report
from numpy.typing import NDArray
from scipy.special import log_softmax

from richsem_prep.analyses.analysed_set import open_set
from richsem_prep.suspects.class_columns import ClassColumns
from richsem_prep.suspects.contradiction import class_thresholds, contradiction
from richsem_prep.suspects.judged_boxes import judge_boxes
from richsem_schemas.cache.reader import open_cache
from richsem_schemas.cache.soft_labels import unit_rows

KS = (50, 100, 200)


def main(
    json: Annotated[Path | None, typer.Option(help="Also write the figures there.")] = None,
    scratch: Annotated[Path, typer.Option(help="Folder of the demo and its cache.")] = Path("/tmp/richsem-suspects"),
    share: float = 0.05,
    seeds: int = 5,
) -> None:
    log_probs_RC, labels_R, text_units_CD = read(scratch)
    cases = [
        {
            "flipped to": kind,
            "bias": bias,
            **mean([trial(log_probs_RC, labels_R, text_units_CD, kind, bias, share, seed) for seed in range(seeds)]),
        }
        for bias in (0.0, 4.0, 8.0)
        for kind in ("any class", "the most alike class")
    ]
    sizes = {"boxes": len(labels_R), "classes": log_probs_RC.shape[1], "share": share, "seeds": seeds}
    report("suspects", {**sizes, "cases": cases}, json)


def read(scratch: Path) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Log-probabilities [R, C] of all boxes, their labels, and the text of the classes, each of norm 1."""
    out = scratch / "wholes"
    options = ["--dataset", "demo-detection", "--root", str(scratch / "demo"), "--out", str(out)]
    more = ["--whole", "--windows", "0", "--executor", "inline"]
    subprocess.run([sys.executable, "-m", "richsem_prep", "shard", *options, *more], check=True)
    analysed = open_set(open_cache(out), None, top_k=(1,))
    columns = ClassColumns.of(analysed.classes)
    keys, (log_probs_RC,), _ = judge_boxes(analysed, columns, lambda found, _: (found,), threads=None, on_progress=None)
    return log_probs_RC, keys.labels, unit_rows(analysed.reader.text[columns.text_rows])


def trial(
    log_probs_RC: NDArray[np.float64],
    labels_R: NDArray[np.int64],
    text_units_CD: NDArray[np.float64],
    kind: str,
    bias: float,
    share: float,
    seed: int,
) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    boxes, classes = log_probs_RC.shape
    seen_RC = log_softmax(log_probs_RC + bias * rng.standard_normal(classes), axis=1)
    flipped = rng.choice(boxes, round(share * boxes), replace=False)
    given_R = labels_R.copy()
    if kind == "any class":
        given_R[flipped] = (labels_R[flipped] + rng.integers(1, classes, len(flipped))) % classes
    else:
        alike_CC = text_units_CD @ text_units_CD.T
        np.fill_diagonal(alike_CC, -np.inf)
        given_R[flipped] = alike_CC.argmax(axis=1)[labels_R[flipped]]
    own_R = np.exp(seen_RC[np.arange(boxes), given_R])
    found = contradiction(seen_RC, given_R, class_thresholds(own_R, given_R, classes))
    by_probability = np.argsort(own_R, kind="stable")
    ranked = np.argsort(-found.scores, kind="stable")
    is_flipped = np.isin(np.arange(boxes), flipped)
    listed = int(found.is_confident.sum())
    figures = {"top 1": float((seen_RC.argmax(axis=1) == labels_R).mean())}
    figures |= {f"precision at {k}": float(is_flipped[ranked[:k]].mean()) for k in (*KS, len(flipped))}
    figures |= {
        f"recall at {k}": float(is_flipped[ranked[:k]].sum() / len(flipped)) for k in (len(flipped), 2 * len(flipped))
    }
    right = is_flipped[ranked[: len(flipped)]]
    figures["flipped ones with their class suggested"] = float(
        (found.suggested == labels_R)[ranked[: len(flipped)]][right].mean()
    )
    return figures | {
        "listed": listed,
        "precision of those listed": float(is_flipped[ranked[:listed]].mean()),
        "recall of those listed": float(is_flipped[ranked[:listed]].sum() / len(flipped)),
        "average precision": average_precision(is_flipped[ranked]),
        "average precision by the label's probability alone": average_precision(is_flipped[by_probability]),
    }


def average_precision(is_flipped: NDArray[np.bool_]) -> float:
    return float((np.cumsum(is_flipped) / np.arange(1, len(is_flipped) + 1))[is_flipped].mean())


def mean(trials: list[dict[str, float]]) -> dict[str, Any]:
    return {name: round(float(np.mean([each[name] for each in trials])), 3) for name in trials[0]}


if __name__ == "__main__":
    typer.run(main)
