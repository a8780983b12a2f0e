"""Boxes of Visual Genome: `objects.json`, with the sizes and addresses of the pictures in `image_data.json`."""

import string
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.annotations.annotation_file import AnnotationFile, CategoryRecord, NameRule
from richsem_schemas.annotations.boxes import AnnotatedBoxes
from richsem_schemas.annotations.columns import (
    RecordList,
    check_unique,
    integer_column,
    number_column,
    picture_sizes,
)
from richsem_schemas.annotations.json_stream import stream_json
from richsem_schemas.annotations.picture_files import end_of_name, is_utf8
from richsem_schemas.errors import SourceError

MIN_NAME_BOXES = 50
"""Names of fewer boxes are left out: the most frequent ones have about a thousand times as many, which is as long a
tail as the paper shows for this dataset."""

PICTURE_FILE = "image_data.json"

_MAX_NAME = 100
_NO_NAME = -1


def normalised_name(name: str) -> str:
    """A name as annotators wrote it, in the one spelling that is counted.

    Lower case, compatibility characters folded, underscores as spaces, single spaces, no punctuation around. Plurals
    and synonyms stay apart.
    """
    folded = unicodedata.normalize("NFKC", name).lower().replace("_", " ")
    return " ".join(folded.split()).strip(string.punctuation + " ")


def read_visual_genome_file(path: Path, class_names: Sequence[str] | None) -> AnnotationFile:
    """Read `objects.json` (or a part of it) and the `image_data.json` beside it.

    An object's first name counts. Ids are positions of the names, from 1, in alphabetical order.

    `class_names` are the names to keep, in the order of their ids; None keeps those of at least `MIN_NAME_BOXES` boxes.

    Raises:
        SourceError: a file can't be read, is something else, or no name is left.
    """
    objects = _read_objects(path)
    image_ids = np.concatenate(objects.image_ids) if objects.image_ids else np.zeros(0, np.int64)
    if not len(image_ids):
        raise SourceError(f"{path}: lists no pictures; at least one is needed")
    check_unique(image_ids, "image", path)
    names_O = np.concatenate(objects.name_numbers)
    kept_names = _kept_names(objects.names, names_O, class_names, path)
    category_ids = np.array([kept_names.get(name, 0) for name in objects.names] + [0])[names_O]
    boxes = AnnotatedBoxes(
        image_index=np.repeat(np.arange(len(image_ids)), np.concatenate(objects.counts)),
        category_ids=category_ids,
        boxes_xywh=np.concatenate(objects.boxes_xywh),
        is_crowd=np.zeros(len(names_O), np.bool_),
    )
    picture_file = path.parent / PICTURE_FILE
    hws_px, urls = _read_pictures(picture_file, image_ids, path)
    reason = f"on fewer than {MIN_NAME_BOXES} boxes" if class_names is None else "outside of the vocabulary"
    return AnnotationFile(
        image_ids=image_ids,
        hws_px=hws_px,
        name_rules=_name_rules(urls, image_ids.tolist(), picture_file),
        boxes=boxes.only(category_ids > 0),
        categories={number: CategoryRecord(name) for name, number in kept_names.items()},
        problems={
            "boxes without a name left out": int((names_O == _NO_NAME).sum()),
            f"boxes of names {reason} left out": int(((category_ids == 0) & (names_O != _NO_NAME)).sum()),
        },
    )


@dataclass(eq=False)
class _Objects:
    """Pictures and their O objects, growing batch by batch; `name_numbers` are positions in `names`."""

    image_ids: list[NDArray[np.int64]] = field(default_factory=list)
    counts: list[NDArray[np.int64]] = field(default_factory=list)
    boxes_xywh: list[NDArray[np.float64]] = field(default_factory=list)
    name_numbers: list[NDArray[np.int32]] = field(default_factory=list)
    names: dict[str, int] = field(default_factory=dict)


def _read_objects(path: Path) -> _Objects:
    found = _Objects()
    for pictures in _records(path, "objects.json"):
        lists = [_objects_of(record, number, path) for number, record in enumerate(pictures, pictures.start)]
        records = RecordList("the objects", [item for objects in lists for item in objects], path)
        sides = [number_column(records, key, path, default=np.nan) for key in ("x", "y", "w", "h")]
        found.image_ids.append(integer_column(pictures, "image_id", path))
        found.counts.append(np.array([len(objects) for objects in lists], np.int64))
        found.boxes_xywh.append(np.stack(sides, axis=1))
        found.name_numbers.append(np.array([_name_number(record, found.names) for record in records], np.int32))
    return found


def _records(path: Path, what: str) -> Iterator[RecordList]:
    start = 0
    for name, batch in stream_json(path):
        if name != "":
            raise SourceError(f"{path}: {what} of Visual Genome is one list of pictures; this is something else")
        records = RecordList("pictures", batch, path, start=start)
        start += len(records)
        yield records


def _objects_of(record: dict[str, Any], number: int, path: Path) -> list[Any]:
    objects = record.get("objects")
    if not isinstance(objects, list):
        raise SourceError(
            f"{path}: pictures[{number}] has the `objects` {str(objects)[:80]}; a list is needed. "
            "Is it objects.json of Visual Genome?"
        )
    return objects


def _name_number(record: dict[str, Any], names: dict[str, int]) -> int:
    given = record.get("names")
    first = given[0] if isinstance(given, list) and given else record.get("name")
    name = normalised_name(first) if isinstance(first, str) and len(first) <= _MAX_NAME and is_utf8(first) else ""
    return names.setdefault(name, len(names)) if name else _NO_NAME


def _kept_names(
    names: dict[str, int], names_O: NDArray[np.int32], class_names: Sequence[str] | None, path: Path
) -> dict[str, int]:
    if class_names is not None:
        return {name: number for number, name in enumerate(class_names, 1)}
    counts = np.bincount(names_O[names_O != _NO_NAME], minlength=len(names))
    frequent = sorted(name for name, number in names.items() if counts[number] >= MIN_NAME_BOXES)
    if not frequent:
        raise SourceError(
            f"{path}: none of its {len(names):,} names stands on {MIN_NAME_BOXES} boxes or more, and rarer ones are "
            "left out; is it a small part of objects.json?"
        )
    return {name: number for number, name in enumerate(frequent, 1)}


def _read_pictures(path: Path, image_ids: NDArray[np.int64], objects_path: Path) -> tuple[NDArray[np.int32], list[Any]]:
    """Sizes, int32 [N, 2], and addresses of the pictures of the objects."""
    ids, sizes, urls = [np.zeros(0, np.int64)], [np.zeros((0, 2), np.int32)], []
    for records in _records(path, PICTURE_FILE):
        ids.append(integer_column(records, "image_id", path))
        sizes.append(picture_sizes(records, path))
        urls += [record.get("url") for record in records]
    listed = np.concatenate(ids)
    if not len(listed):
        raise SourceError(f"{path}: lists no pictures; download it again")
    check_unique(listed, "image", path)
    order = np.argsort(listed, kind="stable")
    position = order[np.minimum(np.searchsorted(listed[order], image_ids), len(listed) - 1)]
    lost = np.flatnonzero(listed[position] != image_ids)
    if len(lost):
        raise SourceError(
            f"{objects_path}: {len(lost):,} of its pictures are not in {path}; the first is {image_ids[lost[0]]}. "
            "Use files of one version"
        )
    return np.concatenate(sizes)[position], [urls[index] for index in position.tolist()]


def _name_rules(urls: list[Any], image_ids: list[int], path: Path) -> dict[str, NameRule]:
    return {
        "the last two parts of its url": lambda index: end_of_name(urls[index], "url", path, parts=2),
        "the last part of its url": lambda index: end_of_name(urls[index], "url", path, parts=1),
        "its image_id": lambda index: f"{image_ids[index]}.jpg",
    }
