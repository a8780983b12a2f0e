"""What is wrong with a config, in words: the key, the rule, the value, and the nearest key that there is."""

import difflib
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from richsem_train.config.run import ONE, SEVERAL, TrainConfig
from richsem_train.config.yaml_text import SHOWN

_RENAMED = {"text.labels": "text.label_set"}
"""Keys of before."""


def told_problems(error: ValidationError) -> str:
    """All problems of a config that was refused, in one line."""
    return "; ".join(_told(problem) for problem in error.errors())


def _told(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"] if part not in (ONE, SEVERAL))
    if problem["type"] == "extra_forbidden":
        return f"unknown key {where}" + (
            f"; it is {_RENAMED[where]} now" if where in _RENAMED else did_you_mean(where, known_keys())
        )
    message = problem["msg"].removeprefix("Value error, ")
    if not where or problem["type"] == "missing":
        return f"{where}: {message}".removeprefix(": ")
    got = _shown(problem["input"])
    return f"{where}: {message} (got {got if len(got) <= SHOWN else got[:SHOWN] + '…'})"


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:
        return "a number that is too long to show"


def known_keys() -> list[str]:
    """Every key of a config, with dots."""
    return list(dict.fromkeys(_keys("", TrainConfig)))


def _keys(prefix: str, section: type[BaseModel]) -> Iterator[str]:
    for name, field in section.model_fields.items():
        yield prefix + name
        for inner in _sections(field.annotation):
            yield from _keys(f"{prefix}{name}.", inner)


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in getattr(annotation, "__args__", ()) for section in _sections(part)]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The nearest of some names, as the end of a message; empty where none is near."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if not close:
        # The right word under another section is found by its last part.
        by_last = {candidate.rpartition(".")[2]: candidate for candidate in names}
        close = [by_last[last] for last in difflib.get_close_matches(name.rpartition(".")[2], by_last, n=1)]
    return f"; did you mean {close[0]}?" if close else ""
