"""A whole training step, loading included, with soft labels joined from caches, over one without.

    python benchmarks/joined_step.py --data data --detection-cache caches/demo-detection \
        --extra-cache caches/demo --json benchmarks/results/joined_step.json

Two runs of the trainer take steps in turn, each with its own loaders. `joined` learns the soft labels of the windows
of the detection pictures and of all extra caches; `plain` is the same detector without a semantic branch on the very
same pictures with hard labels. A step's time is what the trainer waits for its batch and the step; ratios of a kind
are medians over its steps, since detection and extra batches alternate, and the ratio of both together is of the sums
of their medians. Processor seconds of this process, which has no loader in it, stand beside wall seconds: cores may
be shared. Name a cache twice to mix several. What the semantic branch alone costs at the paper's size is `step.py`'s
to say: in a small detector like the demo's its share is far larger.
"""

import os
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from common import report
from torch.utils.data import Dataset

from richsem_train.config import TrainConfig, load_config
from richsem_train.data.collate import Sample
from richsem_train.run.assemble import AssembledRun, assemble
from richsem_train.run.distributed import Ranks, join_ranks
from richsem_train.run.open_data import open_data


def main(
    detection_cache: Annotated[Path, typer.Option(help="With windows of the config's detection pictures.")],
    extra_cache: Annotated[list[Path], typer.Option(help="With mosaics; several are mixed.")],
    config: Annotated[str, typer.Option(help="Of `richsem-train`.")] = "demo",
    data: Annotated[Path, typer.Option(help="Where the config's data lies.")] = Path("data"),
    changes: Annotated[list[str] | None, typer.Option("--set", help="Of the config, for both, as KEY=VALUE.")] = None,
    device: Annotated[str | None, typer.Option(help="[default: CUDA if there is one]")] = None,
    workers: Annotated[int, typer.Option(help="Of each loader.")] = 1,
    steps: Annotated[int, typer.Option(help="Of each run, after eight that don't count.")] = 40,
    json: Annotated[Path | None, typer.Option(help="Write the figures here.")] = None,
) -> None:
    """Measure one config."""
    common = [f"data={data}", f"workers={workers}", "schedule.epochs=100", *(changes or ())]
    configs = arms(config, common, detection_cache, extra_cache)
    with join_ranks(device) as ranks:
        torch.set_num_threads(1)
        runs = {name: assemble(arm, open_data(arm), ranks) for name, arm in configs.items()}
        windows = runs["joined"].feed
        hard = replace(windows, dataset=HardLabels(windows.dataset))
        runs["plain"] = replace(runs["plain"], feed=hard)
        measured = take_turns(runs, ranks, warm_up=8, steps=steps)
    by_kind = {kind: compared(measured, kind) for kind in sorted({kind for kind, _ in measured["joined"]})}
    report(
        "joined-step",
        {
            "config": config,
            "extra_caches": len(extra_cache),
            "workers": workers,
            "device": ranks.device.type,
            "steps": steps,
            "by_kind": by_kind,
            "joined_over_plain": ratio_of_sums(by_kind, "whole"),
            "joined_over_plain_by_processor": ratio_of_sums(by_kind, "processor"),
            "load_average": os.getloadavg(),
        },
        json,
    )


def arms(name: str, common: list[str], windows: Path, extras: list[Path]) -> dict[str, TrainConfig]:
    mixed = ", ".join(f"{{cache: {path}, labels: LABELS, views: mosaics, lanes: 16}}" for path in extras)
    joined = [
        "detection.labels=cache",
        f"detection.cache={windows}",
        f"extra=[{mixed.replace('LABELS', 'embedding')}]",
    ]
    plain = ["model.semantic_branch=false", f"extra=[{mixed.replace('LABELS', 'hard')}]"]
    return {"joined": load_config(name, common + joined), "plain": load_config(name, common + plain)}


class HardLabels(Dataset[Sample]):
    """The same pictures, without soft labels."""

    def __init__(self, taught: Dataset[Sample]) -> None:
        self._taught = taught

    def __getitem__(self, key: tuple[int, int, int]) -> Sample:
        sample = self._taught[key]
        return sample._replace(target=replace(sample.target, soft_labels=None))


Step = tuple[str, dict[str, float]]
"""Kind of a step, and its seconds."""


def take_turns(runs: dict[str, AssembledRun], ranks: Ranks, *, warm_up: int, steps: int) -> dict[str, list[Step]]:
    batches = {name: run.batches(0, warm_up + steps) for name, run in runs.items()}
    measured: dict[str, list[Step]] = {name: [] for name in runs}
    orders = (list(runs), list(runs)[::-1])
    for number in range(warm_up + steps):
        # Detection and extra batches alternate, so the order turns every second step.
        for name in orders[number // 2 % 2]:
            start, processor = time.perf_counter(), time.process_time()
            batch = next(batches[name])
            waited = time.perf_counter() - start
            runs[name].trainer.step(batch.step, 0, batch.batch)
            if ranks.device.type == "cuda":
                torch.cuda.synchronize()
            seconds = {
                "whole": time.perf_counter() - start,
                "waiting": waited,
                "processor": time.process_time() - processor,
            }
            if number >= warm_up:
                measured[name].append((batch.kind, seconds))
    for stream in batches.values():
        stream.close()  # type: ignore[attr-defined]
    return measured


def compared(measured: dict[str, list[Step]], kind: str) -> dict[str, Any]:
    of_kind = {name: [seconds for found, seconds in steps if found == kind] for name, steps in measured.items()}
    pairs = list(zip(of_kind["joined"], of_kind["plain"], strict=True))
    return {
        **{
            name: {what: statistics.median(step[what] for step in steps) for what in steps[0]}
            for name, steps in of_kind.items()
        },
        "joined_over_plain": statistics.median(ours["whole"] / theirs["whole"] for ours, theirs in pairs),
        "joined_over_plain_by_processor": statistics.median(
            ours["processor"] / theirs["processor"] for ours, theirs in pairs
        ),
    }


def ratio_of_sums(by_kind: dict[str, Any], what: str) -> float:
    """Of a detection step and an extra step together, since a run takes as many of each."""
    joined, plain = (sum(kind[name][what] for kind in by_kind.values()) for name in ("joined", "plain"))
    return joined / plain


if __name__ == "__main__":
    typer.run(main)
