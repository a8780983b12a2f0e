"""Lists of pictures, such as of LVIS minival: a part of an annotation file, without annotations of its own."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.annotations.detection_data import DetectionData
from richsem_schemas.annotations.json_stream import stream_json
from richsem_schemas.errors import RichSemError, SourceError
from richsem_schemas.io.files import open_regular, read_file

_MOST_BYTES = 2**28
"""Of a list of lines: ten million names."""

_SHOWN = 5
_START = 64
_LARGEST_ID = 2**63 - 1

Entry = int | str
"""A picture by its id, or by its name."""


def chosen_pictures(data: DetectionData, path: Path) -> NDArray[np.int64]:
    """The pictures of a split that a list names, by their places in it, ascending.

    A file of lines, one an id or a file name; or JSON, a list of these, or an object whose list `images` has records
    with an `id`, as annotation files have it. A name is the picture's as the split has it, or the last part of it. What
    is named twice is one picture.

    Args:
        data: the split.
        path: of the list.

    Returns:
        int64 [P], P from 1.

    Raises:
        SourceError: the list can't be read, is empty, or names a picture that the split hasn't, or has twice.
    """
    entries = _read_entries(path)
    if not entries:
        raise SourceError(f"{path}: names no pictures; write an id or a file name a line")
    by_id: dict[Entry, int] = {image_id: place for place, image_id in enumerate(data.image_ids.tolist())}
    by_name = _places_by_name(data.files)
    places = [by_id.get(entry, by_name.get(str(entry), [])) for entry in entries]
    _require_known(entries, places, path, data)
    return np.unique(np.array([place if isinstance(place, int) else place[0] for place in places], np.int64))


def _places_by_name(files: Sequence[str]) -> dict[str, list[int]]:
    """Places by whole names and by their last parts, which several pictures may share."""
    found: dict[str, list[int]] = {}
    for place, name in enumerate(files):
        for known in {name, name.rpartition("/")[2]}:
            found.setdefault(known, []).append(place)
    for place, name in enumerate(files):
        # A whole name is one picture's, whatever other names end in.
        found[name] = [place]
    return found


def _require_known(
    entries: Sequence[Entry], places: Sequence[int | list[int]], path: Path, data: DetectionData
) -> None:
    pairs = [(entry, place) for entry, place in zip(entries, places, strict=True) if not isinstance(place, int)]
    unknown = [entry for entry, place in pairs if not place]
    if unknown:
        raise SourceError(
            f"{path}: {len(unknown):,} of {len(entries):,} pictures are not among the annotations' {len(data):,}, by "
            f"id or by name: {_listed(unknown)}; give a list of pictures of these annotations, or the annotations that "
            "it belongs to (--set detection.val.annotations=FILE)"
        )
    several = [entry for entry, place in pairs if len(place) > 1]
    if several:
        raise SourceError(
            f"{path}: {_listed(several)} ends the names of several pictures; write the whole name, such as "
            f"{data.files[0]!r}, or the id"
        )


def _listed(entries: Sequence[Entry]) -> str:
    shown = ", ".join(repr(entry)[:80] for entry in entries[:_SHOWN])
    return f"{shown}{', ...' if len(entries) > _SHOWN else ''}"


def _read_entries(path: Path) -> list[Entry]:
    try:
        with open_regular(path) as file:
            start = file.read(_START).lstrip(b"\xef\xbb\xbf \t\r\n")
        return _read_json(path) if start.startswith((b"[", b"{")) else _read_lines(path)
    except OSError as error:
        raise SourceError(f"{path}: can't be read ({error.strerror or error}); give a list of pictures") from None
    except RichSemError as error:
        raise SourceError(str(error)) from None


def _read_lines(path: Path) -> list[Entry]:
    try:
        lines = read_file(path, limit=_MOST_BYTES).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise SourceError(f"{path}: is no text in UTF-8; write an id or a file name a line") from None
    return [_entry_of_line(line.strip()) for line in lines if line.strip()]


def _entry_of_line(line: str) -> Entry:
    """Digits alone are an id, those with zeros before them, too: COCO writes 139 as 000000000139."""
    is_id = line.isascii() and line.removeprefix("-").isdigit() and len(line) <= len(str(_LARGEST_ID))
    return int(line) if is_id else line


def _read_json(path: Path) -> list[Entry]:
    entries: list[Entry] = []
    for name, records in stream_json(path):
        if name == "":
            entries += [_entry(record, f"[{place}]", path) for place, record in enumerate(records, len(entries))]
        elif name == "images":
            entries += [_id_of(record, f"images[{place}]", path) for place, record in enumerate(records, len(entries))]
    return entries


def _id_of(record: Any, place: str, path: Path) -> Entry:
    if not isinstance(record, dict) or "id" not in record:
        raise SourceError(f"{path}: {place} has no id; `images` of an annotation file are objects with one each")
    return _entry(record["id"], f"{place}.id", path)


def _entry(value: Any, place: str, path: Path) -> Entry:
    if isinstance(value, str) or (type(value) is int and abs(value) <= _LARGEST_ID):
        return value
    raise SourceError(f"{path}: {place} is {json.dumps(value)[:80]}; a picture is given by its id or its file name")
