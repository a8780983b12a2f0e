"""What the parts share: figures kept after each of them, and clocks that wait for the device."""

import gc
import json
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import median_seconds

SMOKE = os.environ.get("SMOKE") == "1"
DEVICE = torch.device("cpu" if SMOKE else "cuda")
WORK = Path(os.environ["WORK"])
"""For what parts make; gone when the check ends."""

_WARM_UP = 1 if SMOKE else 3
_LAST_CALLS = 3


class Figures:
    """A part's figures, in a file that is whole after each."""

    def __init__(self, part: str) -> None:
        self._path = Path(os.environ["PARTS"]) / f"{part}.json"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, Any] = {}

    def keep(self, name: str, value: Any) -> None:
        """One more figure."""
        self._known[name] = value
        self._path.write_text(json.dumps(self._known, indent=1))
        print(f"{name}: {json.dumps(value)}", flush=True)

    def measure(self, name: str, action: Callable[[], Any]) -> Any:
        """Keep what `action` gives, or how it failed: the figures after it are made all the same."""
        begun = time.perf_counter()
        try:
            value = action()
        # Whatever it is, it is the figure.
        except Exception as error:
            calls = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
            value = {"error": f"{type(error).__name__}: {error}"[:400], "at": calls[-_LAST_CALLS:]}
            traceback.print_exc()
        release()
        self.keep(name, value)
        print(f"   ({time.perf_counter() - begun:.1f} s)", flush=True)
        return value


def release() -> None:
    """Give back what nothing refers to, so that one figure's memory isn't the next one's."""
    gc.collect()
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()


def synchronise() -> None:
    """Wait for the device."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def milliseconds(action: Callable[[], Any], repeats: int = 20) -> float:
    """Median time of `action` on the device, by its own clock; warmed up."""
    for _ in range(_WARM_UP):
        action()
    if DEVICE.type != "cuda":
        return 1e3 * median_seconds(action, 2)
    marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    torch.cuda.synchronize()
    for start, end in marks:
        start.record()
        action()
        end.record()
    torch.cuda.synchronize()
    return sorted(start.elapsed_time(end) for start, end in marks)[repeats // 2]


def host_microseconds(action: Callable[[], Any], repeats: int = 200) -> float:
    """Mean time of `action` until it returns, the device working on."""
    for _ in range(_WARM_UP):
        action()
    synchronise()
    begun = time.perf_counter()
    for _ in range(repeats):
        action()
    taken = time.perf_counter() - begun
    synchronise()
    return taken / repeats * 1e6
