"""OUT, the folder of a run: one run, begun once, gone on with when asked."""

import errno
import fcntl
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from richsem_schemas.errors import RichSemError
from richsem_schemas.io.files import temporaries, write_atomically
from richsem_train.config import TrainConfig, config_differences, config_yaml, load_config
from richsem_train.run.distributed import Ranks
from richsem_train.run.log import LOG_NAME

_MAY_DIFFER = (
    "data",
    "cache_gb",
    "classifier_text.cache",
    "classifier_text.folder",
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
    "model.checkpoint_encoder",
    "schedule.accumulate",
    "schedule.compile",
    "schedule.epochs",
    "start_from",
    "text.cache",
    "text.folder",
)
"""What a resumed run may change: where things lie, and what doesn't touch the weights; the epochs do under a cosine."""


_LOCK = ".lock"

_LEFTOVER = re.compile(
    r"\.(config\.yaml|results\.json|curves\.png|report\.json|report\.html|log\.jsonl|wandb_id|last\.pt|best\.pt|detections-\d+\.arrow)"
    r"\.\d+-[0-9a-f]{8}\.tmp"
)
"""What a run that is killed leaves of a file that it was writing."""

_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})

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
        self.log = out / LOG_NAME

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
    def held(self, config: TrainConfig, ranks: Ranks, *, resume: bool) -> Iterator[None]:
        """Check OUT and hold it, so that no other process trains in it, and sweep what a killed one left half written.

        All ranks look at OUT before it is held; the first one holds it. The lock ends with the process. Where a file
        system has no locks nothing is held, and nothing swept. A block that ends without `claim` leaves nothing behind.

        Raises:
            RichSemError: what `check` finds; or on all ranks, another process holds OUT, or it can't be written to.
        """
        self.check(config, resume=resume)
        refusals: list[str] = []
        with ExitStack() as stack:
            if ranks.is_first:
                try:
                    stack.enter_context(self._locked())
                    # Another process may have had it since.
                    self.check(config, resume=resume)
                except RichSemError as error:
                    refusals.append(str(error))
                except OSError as error:
                    refusals.append(
                        f"{error.filename or self.out}: {error.strerror}; a run writes to its folder, so mend that, or "
                        "name another --out"
                    )
            ranks.stop_all(refusals)
            yield

    @contextmanager
    def _locked(self) -> Iterator[None]:
        made = [folder for folder in (self.out, *self.out.parents) if not folder.exists()]
        self.out.mkdir(parents=True, exist_ok=True)
        descriptor, is_locked = _lock(self.out / _LOCK)
        try:
            if is_locked:
                self._sweep()
            yield
        finally:
            if not self.config.exists():
                self._leave_nothing(made)
            os.close(descriptor)

    def _leave_nothing(self, made: Sequence[Path]) -> None:
        """Take away what was made to hold OUT, innermost folder first; what others have put there stays."""
        with suppress(OSError):
            (self.out / _LOCK).unlink()
            for folder in made:
                folder.rmdir()

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
        differences = {
            key: values
            for key, values in config_differences(found, config).items()
            if not _may_differ(key) or (key == "schedule.epochs" and config.schedule.lr_schedule == "cosine")
        }
        if differences:
            listed = "; ".join(f"{key} is {there!r} there, {here!r} here" for key, (there, here) in differences.items())
            raise RichSemError(
                f"{self.out} holds another run: {listed}. Give the same config and --set as before, "
                "or name another --out"
            )


def _lock(path: Path) -> tuple[int, bool]:
    """Lock a file, by the kind of lock that forked loader processes don't share and that file servers know.

    Returns:
        The file's descriptor, which holds the lock until it is closed; whether there are locks here.

    Raises:
        RichSemError: another process has it.
        OSError: it can't be written.
    """
    limit = time.monotonic() + _HAND_OVER_SECONDS
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_there(path, descriptor):
                return descriptor, True
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return descriptor, False
            if not isinstance(error, BlockingIOError | PermissionError):
                os.close(descriptor)
                raise
        os.close(descriptor)
        if time.monotonic() > limit:
            raise RichSemError(f"another process trains in {path.parent}; wait for it, stop it, or name another --out")
        time.sleep(0.1)


def _is_there(path: Path, descriptor: int) -> bool:
    """Whether an open file still has its name: who held it may have taken it away, and another made a new one."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _may_differ(key: str) -> bool:
    # Of several extra caches, what holds for one holds for each.
    key = _NUMBER.sub("", key)
    return any(key == name or (name.endswith(".") and key.startswith(name)) for name in _MAY_DIFFER)
