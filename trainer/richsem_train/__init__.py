"""`richsem-train`: a DINO detector that streams the cache and learns its semantics."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from richsem_train.run.training import TrainedRun, train

__all__ = ["TrainedRun", "train"]

_HOMES = {"TrainedRun": "richsem_train.run.training", "train": "richsem_train.run.training"}


def __getattr__(name: str) -> Any:
    # Imported when asked for: torch takes seconds, and `--help` needs none of it.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
