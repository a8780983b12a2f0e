"""JSON files that carry their own checksum, in one canonical form, so that any changed byte shows."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from richsem_schemas.errors import CorruptCacheError
from richsem_schemas.io.output_files import full_disk_named, require_replaceable
from richsem_schemas.io.places import Place, RemotePath, read_file

MAX_JSON_BYTES = 256 * 2**20

_REMEDY = "restore it, or delete it and run the command that made it, which makes it anew"


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


def write_atomically(path: Place, data: bytes) -> None:
    """Write a file under a temporary name, fsync it, rename it into place, fsync the folder; at a URL, by one call.

    Raises:
        FullDiskError: there is no space for it.
        RichSemError: a pipe or a device has its name.
        OSError: something else is wrong with the folder or the disk.
    """
    if isinstance(path, RemotePath):
        path.write_bytes(data)
        return
    with full_disk_named(path, needed=len(data)):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_path(path)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            commit(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def temporary_path(path: Path) -> Path:
    """A name beside `path` that no other process uses, and that a sweep recognises.

    Raises:
        RichSemError: a pipe or a device is at `path`, which the finished file would replace.
    """
    require_replaceable(path)
    return path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")


def temporaries(folder: Place) -> list[Path]:
    """What processes write in a folder, or left when they were killed; none at a URL, where files appear whole."""
    return sorted(folder.glob(".*.tmp")) if isinstance(folder, Path) and folder.is_dir() else []


def commit(temporary: Path, path: Path) -> None:
    """Make a finished, fsynced temporary file visible under its name, durably.

    Raises:
        RichSemError: a pipe or a device has that name by now.
    """
    require_replaceable(path)
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
