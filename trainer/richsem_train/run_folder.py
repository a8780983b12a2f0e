"""OUT, the folder of a run: one run, begun once, gone on with when asked."""

from pathlib import Path

from richsem_schemas.errors import RichSemError
from richsem_schemas.sealed_json import write_atomically
from richsem_train.config import TrainConfig, config_differences, config_yaml, load_config

_MAY_DIFFER = (
    "data",
    "workers",
    "log.",
    "evaluation.",
    "detection.on_damage",
    "detection.train.images",
    "detection.val.",
    "extra.cache",
    "extra.root",
    "extra.on_damage",
    "model.backbone.weights",
    "model.deformable_attention",
    "schedule.accumulate",
    "schedule.compile",
    "schedule.epochs",
    "start_from",
    "text.cache",
)
"""What a resumed run may change: where things lie, and what doesn't touch the weights."""


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

    def begin(self, config: TrainConfig) -> None:
        """Claim an empty or new folder for a run.

        Raises:
            RichSemError: it holds a run, or something else.
        """
        if self.config.exists():
            raise RichSemError(
                f"{self.out} holds a run already ({self.config}); go on with it by --resume, or name another --out"
            )
        if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise RichSemError(f"{self.out} holds something that is no run; name an empty or a new folder with --out")
        self.out.mkdir(parents=True, exist_ok=True)
        write_atomically(self.config, config_yaml(config).encode())

    def resume(self, config: TrainConfig) -> None:
        """Check that OUT holds a run of this config.

        Raises:
            RichSemError: it holds none, or one that differs; names the fields.
        """
        if not self.config.is_file():
            raise RichSemError(f"{self.out} holds no run to go on with; drop --resume to begin one there")
        found = load_config(str(self.config))
        differences = {
            key: values
            for key, values in config_differences(found, config).items()
            if not any(key == name or (name.endswith(".") and key.startswith(name)) for name in _MAY_DIFFER)
        }
        if differences:
            listed = "; ".join(f"{key} is {there!r} there, {here!r} here" for key, (there, here) in differences.items())
            raise RichSemError(
                f"{self.out} holds another run: {listed}. Give the same config and --set as before, "
                "or name another --out"
            )
        write_atomically(self.config, config_yaml(config).encode())
