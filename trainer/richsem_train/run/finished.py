"""Finished runs as `compare` reads them."""

import json
from pathlib import Path
from typing import Any

from richsem_schemas.errors import RichSemError
from richsem_train.config import load_config
from richsem_train.results.comparison import FinishedRun
from richsem_train.results.tables import STEPS
from richsem_train.run.folder import RunFolder


def files_of_run(out: Path) -> tuple[Path, Path]:
    """What `read_run` reads."""
    folder = RunFolder(out)
    return folder.config, folder.results


def read_run(out: Path) -> FinishedRun:
    """Read the results of a finished run.

    Raises:
        RichSemError: OUT holds no run, or one that isn't finished.
    """
    config_file, results_file = files_of_run(out)
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
    return FinishedRun(config.name, config.seed, defined)
