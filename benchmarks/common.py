"""What every benchmark shares: medians, the machine's name, JSON out."""

import json
import os
import platform
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from richsem_schemas.io.files import write_atomically


def median_seconds(action: Callable[[], Any], repeats: int) -> float:
    """Median wall time of `action` over `repeats` calls."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median and quartiles; of one value the median alone."""
    if len(values) < 2:
        return {"median": values[0]}
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "quartiles": [low, high]}


def quartiles(values: Sequence[float]) -> list[float]:
    """The three of them, to three digits."""
    return [round(value, 3) for value in statistics.quantiles(values, n=4, method="inclusive")]


def peak_mib() -> float:
    """Memory that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import torch

    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def when() -> dict[str, Any]:
    """The hour, the commit of the code, and the machine."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return {"date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": commit, "machine": machine()}


def report(name: str, figures: dict[str, Any], out: Path | None) -> None:
    """Print the figures, and write them to a file where one is named."""
    print(as_json(name, figures))
    if out is not None:
        save(name, figures, out)


def save(name: str, figures: dict[str, Any], out: Path) -> None:
    """Write the figures to a file, whole or not at all, with what they were measured on."""
    write_atomically(out, (as_json(name, figures) + "\n").encode())


def as_json(name: str, figures: dict[str, Any]) -> str:
    return json.dumps({"benchmark": name, "machine": machine(), **figures}, indent=2)
