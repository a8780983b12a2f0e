"""Runs of `richsem-prep shard` for benchmarks: a small folder of pictures, and the options that nobody varies."""

import shutil
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from richsem_prep.executors.make_executor import make_executor
from richsem_prep.shard.config import ShardConfig
from richsem_prep.shard.run import RunSummary, shard
from richsem_schemas.options import from_options


class Silent:
    """A reporter that reports nothing."""

    def say(self, message: str) -> None:
        pass

    def stage(self, *_: Any) -> Any:
        return lambda _: None

    def shard_done(self, outcome: Any) -> None:
        pass


def trial_config(root: Path, out: Path, **options: Any) -> ShardConfig:
    """A run in this process over a folder of pictures, with everything that isn't named as it is by default."""
    return from_options(ShardConfig, {"dataset": "folder", "root": root, "out": out, "executor": "inline", **options})


def run_trial(config: ShardConfig) -> RunSummary:
    """Make a cache without a word."""
    return shard(config, Silent(), make_executor)


def few_classes(root: Path, folder: Path, *, pictures: int, classes: int) -> Path:
    """Copy pictures, again where ROOT has fewer, into a few classes, so that a teacher has few names to read."""
    found = sorted(path for path in root.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    for number, path in enumerate(islice(cycle(found), pictures)):
        target = folder / f"class {number % classes}" / f"{number:05d}{path.suffix.lower()}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return folder
