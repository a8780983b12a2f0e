"""YAML that anybody may have written: read in little time and memory, or refused in one line."""

import math
import re
from typing import Any

import yaml

from richsem_schemas.io.words import one_line

SHOWN = 100
"""Letters of a wrong value that a message shows."""

_MAX_VALUES = 20_000
"""Values of a config, each alias counted as what it stands for; 250 are enough for any."""

_MAX_NUMBER_LETTERS = 100
"""Letters of a number; longer ones take Python ages, or can't be shown."""

_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_OTHER_NUMBER = re.compile(r"[-+]?0[0-7_]+$|.*:")
"""What YAML 1.1 reads as another number than is meant: 010 is 8 to it, and 1:30 is 90."""


def parse_yaml(text: str) -> Any:
    """Read YAML.

    Aliases are counted before anything is made of them: a kilobyte of them can stand for gigabytes. So are the letters
    of numbers. Of a key that is given twice YAML's reader would keep the last.

    Raises:
        ValueError: it is none, or none that a config could be.
    """
    try:
        loader = _ConfigLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _require_few(_count_values(node, {}))
        return loader.construct_document(node)
    except MemoryError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(one_line(error)) from None
    except Exception:
        # PyYAML documents no closed list: `!!timestamp x` is an AttributeError, `!!bool x` a KeyError.
        raise ValueError("a value isn't what its tag (such as !!timestamp) says") from None


class _ConfigLoader(yaml.SafeLoader):
    """Ends early where there are more values than a config has: composing them is what takes long."""

    _composed = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._composed += 1
        _require_few(self._composed)
        return super().compose_node(parent, index)


def _require_few(values: float) -> None:
    if values > _MAX_VALUES:
        raise ValueError(f"more than {_MAX_VALUES:,} values, aliases written out; that is no config")


def _count_values(node: yaml.Node, counted: dict[int, float]) -> float:
    """How many values a node stands for; `counted` remembers those of nodes with aliases."""
    key = id(node)
    if key not in counted:
        # Met again before it is counted, it stands for what it is part of.
        counted[key] = math.nan
        if isinstance(node, yaml.ScalarNode):
            if node.tag in _NUMBERS:
                _require_plain_number(node.value)
            counted[key] = 1
        else:
            if isinstance(node, yaml.MappingNode):
                _require_keys_once(node)
            parts = [part for pair in node.value for part in (pair if isinstance(pair, tuple) else (pair,))]
            counted[key] = min(1 + sum(_count_values(part, counted) for part in parts), 10.0 * _MAX_VALUES)
    if math.isnan(counted[key]):
        raise ValueError("an alias stands for what it is part of")
    return counted[key]


def _require_plain_number(text: str) -> None:
    if len(text) > _MAX_NUMBER_LETTERS:
        raise ValueError(f"a number of {len(text):,} letters; at most {_MAX_NUMBER_LETTERS} are read")
    if _OTHER_NUMBER.match(text):
        raise ValueError(
            f"{text} is a number to base 8 or 60 in YAML; write it to base 10 and without a leading 0, or in quotes if "
            "it is a text"
        )


def _require_keys_once(mapping: yaml.MappingNode) -> None:
    seen: set[tuple[str, str]] = set()
    for key, _ in mapping.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        if (key.tag, key.value) in seen:
            raise ValueError(
                f"the key {key.value[:SHOWN]!r} is given twice, again in line {key.start_mark.line + 1}; leave one"
            )
        seen.add((key.tag, key.value))
