"""The names and boxes of a detection cache's pictures, from the listing of its plan: no shard is opened for them."""

import io
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from richsem_schemas.cache.layout import CacheLayout
from richsem_schemas.cache.manifest import Plan
from richsem_schemas.cache.permutation import permuted
from richsem_schemas.cache.view_batch import BoxRows
from richsem_schemas.errors import CorruptCacheError, RichSemError
from richsem_schemas.io.files import FileHash, hash_file, open_regular
from richsem_schemas.io.places import Place, RemotePath

BOX_COLUMNS = pa.schema(
    [
        ("boxes_xyxy", pa.list_(pa.float32())),
        ("rows", pa.list_(pa.int32())),
        ("boxes_height", pa.int32()),
        ("boxes_width", pa.int32()),
    ]
)
"""Of a listing whose source has boxes: 4 numbers and a row a box, and the annotated size, empty where boxes are
fractions."""

_READ_COLUMNS = pa.schema([("file", pa.binary()), *BOX_COLUMNS])


@dataclass(frozen=True, eq=False)
class ListedBoxes:
    """N listed pictures and their M boxes, in the order of the source.

    Attributes:
        files: N paths relative to the source's root, as the file system's bytes.
        offsets: int64 [N + 1]; picture i owns the boxes from `offsets[i]` up to `offsets[i + 1]`.
        boxes_xyxy: float32 [M, 4], as annotated: pixels, or fractions of the sides where `hws_px` is 0.
        rows: int32 [M], of the plan's vocabulary.
        hws_px: int32 [N, 2], heights and widths as annotated; 0 where boxes are fractions.
        positions: int64 [N], where the plan puts each picture, counted over all shards; -1 where it leaves it out.
    """

    files: pa.ChunkedArray
    offsets: NDArray[np.int64]
    boxes_xyxy: NDArray[np.float32]
    rows: NDArray[np.int32]
    hws_px: NDArray[np.int32]
    positions: NDArray[np.int64]


def read_listed_boxes(layout: CacheLayout, plan: Plan) -> ListedBoxes:
    """Read the boxes of all pictures that a plan lists; memory is that of the arrays.

    Raises:
        RichSemError: the cache is of a source without boxes.
        CorruptCacheError: the listing is not the one that the plan was made from.
    """
    require_planned_listing(layout.listing, hash_file(layout.listing), plan.listing)
    try:
        with _opened(layout.listing) as file, pa.ipc.open_file(pa.PythonFile(file, "r")) as reader:
            _require_boxes(reader.schema, layout)
            table = reader.read_all().select(_READ_COLUMNS.names)
    except pa.ArrowException as error:
        raise CorruptCacheError(f"{layout.listing}: not a readable listing ({error})") from None
    if len(table) != plan.listed or table["rows"].null_count:
        raise CorruptCacheError(f"{layout.listing}: not the listing of {plan.listed} pictures with their boxes")
    offsets = _offsets(table["rows"])
    boxes_xyxy = _flat(table["boxes_xyxy"], np.float32)
    if not np.array_equal(_offsets(table["boxes_xyxy"]), 4 * offsets):
        raise CorruptCacheError(f"{layout.listing}: not four numbers and a row a box")
    sizes = [table[name].fill_null(0).to_numpy() for name in ("boxes_height", "boxes_width")]
    return ListedBoxes(
        table["file"],
        offsets,
        boxes_xyxy.reshape(-1, 4),
        _flat(table["rows"], np.int32),
        np.stack(sizes, axis=1).astype(np.int32),
        _positions(plan),
    )


def read_box_rows(layout: CacheLayout, plan: Plan) -> BoxRows:
    """Read the classes alone of the boxes of all pictures that a plan lists, in the order of the source.

    A batch of the listing is in memory at a time; whether the listing is intact is left to the caller.

    Raises:
        RichSemError: the cache is of a source without boxes.
        CorruptCacheError: it is no such listing.
    """
    counts, rows = [np.zeros(1, np.int64)], [np.zeros(0, np.int32)]
    try:
        with _opened(layout.listing) as file, pa.ipc.open_file(pa.PythonFile(file, "r")) as reader:
            _require_boxes(reader.schema, layout)
            for number in range(reader.num_record_batches):
                column = reader.get_batch(number)["rows"]
                counts.append(pc.list_value_length(column).fill_null(0).to_numpy())
                # Copied, since a view keeps the whole batch.
                rows.append(np.array(column.flatten().to_numpy(zero_copy_only=False), np.int32))
    except pa.ArrowException as error:
        raise CorruptCacheError(f"{layout.listing}: not a readable listing ({error})") from None
    offsets = np.concatenate(counts).cumsum(dtype=np.int64)
    if len(offsets) != plan.listed + 1:
        raise CorruptCacheError(f"{layout.listing}: not the listing of {plan.listed} pictures with their boxes")
    return BoxRows(offsets, np.concatenate(rows))


def boxes_of_samples(listed: BoxRows, plan: Plan, shard: int, samples: NDArray[np.integer]) -> BoxRows:
    """The boxes of some samples of a shard, in their order, from those of the whole listing."""
    positions = shard * plan.samples_per_shard + samples.astype(np.int64)
    pictures = permuted(positions, size=plan.listed, seed=plan.seed)
    counts = np.diff(listed.offsets)[pictures]
    offsets = np.concatenate([np.zeros(1, np.int64), counts.cumsum()])
    first_box = np.repeat(listed.offsets[pictures] - offsets[:-1], counts)
    return BoxRows(offsets, listed.rows[first_box + np.arange(len(first_box))])


def _opened(listing: Place) -> BinaryIO:
    return io.BytesIO(listing.read_bytes()) if isinstance(listing, RemotePath) else open_regular(listing)


def _positions(plan: Plan) -> NDArray[np.int64]:
    positions = np.full(plan.listed, -1, np.int64)
    order = np.arange(plan.samples)
    positions[permuted(order, size=plan.listed, seed=plan.seed)] = order
    return positions


def _require_boxes(schema: pa.Schema, layout: CacheLayout) -> None:
    if "rows" not in schema.names:
        raise RichSemError(
            f"{layout.out} is no detection cache: its listing has no boxes; make one of the detection data with "
            "`richsem-prep shard --dataset lvis --windows K` (or coco, ...)"
        )
    wrong = [each.name for each in _READ_COLUMNS if each.name not in schema.names or schema.field(each.name) != each]
    if wrong:
        raise CorruptCacheError(
            f"{layout.listing}: its columns {', '.join(wrong)} are not those of a version 1 listing"
        )


def require_planned_listing(path: Place, found: FileHash | None, planned: FileHash) -> None:
    """Check a listing before it is read: Arrow trusts what it reads, so damage would read as anything at all.

    Raises:
        CorruptCacheError: it is missing, or another than the plan was made from.
    """
    if found != planned:
        raise CorruptCacheError(
            f"{path}: not the listing that the plan was made from; restore it, or begin anew with --overwrite"
        )


def _offsets(column: pa.ChunkedArray) -> NDArray[np.int64]:
    lengths = [pc.list_value_length(chunk).to_numpy(zero_copy_only=False) for chunk in column.chunks]
    return np.concatenate([np.zeros(1, np.int64), *lengths]).astype(np.int64).cumsum()


def _flat(column: pa.ChunkedArray, dtype: type[np.generic]) -> NDArray:
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    return np.concatenate([np.zeros(0, dtype), *chunks]).astype(dtype, copy=False)
