"""What a run leaves behind: a line of JSON every few steps, TensorBoard files, Weights & Biases if asked."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from richsem_schemas.errors import RichSemError
from richsem_schemas.sealed_json import write_atomically

LOG_NAME = "log.jsonl"


class RunLog:
    """Appends records to OUT/log.jsonl and passes their numbers on; use as a context manager."""

    def __init__(
        self, out: Path, *, tensorboard: bool, wandb: str | None, name: str, config: Mapping[str, Any]
    ) -> None:
        self._file = (out / LOG_NAME).open("a", encoding="utf-8")
        self._board = None
        self._wandb = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - takes a second, and may be off

            self._board = SummaryWriter(str(out / "tensorboard"))
        if wandb is not None:
            self._wandb = _wandb_run(out, wandb, name, config)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()

    def write(self, event: str, step: int, values: Mapping[str, Any]) -> None:
        """Write one record.

        Args:
            event: `train`, `eval`, or what else happened.
            step: steps taken so far.
            values: numbers, and whatever else JSON holds.
        """
        self._file.write(json.dumps({"event": event, "step": step, **values}) + "\n")
        self._file.flush()
        numbers = {f"{event}/{key}": value for key, value in _numbers("", values)}
        if self._board is not None:
            for key, value in numbers.items():
                self._board.add_scalar(key, value, step)
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)


def read_log(out: Path) -> list[dict[str, Any]]:
    """The records of a run, oldest first; a last line that a kill cut short is left out."""
    path = out / LOG_NAME
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and "event" in record and isinstance(record.get("step"), int):
            records.append(record)
    return records


def forget_after(out: Path, step: int) -> None:
    """Drop the records of steps that a resume takes again."""
    kept = [record for record in read_log(out) if record["step"] <= step]
    write_atomically(out / LOG_NAME, "".join(json.dumps(record) + os.linesep for record in kept).encode())


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
