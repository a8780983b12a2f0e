"""What less precision does to a step: losses, direction of the gradient, and which queries are matched.

    python benchmarks/precision.py --json benchmarks/results/precision.json
    python benchmarks/precision.py --run runs/demo --run runs/c2_demo --json benchmarks/results/precision-demo.json

On a CPU: bf16 by its autocast, TF32 simulated (`simulated_tf32.py`). The same weights and pictures in each precision,
compared with float64 and with fp32, medians and worst over steps. Without runs it is a ResNet-50 DINO with random
weights on mosaics of noise, at a reduced size; with runs their last weights, on batches of their own data. What is
float32 whatever the rest is, such as boxes and cosines, is so in `float64` as well.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import torch
import typer
from common import report
from simulated_tf32 import SimulatedTF32
from step import Setting, make_trainer, random_mosaics, random_text
from torch import Tensor

from richsem_train.learners.learner import Learner
from richsem_train.losses.dino.matcher import HungarianMatcher, Match
from richsem_train.run.assemble import assemble
from richsem_train.run.checkpoint import load_checkpoint
from richsem_train.run.distributed import Ranks
from richsem_train.run.open_data import open_data
from richsem_train.targets import Batch, converted

CPU = torch.device("cpu")
ARMS = ("float64", "fp32", "tf32", "bf16")
TEXT_WIDTH = 1024

Matches = Mapping[str, list[list[Match]]]


@dataclass(frozen=True, eq=False)
class Taken:
    """What comes of a batch: weighted losses, gradients in float64, and who was matched; nobody in two stages."""

    losses: dict[str, float]
    gradients: dict[str, Tensor]
    matches: Matches | None


def main(
    run: Annotated[list[Path] | None, typer.Option(help="Folder of a run; several times.")] = None,
    steps: Annotated[int, typer.Option(help="Batches.")] = 5,
    side: Annotated[int, typer.Option(help="Of the mosaics of noise, pixels.")] = 256,
    json: Annotated[Path | None, typer.Option(help="Write the figures here.")] = None,
) -> None:
    """Compare the precisions."""
    figures: dict[str, Any] = {"steps": steps}
    if run:
        for folder in run:
            figures[folder.name] = compared(*of_run(folder, steps))
    else:
        figures["side"] = side
        figures["ResNet-50 DINO, random weights"] = compared(*of_noise(side, steps))
    report("precision", figures, json)


def of_run(folder: Path, steps: int) -> tuple[Learner, list[Batch], int]:
    """A run's learner as it was last, batches from where it stopped, and pictures a draw."""
    saved = load_checkpoint(folder / "checkpoints" / "last.pt")
    made = assemble(saved.info.config, open_data(saved.info.config), Ranks(0, 1, CPU))
    made.restore(saved, folder)
    batches = [made.trainer.prepare(loaded.batch).batch for loaded in islice(made.batches(0, steps), steps)]
    return made.trainer.learner, batches, saved.info.config.schedule.pictures_a_draw


def of_noise(side: int, steps: int) -> tuple[Learner, list[Batch], int]:
    """The same of random weights; each batch shows the mosaics in other pixels."""
    setting = Setting(CPU, side, 2, "fp32")
    trainer = make_trainer(setting, random_text(TEXT_WIDTH), semantic_branch=False)
    mosaics = random_mosaics(setting)
    shifted = [mosaics.pixels.roll(number, -1) for number in range(steps)]
    return trainer.learner, [replace(mosaics, pixels=pixels) for pixels in shifted], 2


def compared(learner: Learner, batches: Sequence[Batch], pictures_a_draw: int) -> dict[str, Any]:
    taken = {arm: [step(learner, arm, batch, pictures_a_draw) for batch in batches] for arm in ARMS}
    return {
        f"{arm} against {base}": summed_up([differences(*pair) for pair in zip(taken[arm], taken[base], strict=True)])
        for place, base in enumerate(ARMS[:2])
        for arm in ARMS[place + 1 :]
    }


def step(learner: Learner, arm: str, batch: Batch, pictures_a_draw: int) -> Taken:
    ours = deepcopy(learner).train()
    if arm == "float64":
        ours.double()
        batch = replace(batch, targets=tuple(converted(target, in_double) for target in batch.targets))
    ours.precision = "bf16" if arm == "bf16" else "fp32"
    totals = [max(count, 1.0) for count in ours.counts(batch.targets).tolist()]
    torch.manual_seed(0)
    generators = [torch.Generator().manual_seed(draw) for draw in range(len(batch.targets) // pictures_a_draw)]
    with SimulatedTF32() if arm == "tf32" else nullcontext(), matches_kept() as matches:
        losses = ours(batch, totals, generators)
        weighted = {name: losses[name] * weight for name, weight in ours.weights.items()}
        torch.stack(list(weighted.values())).sum().backward()
    gradients = {name: each.grad.double() for name, each in ours.named_parameters() if each.grad is not None}
    return Taken({name: float(loss.detach()) for name, loss in weighted.items()}, gradients, (matches or [None])[0])


def in_double(values: Tensor) -> Tensor:
    return values.double() if values.is_floating_point() else values


@contextmanager
def matches_kept() -> Iterator[list[Matches]]:
    kept: list[Matches] = []
    match_stages = HungarianMatcher.match_stages

    def match_and_keep(*args: Any) -> Matches:
        kept.append(match_stages(*args))
        return kept[-1]

    with patch.object(HungarianMatcher, "match_stages", match_and_keep):
        yield kept


def differences(ours: Taken, theirs: Taken) -> dict[str, float]:
    total, other = sum(ours.losses.values()), sum(theirs.losses.values())
    relative = [abs(ours.losses[name] - loss) / abs(loss) for name, loss in theirs.losses.items() if loss]
    found = {"loss": abs(total - other) / abs(other), "worst_loss": max(relative)}
    for part in ("backbone", "others"):
        names = [name for name in theirs.gradients if ("backbone." in name) == (part == "backbone")]
        found[f"gradient_angle_cosine_{part}"] = cosine(ours.gradients, theirs.gradients, names)
    if ours.matches is not None and theirs.matches is not None:
        for stage, layers in theirs.matches.items():
            found[f"matches_changed_{stage}"] = changed_share(ours.matches[stage], layers)
    return found


def cosine(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], names: Sequence[str]) -> float:
    one, other = (torch.cat([each[name].flatten() for name in names]) for each in (ours, theirs))
    return float(torch.nn.functional.cosine_similarity(one, other, dim=0))


def changed_share(ours: Sequence[Sequence[Match]], theirs: Sequence[Sequence[Match]]) -> float:
    """Of the pairs of a query and an object of all layers and pictures, those that aren't matched here."""
    pairs = [
        [set(zip(*(side.tolist() for side in match), strict=True)) for layer in layers for match in layer]
        for layers in (ours, theirs)
    ]
    both = sum(len(one & other) for one, other in zip(*pairs, strict=True))
    return 1 - both / max(sum(map(len, pairs[1])), 1)


def summed_up(steps: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    columns = {name: [each[name] for each in steps] for name in steps[0]}
    return {
        name: {
            "median": statistics.median(values),
            "worst": min(values) if "cosine" in name else max(values),
        }
        for name, values in columns.items()
    }


if __name__ == "__main__":
    typer.run(main)
