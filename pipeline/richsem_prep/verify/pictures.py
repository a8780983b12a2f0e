"""A shard of pictures: the rows of its index, its quarantine, and each KEY.json against both."""

import hashlib
import json
from collections.abc import Callable, Container, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from richsem_prep.verify.tar import Chunk, Members, shown
from richsem_schemas.cache.index import Rows
from richsem_schemas.cache.layout import sample_key
from richsem_schemas.cache.manifest import PicturesReceipt, Plan
from richsem_schemas.cache.quarantine import read_quarantine
from richsem_schemas.errors import CorruptCacheError
from richsem_schemas.io.places import Place
from richsem_schemas.io.sealed_json import MAX_JSON_BYTES
from richsem_schemas.pictures.decode import PICTURE_EXTENSIONS
from richsem_schemas.pictures.originals import Original

SAMPLED_PICTURES = 16
"""Pictures of a shard that are hashed again by themselves. The shard's hash finds every changed byte, and readers
compare each picture with its own hash; this looks for a writer that stored wrong ones, in every picture, from the
start."""


def picture_row_problems(rows: Rows, shard: int, plan: Plan) -> Iterator[str]:
    """Say which rules the rows of a picture index break."""
    sample, category_id = rows["sample"], rows["category_id"]
    before = np.concatenate([np.full(1, -1, np.int32), sample[:-1]])[: len(rows)]
    yield from wrong_rows(
        rows,
        (sample <= before) | (sample >= plan.shard_samples(shard)),
        lambda row: f"sample {sample[row]} after {before[row]} is not in order, or not in the plan",
    )
    yield from key_problems(rows, shard)
    yield from wrong_rows(
        rows,
        (category_id < 0) | (category_id >= len(plan.vocabulary.class_names)),
        lambda row: f"category_id {category_id[row]} is not in the vocabulary",
    )
    yield from wrong_rows(
        rows,
        ~np.isin(rows["extension"], PICTURE_EXTENSIONS),
        lambda row: f"{shown(rows['extension'][row])} is no extension of pictures",
    )
    has_no_area = np.minimum(rows["height"], rows["width"]) < 1
    yield from wrong_rows(rows, has_no_area, lambda _: "the picture has no area")
    offset, size = rows["offset"], rows["size"]
    fits = (offset >= 0) if plan.pictures == "copy" else (offset == -1)
    yield from wrong_rows(
        rows,
        ~fits | (size < 0),
        lambda row: f"offset {offset[row]} and size {size[row]} don't fit `--pictures {plan.pictures}`",
    )


def key_problems(rows: Rows, shard: int) -> Iterator[str]:
    """Say where a key isn't that of its sample."""
    keys = [sample_key(shard, sample) for sample in rows["sample"].tolist()]
    is_wrong = np.array([key != found for key, found in zip(keys, rows["key"].tolist(), strict=True)], np.bool_)
    yield from wrong_rows(rows, is_wrong, lambda row: f"the key of sample {rows['sample'][row]} is {keys[row]}")


def wrong_rows(rows: Rows, is_wrong_N: NDArray[np.bool_], what: Callable[[int], str]) -> Iterator[str]:
    """A message where rows break a rule; it names the first that does."""
    if is_wrong_N.any():
        row, more = int(np.argmax(is_wrong_N)), int(is_wrong_N.sum()) - 1
        yield f"{shown(rows['key'][row])}: {what(row)}" + f" ({more} more such)" * (more > 0)


def quarantined_samples(path: Place, receipt: PicturesReceipt, shard: int) -> set[int]:
    """The samples that a shard's quarantine names.

    Raises:
        CorruptCacheError: they aren't as many as the receipt says, or a line is none of a quarantined sample.
    """
    if path.stat().st_size > MAX_JSON_BYTES:
        raise CorruptCacheError("it is too large for what it holds")
    samples = set()
    for item in read_quarantine(path):
        if set(item) != {"key", "sample", "name", "reason"} or item["key"] != sample_key(shard, int(item["sample"])):
            raise CorruptCacheError("a line is not that of a quarantined sample")
        samples.add(int(item["sample"]))
    if len(samples) != receipt.summary.quarantined:
        raise CorruptCacheError(f"it names {len(samples)} samples, the receipt says {receipt.summary.quarantined}")
    return samples


def picture_members(rows: Rows, plan: Plan) -> Members:
    """The members of a tar of pictures: of a sample the picture, where it is copied, and KEY.json, by extension."""
    keys = rows["key"].tolist()
    if plan.pictures != "copy":
        return Members([f"{key}.json" for key in keys], rows["json_offset"], rows["json_size"])
    json_first_N = _json_comes_first(rows)
    names = [
        f"{key}.{ending}"
        for key, extension, json_first in zip(keys, rows["extension"].tolist(), json_first_N.tolist(), strict=True)
        for ending in (("json", extension) if json_first else (extension, "json"))
    ]
    offsets = _by_extension(json_first_N, rows["json_offset"], rows["offset"])
    sizes = _by_extension(json_first_N, rows["json_size"], rows["size"])
    return Members(names, offsets, sizes, together=2)


def _json_comes_first(rows: Rows) -> NDArray[np.bool_]:
    return np.array([extension > "json" for extension in rows["extension"].tolist()], np.bool_)


def _by_extension(json_first_N: NDArray[np.bool_], json_N: NDArray, picture_N: NDArray) -> NDArray:
    return np.where(json_first_N, (json_N, picture_N), (picture_N, json_N)).T.reshape(-1)


def sidecar_problems(chunks: Iterator[Chunk], rows: Rows, plan: Plan, hashed: Container[int]) -> Iterator[str]:
    """Compare each KEY.json with the index, and its hash with the picture for the rows that are `hashed`."""
    copied = plan.pictures == "copy"
    json_first = _json_comes_first(rows).tolist()
    facts = _facts(rows, plan)
    for chunk in chunks:
        contents = iter(chunk.contents)
        for row, first in enumerate(contents, chunk.first // (1 + copied)):
            second = next(contents) if copied else first
            data, picture = (first, second) if json_first[row] else (second, first)
            sidecar = _parsed(data)
            key, extension = rows["key"][row], rows["extension"][row]
            if sidecar is None:
                yield f"{key}.json: no JSON object"
            elif not facts[row].items() <= sidecar.items():
                for name in (name for name, value in facts[row].items() if sidecar.get(name) != value):
                    yield f"{key}.json: its {name} is not that of the index, {shown(str(facts[row][name]))}"
            elif copied and row in hashed and sidecar.get("sha256") != hashlib.sha256(picture).hexdigest():
                yield f"{key}.json: its sha256 is not that of {key}.{extension}"
            elif not copied and not _is_original(sidecar.get("original")):
                yield f"{key}.json: it doesn't say where the picture lies"


def _facts(rows: Rows, plan: Plan) -> list[dict[str, Any]]:
    """What each KEY.json repeats of the index."""
    fields, classes = ["name", "category_id", "height", "width"], plan.vocabulary.class_names
    facts = [dict(zip(fields, values, strict=True)) for values in rows[fields].tolist()]
    return [fact | {"category": classes[fact["category_id"]]} for fact in facts]


def _parsed(data: memoryview) -> dict[str, Any] | None:
    try:
        value = json.loads(str(data, "utf-8"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _is_original(value: Any) -> bool:
    try:
        file = Original.from_json(value).file
    except (KeyError, TypeError, ValueError):
        return False
    return bool(file) and not file.startswith(b"/") and b".." not in file.split(b"/")
