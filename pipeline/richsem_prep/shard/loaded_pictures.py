"""The pictures of a shard: read and decoded in threads, from raw data or from the cache; kept, or set aside."""

import io
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from richsem_prep.shard.progress import Progress
from richsem_prep.shard.stage_clock import StageClock
from richsem_prep.sources.entry import PictureBoxes, SourceEntry, read_entry
from richsem_schemas.cache.index import PICTURE_ROW
from richsem_schemas.cache.layout import BLOCK_SAMPLES, sample_key
from richsem_schemas.cache.manifest import PicturesReceipt, Plan, ShardSummary
from richsem_schemas.cache.shard import PictureShard
from richsem_schemas.cache.shard_writer import ShardWriter
from richsem_schemas.errors import PictureError
from richsem_schemas.io.canonical_json import canonical_json
from richsem_schemas.io.files import FileHash, hash_bytes, hashed_file
from richsem_schemas.io.ordered_map import ordered_map
from richsem_schemas.io.places import Place
from richsem_schemas.pictures.decode import decode_picture, picture_extension
from richsem_schemas.pictures.resize import PackedPicture

_KEPT_PIXELS = 4 * 2**20
"""Larger pictures are decoded again for each view rather than held, so that a block's memory is bounded."""

_JPEG_QUALITY = 95


@dataclass(frozen=True, eq=False, slots=True)
class LoadedPicture:
    """A good sample: its bytes as they are cached, and its pixels unless they are too many to hold.

    Several views show it, so they are packed once.
    """

    sample: int
    name: str
    category_id: int
    boxes: PictureBoxes | None
    data: bytes
    extension: str
    hw: tuple[int, int]
    pixels: PackedPicture | None

    @classmethod
    def of(
        cls, sample: int, name: str, category_id: int, boxes: PictureBoxes | None, data: bytes, picture: Image.Image
    ) -> "LoadedPicture":
        """From a picture's bytes and the same decoded."""
        pixels = PackedPicture.of(picture) if picture.width * picture.height <= _KEPT_PIXELS else None
        hw = (picture.height, picture.width)
        return cls(sample, name, category_id, boxes, data, picture_extension(data), hw, pixels)

    def picture(self) -> Image.Image | PackedPicture:
        """The decoded picture."""
        return self.pixels if self.pixels is not None else decode_picture(self.data)


@dataclass(frozen=True, slots=True)
class BadPicture:
    """A sample that is quarantined."""

    sample: int
    name: str
    reason: str


def load_originals(
    entries: list[SourceEntry], root: Place, max_side: int | None, clock: StageClock, pool: Executor
) -> Iterator[LoadedPicture | BadPicture]:
    """Read and decode the raw pictures of a shard, in order; larger ones than `max_side` are shrunk to it."""

    def load(numbered: tuple[int, SourceEntry]) -> LoadedPicture | BadPicture:
        sample, entry = numbered
        try:
            with clock("read"):
                data = read_entry(root, entry)
            with clock("decode"):
                # Before decoding, since it says of a file what it is instead of a picture.
                picture_extension(data)
                picture = decode_picture(data)
                _require_annotated_size(entry, picture)
                if max_side and max(picture.size) > max_side:
                    data = shrunk(picture, max_side)
                    picture = decode_picture(data)
        except PictureError as error:
            return BadPicture(sample, entry.name, str(error))
        return LoadedPicture.of(sample, entry.name, entry.category_id, entry.boxes, data, picture)

    return ordered_map(pool, load, list(enumerate(entries)), ahead=BLOCK_SAMPLES)


def load_cached(
    shard: PictureShard, boxes: dict[int, PictureBoxes | None], root: Place | None, clock: StageClock, pool: Executor
) -> Iterator[LoadedPicture]:
    """Read and decode the pictures of a finished shard, in order; their boxes, where needed, are given by sample.

    Raises:
        CorruptCacheError: its index or a picture isn't what was written.
    """
    rows = shard.rows(shard.read_receipt().summary.index)

    def load(number: int) -> LoadedPicture:
        with clock("read"):
            (stored,) = shard.pictures(rows[number : number + 1], root=root)
        sample = int(stored.row["sample"])
        with clock("decode"):
            picture = decode_picture(stored.data)
        return LoadedPicture.of(
            sample, stored.row["name"], int(stored.row["category_id"]), boxes.get(sample), stored.data, picture
        )

    return ordered_map(pool, load, range(len(rows)), ahead=BLOCK_SAMPLES)


def _require_annotated_size(entry: SourceEntry, picture: Image.Image) -> None:
    annotated_hw = entry.boxes.hw if entry.boxes is not None else None
    if annotated_hw not in (None, (picture.height, picture.width)):
        height, width = annotated_hw
        raise PictureError(
            f"is {picture.height} high and {picture.width} wide, its annotations say {height} and {width}; boxes hold "
            "for pictures of the annotated size, upright as EXIF has it"
        )


def shrunk(picture: Image.Image, max_side: int) -> bytes:
    """The picture as a JPEG whose longer side is `max_side`."""
    ratio = max_side / max(picture.size)
    size = (max(round(picture.width * ratio), 1), max(round(picture.height * ratio), 1))
    buffer = io.BytesIO()
    picture.resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


class PictureKeeper:
    """Writes the good pictures of a shard as they pass by, and sets the bad ones aside."""

    def __init__(self, shard: PictureShard, plan: Plan, entries: list[SourceEntry], progress: Progress) -> None:
        self._shard = shard
        self._plan = plan
        self._entries = entries
        self._progress = progress
        self._rows: list[tuple] = []
        self._bad: list[BadPicture] = []

    def keep(
        self, loaded: Iterable[LoadedPicture | BadPicture], writer: ShardWriter, clock: StageClock
    ) -> Iterator[LoadedPicture]:
        """Yield the good ones, each after it was written."""
        for item in loaded:
            if isinstance(item, BadPicture):
                self._bad.append(item)
                self._progress.quarantined += 1
                self._progress.samples += 1
                continue
            with clock("write"):
                self._write(item, writer)
            yield item

    def _write(self, picture: LoadedPicture, writer: ShardWriter) -> None:
        key, entry = sample_key(self._shard.number, picture.sample), self._entries[picture.sample]
        sidecar: dict[str, Any] = {
            "name": picture.name,
            "category_id": picture.category_id,
            "category": self._plan.vocabulary.class_names[picture.category_id],
            "height": picture.hw[0],
            "width": picture.hw[1],
            "sha256": hash_bytes(picture.data).sha256,
            **annotated_fields(entry),
        }
        copied = {picture.extension: picture.data} if self._plan.pictures == "copy" else {}
        if not copied:
            sidecar["original"] = entry.original.to_json()
        json_data = canonical_json(sidecar)
        offsets = writer.add(key, {"json": json_data, **copied})
        offset = offsets.get(picture.extension, -1)
        self._rows.append(
            (
                key, picture.sample, picture.category_id, picture.name, picture.extension, *picture.hw,
                offset, len(picture.data), offsets["json"], len(json_data),
            )
        )  # fmt: skip

    def finish(self, writer: ShardWriter, clock: StageClock) -> ShardSummary:
        """Make the shard visible: tar, index, quarantine, receipt."""
        rows = np.array(self._rows, PICTURE_ROW)
        summary = writer.finish(rows, samples=len(rows), quarantined=len(self._bad))
        PicturesReceipt(
            plan_fingerprint=self._plan.fingerprint,
            summary=summary,
            quarantine=self._write_quarantine(),
            seconds={stage: seconds for stage, seconds in clock.rounded().items() if stage in {"read", "decode"}},
        ).write(self._shard.receipt)
        return summary

    def _write_quarantine(self) -> FileHash | None:
        if not self._bad:
            self._shard.quarantine.unlink(missing_ok=True)
            return None
        with hashed_file(self._shard.quarantine) as file:
            for item in self._bad:
                key = sample_key(self._shard.number, item.sample)
                file.write_line({"key": key, "sample": item.sample, "name": item.name, "reason": item.reason})
        return file.hash()


def annotated_fields(entry: SourceEntry) -> dict[str, Any]:
    """Fields of KEY.json beside the class: `boxes` with `boxes_hw`, and `caption`; where the source has them."""
    fields: dict[str, Any] = {} if entry.caption is None else {"caption": entry.caption}
    if entry.boxes is not None:
        fields["boxes"] = [
            # The shortest spelling that gives the same float32 back.
            [*(float(str(number)) for number in box_xyxy), int(row)]
            for box_xyxy, row in zip(entry.boxes.boxes_xyxy, entry.boxes.rows, strict=True)
        ]
        fields["boxes_hw"] = entry.boxes.hw
    return fields
