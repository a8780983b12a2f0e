"""OUT, the folder of a run: one run, begun once, gone on with when asked."""

import re
from pathlib import Path

from richsem_schemas.errors import RichSemError
from richsem_schemas.sealed_json import write_atomically
from richsem_train.config import TrainConfig, config_differences, config_yaml, load_config

_MAY_DIFFER = (
    "data",
    "cache_gb",
    "workers",
    "log.",
    "evaluation.",
    "detection.cache",
    "detection.labels_from",
    "detection.on_damage",
    "detection.root",
    "detection.train.images",
    "detection.val.",
    "extra.cache",
    "extra.labels_from",
    "extra.root",
    "extra.on_damage",
    "model.backbone.weights",
    "model.deformable_attention",
    "schedule.accumulate",
    "schedule.compile",
    "schedule.epochs",
    "start_from",
    "text.cache",
    "text.folder",
)
"""What a resumed run may change: where things lie, and what doesn't touch the weights."""


_NUMBER = re.compile(r"\.\d+(?=\.)")


class RunFolder:
    """Names of what lies in OUT."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.config = out / "config.yaml"
        self.last = out / "checkpoints" / "last.pt"
        self.best = out / "checkpoints" / "best.pt"
        self.detections = out / "detections"
        self.results = out / "results.json"
        self.curves = out / "curves.png"

    def check(self, config: TrainConfig, *, resume: bool) -> None:
        """Check that OUT is free for a run, or holds the one to go on with.

        Raises:
            RichSemError: it holds a run, or something else; or to resume, no run, or one that differs in fields that
                it names.
        """
        if resume:
            self._check_same(config)
        elif self.config.exists():
            raise RichSemError(
                f"{self.out} holds a run already ({self.config}); go on with it by --resume, or name another --out"
            )
        elif self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise RichSemError(f"{self.out} holds something that is no run; name an empty or a new folder with --out")

    def claim(self, config: TrainConfig) -> None:
        """Write the config, which makes OUT the folder of its run."""
        self.out.mkdir(parents=True, exist_ok=True)
        write_atomically(self.config, config_yaml(config).encode())

    def _check_same(self, config: TrainConfig) -> None:
        if not self.config.is_file():
            raise RichSemError(f"{self.out} holds no run to go on with; drop --resume to begin one there")
        found = load_config(str(self.config))
        differences = {key: values for key, values in config_differences(found, config).items() if not _may_differ(key)}
        if differences:
            listed = "; ".join(f"{key} is {there!r} there, {here!r} here" for key, (there, here) in differences.items())
            raise RichSemError(
                f"{self.out} holds another run: {listed}. Give the same config and --set as before, "
                "or name another --out"
            )


def _may_differ(key: str) -> bool:
    # Of several extra caches, what holds for one holds for each.
    key = _NUMBER.sub("", key)
    return any(key == name or (name.endswith(".") and key.startswith(name)) for name in _MAY_DIFFER)
