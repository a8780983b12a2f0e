"""A command's options as fields of a pydantic model: name, type, bounds, default and help are said there alone.

A field carries the `typer.Option` that a parameter of a command would carry:

    class TextOptions(BaseModel, frozen=True):
        top_k: Annotated[PositiveInt, typer.Option(help="Classes kept in each soft label.")] = 64

    @app.command()
    @with_options_of_models
    def text(out: Annotated[str, typer.Argument()], options: TextOptions) -> None: ...
"""

import inspect
from collections.abc import Callable, Collection, Mapping
from copy import copy
from functools import wraps
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from typer.models import OptionInfo

from richsem_schemas.errors import RichSemError

_SHOWN = 80
"""Letters of a wrong value that a message repeats."""

_Model = TypeVar("_Model", bound=BaseModel)


def with_options_of_models(command: Callable[..., None], *, without: Collection[str] = ()) -> Callable[..., None]:
    """The command as typer takes it: in the place of each parameter that is a model stand options for its fields.

    Numbers and flags are parsed by typer; all else reaches the model as text. A field is left to the model where its
    option isn't given, so a default that is no number, flag or text is for the help to tell.

    Args:
        command: takes models, and whatever else typer understands.
        without: fields that the command doesn't offer.
    """
    parameters: list[inspect.Parameter] = []
    fields_by_model: dict[str, list[str]] = {}
    models: dict[str, type[BaseModel]] = {}
    for parameter in inspect.signature(command).parameters.values():
        if inspect.isclass(parameter.annotation) and issubclass(parameter.annotation, BaseModel):
            model = models[parameter.name] = parameter.annotation
            fields_by_model[parameter.name] = [name for name in model.model_fields if name not in without]
            parameters += [_option(name, model.model_fields[name]) for name in fields_by_model[parameter.name]]
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @wraps(command)
    def with_models(**given: Any) -> None:
        for name, fields in fields_by_model.items():
            given[name] = from_options(models[name], {field: given.pop(field) for field in fields})
        command(**given)

    with_models.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_models.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_models


def from_options(model: type[_Model], given: Mapping[str, Any]) -> _Model:
    """Make a model of the options that are given; those that are None are left to its defaults.

    Raises:
        RichSemError: names each option that is wrong, its value and the rule.
    """
    try:
        return model(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise RichSemError("; ".join(_message(model, item) for item in error.errors())) from None


def _option(name: str, field: FieldInfo) -> inspect.Parameter:
    option = copy(_option_of(field))
    core = _core(field.annotation)
    if get_origin(core) is Literal:
        choices = get_args(core)
        option.autocompletion = lambda incomplete: [choice for choice in choices if choice.startswith(incomplete)]
    parsed = core if core in {bool, int, float} else str
    default: Any = inspect.Parameter.empty
    if not field.is_required():
        default = field.default if isinstance(field.default, bool | int | float | str) else None
    annotation: Any = Annotated[parsed | None if default is None else parsed, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _option_of(field: FieldInfo) -> OptionInfo:
    return next(item for item in field.metadata if isinstance(item, OptionInfo))


def _core(annotation: Any) -> Any:
    """A type without its bounds and without None; the first of several."""
    if get_origin(annotation) is Annotated:
        return _core(get_args(annotation)[0])
    if get_origin(annotation) in {Union, UnionType}:
        return _core(next(item for item in get_args(annotation) if item is not NoneType))
    return annotation


def _message(model: type[BaseModel], error: Any) -> str:
    told = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return told
    given = repr(error["input"])
    given = given if len(given) <= _SHOWN else f"{given[:_SHOWN]}…"
    return f"{_flag(model, error['loc'][0])} {given}: {told}"


def _flag(model: type[BaseModel], name: str) -> str:
    # As in `Annotated`, where typer takes the first name for a default.
    own_name = _option_of(model.model_fields[name]).default
    return own_name if isinstance(own_name, str) else "--" + name.replace("_", "-")
