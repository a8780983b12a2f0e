"""`richsem-train`: a detector that streams the cache and learns its semantics."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from richsem_train.detector import Detector
    from richsem_train.results.picture_files import picture_files
    from richsem_train.run.outcome import TrainedRun
    from richsem_train.run.training import train

__all__ = ["Detector", "TrainedRun", "picture_files", "train"]

# The Python interface is imported when it is asked for: torch takes seconds.
_HOMES = {
    "Detector": "richsem_train.detector",
    "TrainedRun": "richsem_train.run.outcome",
    "picture_files": "richsem_train.results.picture_files",
    "train": "richsem_train.run.training",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
