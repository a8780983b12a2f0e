"""JSON files that carry their own checksum, in one canonical form, so that any changed byte shows."""

import json
from typing import Any

from richsem_schemas.errors import CorruptCacheError
from richsem_schemas.io.canonical_json import canonical_json, json_sha256, parse_json
from richsem_schemas.io.files import read_file, write_atomically
from richsem_schemas.io.places import Place

MAX_JSON_BYTES = 256 * 2**20

_REMEDY = "restore it, or delete it and run the command that made it, which makes it anew"


def write_sealed_json(path: Place, value: dict[str, Any]) -> None:
    """Write `value` with its checksum, whole or not at all, as `write_atomically`.

    Raises:
        ValueError: it holds a number that couldn't be read back.
    """
    data = _spelling(value, json_sha256(value))
    parse_json(data)
    write_atomically(path, data)


def read_sealed_json(path: Place) -> dict[str, Any]:
    """Read what `write_sealed_json` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptCacheError: the file is not byte for byte what was written.
    """
    data = read_file(path, limit=MAX_JSON_BYTES)
    try:
        value = parse_json(data)
        value.pop("checksum")
        unchanged = _spelling(value, json_sha256(value)) == data
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptCacheError(f"{path}: damaged ({error}); {_REMEDY}") from None
    if not unchanged:
        raise CorruptCacheError(f"{path}: its bytes don't match its checksum; {_REMEDY}")
    return dict(value)


def _spelling(value: dict[str, Any], checksum: str) -> bytes:
    """One line a field, so that people can read the file, and the checksum last."""
    lines = [f"{json.dumps(key)}: {canonical_json(value[key]).decode()}" for key in sorted(value)]
    return ("{\n" + ",\n".join([*lines, f'"checksum": "{checksum}"']) + "\n}\n").encode()
