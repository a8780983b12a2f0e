"""`richsem-train`: a DINO detector that streams the cache and learns its semantics."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from richsem_train.detector import Detector
    from richsem_train.run.outcome import TrainedRun
    from richsem_train.run.training import train

_HOMES = {
    "Detector": "richsem_train.detector",
    "TrainedRun": "richsem_train.run.outcome",
    "train": "richsem_train.run.training",
}
"""The Python interface, imported when it is asked for: torch takes seconds."""

__all__ = ["Detector", "TrainedRun", "train"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
