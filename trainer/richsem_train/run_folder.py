"""OUT, the folder of a run: one run, begun once, gone on with when asked."""

import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from richsem_schemas.errors import RichSemError
from richsem_schemas.sealed_json import temporaries, write_atomically
from richsem_train.config import TrainConfig, config_differences, config_yaml, load_config
from richsem_train.distributed import Ranks

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


_LOCK = ".lock"

_LEFTOVER = re.compile(
    r"\.(config\.yaml|results\.json|curves\.png|log\.jsonl|wandb_id|last\.pt|best\.pt|detections-\d+\.arrow)"
    r"\.\d+-[0-9a-f]{8}\.tmp"
)
"""What a run that is killed leaves of a file that it was writing."""

_HAND_OVER_SECONDS = 3.0
"""How long a process that was just killed may hold its lock."""

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
        elif self.out.exists() and (not self.out.is_dir() or any(path.name != _LOCK for path in self.out.iterdir())):
            raise RichSemError(f"{self.out} holds something that is no run; name an empty or a new folder with --out")

    @contextmanager
    def held(self, ranks: Ranks) -> Iterator[None]:
        """Hold OUT, so that no other process trains in it, and sweep what a killed one left half written.

        The lock ends with the process. Where a file system has no locks nothing is held, and nothing swept.

        Args:
            ranks: all of them call this; the first one holds OUT.

        Raises:
            RichSemError: on all ranks; another process holds it.
        """
        refusals: list[str] = []
        descriptor = -1
        try:
            if ranks.is_first:
                self.out.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(self.out / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                try:
                    _lock(descriptor)
                    self._sweep()
                except BlockingIOError:
                    refusals.append(
                        f"another process trains in {self.out}; wait for it, stop it, or name another --out"
                    )
                except OSError:
                    pass
            ranks.stop_all(refusals)
            yield
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _sweep(self) -> None:
        for folder in (self.out, self.last.parent, self.detections):
            for path in temporaries(folder):
                if _LEFTOVER.fullmatch(path.name):
                    path.unlink(missing_ok=True)

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


def _lock(descriptor: int) -> None:
    """Take the lock, of the kind that forked loader processes don't share and that file servers know.

    Raises:
        BlockingIOError: another process has it.
        OSError: there are no locks here.
    """
    limit = time.monotonic() + _HAND_OVER_SECONDS
    while True:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            if time.monotonic() > limit:
                raise BlockingIOError(error.errno, error.strerror) from None
            time.sleep(0.1)
        else:
            return


def _may_differ(key: str) -> bool:
    # Of several extra caches, what holds for one holds for each.
    key = _NUMBER.sub("", key)
    return any(key == name or (name.endswith(".") and key.startswith(name)) for name in _MAY_DIFFER)
