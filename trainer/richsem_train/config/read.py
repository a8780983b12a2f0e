"""Configs are read from YAML or from Python, over the config that they build on, and changed by `--set`."""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from richsem_schemas.errors import RichSemError
from richsem_train.config.data import AUGMENTATIONS
from richsem_train.config.model import DETECTORS
from richsem_train.config.run import ONE, SEVERAL, TrainConfig
from richsem_train.config.yaml_text import SHOWN, parse_yaml

DEFAULT_CONFIG = "richsem_r50_inet_lvis"
_BASE = "base"
_MAX_CONFIG_BYTES = 2**20
_RENAMED = {"text.labels": "text.label_set"}
"""Old keys, which are refused with the new one."""

_TOLD_BY = {"model": ("detector", DETECTORS), "detection.augmentation": ("kind", AUGMENTATIONS)}
"""Sections that have several forms, the key that tells which, and its values, the first of which is the default."""

_FORMS = (ONE, SEVERAL, *DETECTORS, *AUGMENTATIONS)
"""Pydantic's words for the forms of sections, which are no keys."""


def builtin_configs() -> dict[str, Path]:
    """The configs that come with the package, by name."""
    folder = resources.files("richsem_train") / "configs"
    return {path.stem: path for path in sorted(Path(str(folder)).glob("*.yaml"))}


def load_config(name_or_file: str | Path, changes: Sequence[str] = ()) -> TrainConfig:
    """Read a config and apply `--set` changes.

    Args:
        name_or_file: one of `builtin_configs`, or the path of a YAML file.
        changes: `KEY=VALUE` with dots in KEY and YAML in VALUE, such as `extra.labels=topk`.

    Raises:
        RichSemError: no such config, no YAML, an unknown key (with the nearest known one), or a bad value.
    """
    return _changed(_read_yaml(_config_path(str(name_or_file))), changes, source=str(name_or_file))


def with_changes(config: TrainConfig, changes: Sequence[str], *, source: str) -> TrainConfig:
    """The config of a checkpoint with `--set` changes.

    Raises:
        RichSemError: an unknown key, or a bad value.
    """
    return _changed(config.model_dump(mode="json"), changes, source=source)


def as_config(config: TrainConfig | Mapping[str, Any] | str | Path) -> TrainConfig:
    """A config from whatever describes one.

    That is a validated one; or values as a YAML file has them (with a `base`, over those of that config); or the name
    of one of `builtin_configs`, or the path of a YAML file.

    Raises:
        RichSemError: as `load_config` has it.
    """
    if isinstance(config, TrainConfig):
        return config
    if isinstance(config, Mapping):
        return parse_config(_over_base(dict(config), source="config"), source="config")
    return load_config(config)


def parse_config(values: Mapping[str, Any], *, source: str) -> TrainConfig:
    """Validate what a YAML file or a checkpoint holds.

    Raises:
        RichSemError: an unknown key, or a bad value.
    """
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        raise RichSemError(f"{source}: {_described_problems(error)}") from None


def config_yaml(config: TrainConfig) -> str:
    """The whole config as YAML, to be read by `load_config`."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def config_differences(one: TrainConfig, other: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """The fields, with dots, in which two configs differ."""
    ours, theirs = dict(_flat("", one.model_dump(mode="json"))), dict(_flat("", other.model_dump(mode="json")))
    return {
        key: (ours.get(key), theirs.get(key))
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key)
    }


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


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list) and any(isinstance(part, dict) for part in value):
        value = dict(enumerate(value))
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else key, part)
    else:
        yield prefix, value


def _config_path(name_or_file: str) -> Path:
    known = builtin_configs()
    if name_or_file in known:
        return known[name_or_file]
    path = Path(name_or_file)
    if path.is_file():
        return path
    raise RichSemError(
        f"the config {name_or_file!r} is neither a file nor one of {', '.join(known)}"
        f"{_did_you_mean(name_or_file, known)}"
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise RichSemError(f"{path}: larger than {_MAX_CONFIG_BYTES} bytes; that is no config")
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RichSemError(f"{path}: no YAML of a config ({error})") from None
    if not isinstance(values, dict):
        raise RichSemError(f"{path}: no config; expected keys such as `detection:` and `model:`")
    return _over_base(values, source=path)


def _over_base(values: dict[Any, Any], *, source: str | Path) -> dict[str, Any]:
    """Values over those of their `base`."""
    if not all(isinstance(key, str) for key in values):
        raise RichSemError(f"{source}: no config; expected keys such as `detection:` and `model:`")
    base = values.pop(_BASE, None)
    if base is None:
        return values
    known = builtin_configs()
    if not isinstance(base, str) or base not in known or known[base] == source:
        raise RichSemError(f"{source}: its base {base!r} is none of {', '.join(known)}")
    return merged(_read_yaml(known[base]), values)


def merged(below: Mapping[str, Any], above: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values of a config over others, section by section; a section of another form takes the place of the whole."""
    result = dict(below)
    for key, value in above.items():
        under, where = result.get(key), prefix + key
        if isinstance(under, dict) and isinstance(value, dict) and not _is_of_another_form(where, under, value):
            result[key] = merged(under, value, f"{where}.")
        else:
            result[key] = value
    return result


def _is_of_another_form(where: str, below: Mapping[str, Any], above: Mapping[str, Any]) -> bool:
    """Whether a section takes the place of one of another form, whose keys it has not."""
    if where not in _TOLD_BY:
        return False
    key, (default, *_) = _TOLD_BY[where]
    found = below.get(key, default)
    return bool(above.get(key, found) != found)


def apply_changes(values: Mapping[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """Values as a YAML file has them, with `--set` changes; neither is validated.

    Raises:
        RichSemError: a change is not KEY=VALUE.
    """
    changed = dict(values)
    for change in changes:
        _apply(changed, change)
    return changed


def _changed(values: dict[str, Any], changes: Sequence[str], *, source: str) -> TrainConfig:
    return parse_config(apply_changes(values, changes), source=source)


def _apply(values: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    if not equals or not all(key.split(".")):
        raise RichSemError(f"--set {change!r} is not KEY=VALUE; such as --set extra.labels=topk")
    try:
        value = parse_yaml(text)
    except ValueError as error:
        raise RichSemError(f"--set {change[:SHOWN]!r}: the value is no YAML of a config ({error})") from None
    first, *rest = key.split(".")
    values[first] = _with_value(values.get(first), rest, value, change)


def _with_value(section: Any, path: Sequence[str], value: Any, change: str) -> Any:
    """A copy of a section, or of a list of sections, with a value at the end of a path."""
    if not path:
        return value
    first, *rest = path
    if not isinstance(section, list):
        inner = dict(section) if isinstance(section, dict) else {}
        return inner | {first: _with_value(inner.get(first), rest, value, change)}
    if not first.isdecimal() or int(first) >= len(section):
        raise RichSemError(
            f"--set {change[:SHOWN]!r}: there is a list of {len(section)} here; say which one by its number, counted "
            "from 0, such as extra.0.labels"
        )
    position = int(first)
    return [*section[:position], _with_value(section[position], rest, value, change), *section[position + 1 :]]


def _described_problems(error: ValidationError) -> str:
    described: list[str] = []
    for form, problems in groupby(error.errors(), key=_form_without_such_a_key):
        if form is None:
            described.extend(_described(problem) for problem in problems)
            continue
        first, *others = [_where(problem) for problem in problems]
        like = f", like {', '.join(others)}" if others else ""
        described.append(f"unknown key {first}; it is of another {form}{like}; leave such keys out")
    return "; ".join(described)


def _form_without_such_a_key(problem: Any) -> str | None:
    """What tells the form that a section has, where only another form of it has this key; None of other problems."""
    where = _where(problem)
    if problem["type"] != "extra_forbidden" or where not in known_keys():
        return None
    section = next(section for section in _TOLD_BY if where.startswith(f"{section}."))
    return f"{section}.{_TOLD_BY[section][0]} than {next(part for part in problem['loc'] if part in _FORMS)}"


def _where(problem: Any) -> str:
    return ".".join(str(part) for part in problem["loc"] if part not in _FORMS)


def _described(problem: Any) -> str:
    where = _where(problem)
    if problem["type"] == "extra_forbidden":
        return f"unknown key {where}{_other_key(where)}"
    if problem["type"] == "union_tag_invalid":
        key, forms = _TOLD_BY[where]
        return f"{where}.{key}: {problem['ctx']['tag'][:SHOWN]!r} is none of {', '.join(forms)}"
    message = problem["msg"].removeprefix("Value error, ")
    if not where or problem["type"] == "missing" or isinstance(problem["input"], dict):
        return f"{where}: {message}".removeprefix(": ")
    got = _shown_value(problem["input"])
    return f"{where}: {message} (got {got if len(got) <= SHOWN else got[:SHOWN] + '…'})"


def _other_key(where: str) -> str:
    """The key that was meant by one that isn't there, as the end of a message."""
    if where in _RENAMED:
        return f"; it is {_RENAMED[where]} now"
    return _did_you_mean(where, known_keys())


def _shown_value(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:
        return "a number that is too long to show"


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    """The nearest of some names, as the end of a message; empty where none is near."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if not close:
        # The right word under another section is found by its last part.
        by_last = {candidate.rpartition(".")[2]: candidate for candidate in names}
        close = [by_last[last] for last in difflib.get_close_matches(name.rpartition(".")[2], by_last, n=1)]
    return f"; did you mean {close[0]}?" if close else ""
