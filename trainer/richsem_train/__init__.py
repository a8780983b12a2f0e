"""`richsem-train`: a DINO detector that streams the cache and learns its semantics."""

from importlib import import_module
from typing import Any

_HOMES = {"Detector": "richsem_train.detector"}
"""The Python interface, imported when it is asked for: torch takes seconds."""

__all__ = ["Detector"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
