"""JSON with one spelling, and with whole numbers that every reader can hold."""

import hashlib
import json
from typing import Any

MAX_WHOLE_NUMBER = 2**63 - 1
"""Largest in the JSON of a cache: what files, arrays and other languages hold."""


def parse_json(data: bytes) -> Any:
    """Read JSON of a cache, in which every whole number fits 64 bits.

    Raises:
        ValueError: it is no JSON, nested without end, or holds a larger number.
    """
    try:
        return json.loads(data, parse_int=_whole_number)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _whole_number(digits: str) -> int:
    value = int(digits) if len(digits) <= len(str(-MAX_WHOLE_NUMBER)) else MAX_WHOLE_NUMBER + 1
    if abs(value) > MAX_WHOLE_NUMBER:
        raise ValueError(f"the number {digits[:20]}{'…' * (len(digits) > 20)} doesn't fit 64 bits")
    return value


def canonical_json(value: object) -> bytes:
    """The one spelling of a JSON value: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def json_sha256(value: object) -> str:
    """SHA-256 of the canonical form, as hexadecimal digits."""
    return hashlib.sha256(canonical_json(value)).hexdigest()
