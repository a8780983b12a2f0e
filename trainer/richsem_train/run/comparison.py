"""Finished runs side by side: seeds of one config are one arm."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from richsem_schemas.errors import RichSemError
from richsem_train.config import load_config
from richsem_train.results.class_aps import ClassAps, aps_of_record
from richsem_train.results.class_gains import ClassGains, class_gains
from richsem_train.results.tables import STEPS, Arms
from richsem_train.run.folder import RunFolder
from richsem_train.run.log import read_log


@dataclass(frozen=True)
class FinishedRun:
    """A run in a comparison.

    Attributes:
        arm: the name of its config.
        seed: of the run.
        metrics: of its last evaluation, `steps` taken until then, and `s/step`, the median seconds of a step.
        class_aps: of the same evaluation; None of a run whose log has none.
    """

    arm: str
    seed: int
    metrics: dict[str, float]
    class_aps: ClassAps | None = None


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


def gains_of_arms(runs: Sequence[FinishedRun]) -> dict[str, ClassGains]:
    """Gains of classes of each arm over the first, by seeds that both have; of runs whose logs have APs of classes."""
    arms: dict[str, dict[int, ClassAps]] = {}
    for run in runs:
        seeds = arms.setdefault(run.arm, {})
        if run.class_aps is not None:
            seeds[run.seed] = run.class_aps
    baseline, *others = arms
    gains = {arm: class_gains(arms[arm], arms[baseline]) for arm in others}
    return {arm: each for arm, each in gains.items() if each.gains}


def files_of_run(out: Path) -> tuple[Path, Path, Path]:
    """The files that `read_run` reads."""
    folder = RunFolder(out)
    return folder.config, folder.results, folder.log


def read_run(out: Path) -> FinishedRun:
    """Read the results of a finished run.

    Raises:
        RichSemError: OUT holds no run, or one that isn't finished.
    """
    config_file, results_file, log_file = files_of_run(out)
    if not config_file.is_file():
        raise RichSemError(f"{out} holds no run ({config_file} is missing)")
    if not results_file.is_file():
        raise RichSemError(f"{out}: the run isn't finished; go on with it by --resume, or leave it out")
    config = load_config(str(config_file))
    try:
        results: dict[str, Any] = json.loads(results_file.read_text(encoding="utf-8"))
        defined = {name: float(value) for name, value in results["metrics"].items() if value is not None}
        defined[STEPS] = float(results["step"])
        if results.get("seconds_a_step") is not None:
            defined["s/step"] = float(results["seconds_a_step"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise RichSemError(f"{results_file}: not what a run writes ({error!r})") from None
    return FinishedRun(config.name, config.seed, defined, _class_aps(log_file, results["step"]))


def _class_aps(log_file: Path, step: int) -> ClassAps | None:
    """Those of the evaluation after so many steps."""
    records = read_log(log_file).class_aps if log_file.is_file() else ()
    return next((aps_of_record(record, str(log_file)) for record in records if record["step"] == step), None)
