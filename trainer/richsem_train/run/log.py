"""What a run leaves behind: a line of JSON every few steps, TensorBoard files, Weights & Biases if asked.

A line of the log is a JSON object with `event` and `step`. `train` has `loss`, `losses` (by name), `lr` and more;
`eval` has the metrics by name, and `classes` the APs of the classes (`results.class_aps`) at the same step.
"""

import json
import os
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from richsem_schemas.errors import RichSemError
from richsem_schemas.io.files import write_atomically
from richsem_schemas.io.output_files import full_disk_named

LOG_NAME = "log.jsonl"


@dataclass(frozen=True)
class RunLog:
    """A run's log, steps ascending, of each step what was written last.

    Attributes:
        steps: records of training.
        evaluations: `step` and `metrics` each.
        damaged: pictures and views that were replaced by others.
        class_aps: records of the APs of classes, one an evaluation.
    """

    steps: tuple[dict[str, Any], ...]
    evaluations: tuple[dict[str, Any], ...]
    damaged: int = 0
    class_aps: tuple[dict[str, Any], ...] = ()


class RunLogWriter:
    """Appends records to OUT/log.jsonl and passes their numbers on; use as a context manager."""

    def __init__(
        self, out: Path, *, tensorboard: bool, wandb: str | None, name: str, config: Mapping[str, Any]
    ) -> None:
        self._board, self._board_path = None, out / "tensorboard"
        self._wandb = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - takes a second, and may be off

            threading.excepthook = _leave_to_us
            with full_disk_named(self._board_path):
                self._board = SummaryWriter(str(self._board_path))
        if wandb is not None:
            self._wandb = _wandb_run(out, wandb, name, config)
        self._path = out / LOG_NAME
        with full_disk_named(self._path):
            self._file = self._path.open("a", encoding="utf-8")

    def __enter__(self) -> "RunLogWriter":
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as others:
            # On a full disk closing one may fail; the others are closed all the same.
            if self._wandb is not None:
                others.callback(self._wandb.finish)
            if self._board is not None:
                others.enter_context(full_disk_named(self._board_path))
                others.callback(self._board.close)
            with full_disk_named(self._path):
                self._file.close()

    def write(self, event: str, step: int, values: Mapping[str, Any]) -> None:
        """Write one record.

        Raises:
            FullDiskError: there is no space for it.
        """
        with full_disk_named(self._path):
            self._file.write(json.dumps({"event": event, "step": step, **values}) + "\n")
            self._file.flush()
        numbers = {f"{event}/{key}": value for key, value in _numbers("", values)}
        if self._board is not None:
            with full_disk_named(self._board_path):
                for key, value in numbers.items():
                    self._board.add_scalar(key, value, step)
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)


def _leave_to_us(failure: threading.ExceptHookArgs) -> None:
    """Print no traceback of TensorBoard's writing thread: its error is raised at the next record."""
    if type(failure.thread).__name__ != "_AsyncWriterThread":
        threading.__excepthook__(failure)


def read_log(path: Path) -> RunLog:
    """Read `log.jsonl`.

    A run that was resumed may have written some steps twice: the later records count. A last line that a kill cut
    short is left out.

    Raises:
        RichSemError: there is no such file, or another line is damaged.
    """
    steps: dict[int, dict[str, Any]] = {}
    evaluations: dict[int, dict[str, Any]] = {}
    class_aps: dict[int, dict[str, Any]] = {}
    damaged = 0
    for record in _read_records(path):
        step = record["step"]
        damaged += record["event"] == "damage"
        if record["event"] == "train":
            steps[step] = record
        elif record["event"] == "eval":
            metrics = {key: value for key, value in record.items() if key not in ("event", "step")}
            evaluations[step] = {"step": step, "metrics": metrics}
        elif record["event"] == "classes":
            class_aps[step] = record
    return RunLog(
        tuple(steps[step] for step in sorted(steps)),
        tuple(evaluations[step] for step in sorted(evaluations)),
        damaged,
        tuple(class_aps[step] for step in sorted(class_aps)),
    )


def forget_after(out: Path, step: int) -> None:
    """Drop the records of steps that a resume takes again, and what a kill cut short.

    Raises:
        RichSemError: a line before the last is damaged.
    """
    path = out / LOG_NAME
    kept = [record for record in _read_records(path) if record["step"] <= step] if path.is_file() else []
    write_atomically(path, "".join(json.dumps(record) + "\n" for record in kept).encode())


def _read_records(path: Path) -> list[dict[str, Any]]:
    """All records as they stand, oldest first."""
    try:
        # A kill may cut a line within a character.
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise RichSemError(f"{path}: can't be read ({error.strerror})") from None
    records = []
    for number, line in enumerate(lines, 1):
        record = _record(line)
        if record is not None:
            records.append(record)
        elif number < len(lines):
            raise RichSemError(f"{path}, line {number}: no record with an event and a step; mend or delete the line")
    return records


def _record(line: str) -> dict[str, Any] | None:
    """None where the line is none."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    is_record = isinstance(record, dict) and isinstance(record.get("event"), str)
    return record if is_record and isinstance(record.get("step"), int) else None


def _numbers(prefix: str, values: Mapping[str, Any]) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            found += _numbers(f"{prefix}{key}/", value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((prefix + key, float(value)))
    return found


def _wandb_run(out: Path, project: str, name: str, config: Mapping[str, Any]) -> Any:
    try:
        import wandb  # noqa: PLC0415 - an extra of its own
    except ImportError:
        raise RichSemError(
            "log.wandb is set and wandb is not installed; pip install 'richsem[wandb]', or --set log.wandb=null"
        ) from None
    return wandb.init(project=project, name=name, dir=str(out), config=dict(config), resume="allow", id=_run_id(out))


def _run_id(out: Path) -> str:
    """The same for each process that goes on with a run."""
    path = out / "wandb_id"
    if not path.is_file():
        write_atomically(path, os.urandom(8).hex().encode())
    return path.read_text(encoding="ascii").strip()
