"""Parts of sections of a config: bounded numbers, local paths, and a base that refuses what it doesn't know."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
)

from richsem_schemas.errors import RichSemError
from richsem_schemas.io.places import local_path

PositiveInt = Annotated[int, Field(gt=0, lt=2**31)]
Layers = Annotated[int, Field(gt=0, le=100)]
Epochs = Annotated[int, Field(gt=0, le=1_000_000)]
Steps = Annotated[int, Field(gt=0, le=1_000_000_000)]
Pictures = Annotated[int, Field(gt=0, le=65_536)]
"""Of a step, over all ranks; a rank holds its share of them at once."""

EpochPictures = Annotated[int, Field(gt=0, le=100_000_000)]
"""Of an epoch; its list is held in memory."""

Side = Annotated[int, Field(gt=0, le=8192)]
"""Of a picture, pixels; a square of the largest has as many as the largest picture that is decoded."""

JitterFactor = Annotated[float, Field(ge=1e-3, le=1e3)]
"""As of windows that are drawn for a cache."""

Fraction = Annotated[float, Field(ge=0, le=1)]


def _said_at_once(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    """One message in the place of one for each of the two that it may be: of numbers that of the fraction."""
    try:
        return read(value)
    except ValidationError as error:
        of_fraction = str(error.errors()[0]["msg"])
        raise ValueError(of_fraction if isinstance(value, int | float) else f"{of_fraction}, or 'auto'") from None


AutoFraction = Annotated[Fraction | Literal["auto"], WrapValidator(_said_at_once)]
"""A fraction, or the word for one that is found from the data."""

Levels = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
Rgb = tuple[float, float, float]


def _to_local(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return local_path(value)
    except RichSemError as error:
        raise ValueError(str(error)) from None


LocalPath = Annotated[Path, BeforeValidator(_to_local)]


def form_told_by(key: str, usual: str) -> Callable[[Any], str]:
    """By which keys a section of several forms is read: as its `key` says, else those of the usual one."""
    return lambda value: str(value.get(key, usual) if isinstance(value, dict) else getattr(value, key, usual))


class Section(BaseModel):
    """A part of a config; the docstring of a field is what the reference says of its key."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_another_value(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None
        parts = value if isinstance(value, list | tuple) else [value]
        if cls.model_fields[info.field_name].annotation is not bool and any(isinstance(part, bool) for part in parts):
            # Python's true is the number 1; YAML's no is false.
            raise ValueError("true, false, yes, no, on and off are no value of this key; put a text in quotes")
        return value
