"""`richsem-train`: a DINO detector that streams the cache and learns its semantics."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from richsem_train.detector import Detector

__all__ = ["Detector"]

# The Python interface is imported when it is asked for: torch takes seconds.
_HOMES = {"Detector": "richsem_train.detector"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
