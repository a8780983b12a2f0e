"""The pictures that a cache left out, and why: a JSON object a line."""

from collections.abc import Iterator
from typing import Any

from richsem_schemas.errors import CorruptCacheError
from richsem_schemas.io.canonical_json import parse_json
from richsem_schemas.io.files import bytes_there, open_regular
from richsem_schemas.io.places import Place, RemotePath

MAX_BYTES = 2**30


def read_quarantine(path: Place) -> Iterator[dict[str, Any]]:
    """Yield the records of a quarantine file: `name`, `reason`, and in a shard's the `sample`.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptCacheError: a line is no such record, or there are too many.
    """
    if not (size := bytes_there(path)):
        raise FileNotFoundError(f"{path} is missing")
    if size > MAX_BYTES:
        raise CorruptCacheError(f"{path}: {size:,} bytes are no quarantine; at most {MAX_BYTES:,} are read")
    if isinstance(path, RemotePath):
        yield from (_record(path, line) for line in path.read_bytes().splitlines())
        return
    with open_regular(path) as file:
        yield from (_record(path, line) for line in file)


def _record(path: Place, line: bytes) -> dict[str, Any]:
    try:
        record = parse_json(line)
    except ValueError:
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("reason"), str):
        raise CorruptCacheError(f"{path}: a line is no quarantined sample; run `richsem-prep verify`, or restore it")
    return record
