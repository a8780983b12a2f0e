"""Every key of a config."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from richsem_train.config.run import TrainConfig


def known_keys() -> dict[str, FieldInfo]:
    """Every key of a config, with dots, and its field, whose `description` says what it is; sections are keys, too."""
    return dict(_keys("", TrainConfig))


def _keys(prefix: str, section: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in section.model_fields.items():
        yield prefix + name, field
        for inner in _sections(field.annotation):
            yield from _keys(f"{prefix}{name}.", inner)


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in getattr(annotation, "__args__", ()) for section in _sections(part)]
