"""Several runs side by side: seeds of one config are one arm."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from richsem_schemas.errors import RichSemError
from richsem_train.results.tables import Arms, comparison_content


@dataclass(frozen=True)
class FinishedRun:
    """A run in a comparison.

    Attributes:
        arm: the name of its config.
        seed: of the run.
        metrics: of its last evaluation, `steps` taken until then, and `s/step`, the median seconds of a step.
    """

    arm: str
    seed: int
    metrics: dict[str, float]


def group_arms(runs: Sequence[FinishedRun]) -> Arms:
    """Metrics by arm in the order of the runs; within an arm by seed.

    Raises:
        RichSemError: two runs of an arm have the same seed, and would be taken for independent ones.
    """
    arms: dict[str, dict[int, dict[str, float]]] = {}
    for run in runs:
        seeds = arms.setdefault(run.arm, {})
        if run.seed in seeds:
            raise RichSemError(
                f"two runs of {run.arm!r} have the seed {run.seed}, and runs of one name are compared as seeds; leave "
                "one out, or if they differ in more give each way of training a name of its own (--set name=NAME, or "
                "`name:` in OUT/config.yaml)"
            )
        seeds[run.seed] = run.metrics
    return {arm: [seeds[seed] for seed in sorted(seeds)] for arm, seeds in arms.items()}


def comparison_json(arms: Arms, *, baseline: str) -> str:
    """All seeds, means, deviations and paired differences."""
    return json.dumps(comparison_content(arms, baseline=baseline), indent=2) + "\n"
