"""Detections on their way from the ranks to the score: a file a rank, merged once.

A file is an Arrow IPC stream, a row a picture, so that a picture without detections is told from one never seen.
"""

from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from richsem_schemas.errors import RichSemError
from richsem_schemas.io.files import hashed_file
from richsem_schemas.scoring.detections import Detections, PictureDetections, join_pictures

_SCHEMA = pa.schema(
    [
        ("image_id", pa.int64()),
        ("category_ids", pa.list_(pa.int32())),
        ("boxes_xywh_px", pa.list_(pa.list_(pa.float32(), 4))),
        ("scores", pa.list_(pa.float32())),
    ]
)
_PICTURES_A_WRITE = 64
_NAMED = 5
"""Pictures that an error message names; it counts the others."""


def rank_file(folder: Path, rank: int) -> Path:
    """Where a rank's detections go."""
    return folder / f"detections-{rank:05d}.arrow"


def write_detections(path: Path, pictures: Iterable[tuple[int, PictureDetections]]) -> None:
    """Write pictures as they come, also those in which nothing was found, into a file that gets its name when whole.

    Raises:
        FullDiskError: there is no space for it.
    """
    pending = iter(pictures)
    with hashed_file(path) as file, pa.ipc.new_stream(file, _SCHEMA) as stream:
        while batch := list(islice(pending, _PICTURES_A_WRITE)):
            stream.write_batch(_record_batch(batch))


def merge_detections(paths: Iterable[Path], image_ids: Collection[int]) -> Detections:
    """Join the files of all ranks, each picture once, in ascending order of image ids.

    A sampler that pads its last batch shows some pictures to two ranks: of a picture in several files (or twice in
    one) the first is kept, whole.

    Args:
        paths: the files of all ranks, each finished.
        image_ids: all pictures that must have been looked at.

    Raises:
        RichSemError: a file is missing or cut short, pictures are missing, or there are pictures nobody asked for.
    """
    tables = [_read(path) for path in paths]
    seen = np.concatenate([table["image_id"].to_numpy() for table in tables] or [np.zeros(0, np.int64)])
    unique, first = np.unique(seen, return_index=True)
    _check_complete(unique, np.asarray(sorted(image_ids), dtype=np.int64))
    table = pa.concat_tables([_SCHEMA.empty_table(), *tables]).take(first)
    return Detections(
        image_ids=np.repeat(unique, pc.list_value_length(table["scores"]).to_numpy()),
        category_ids=pc.list_flatten(table["category_ids"]).to_numpy().astype(np.int64),
        boxes_xywh_px=pc.list_flatten(table["boxes_xywh_px"], recursive=True).to_numpy().reshape(-1, 4),
        scores=pc.list_flatten(table["scores"]).to_numpy(),
    )


def _record_batch(pictures: Sequence[tuple[int, PictureDetections]]) -> pa.RecordBatch:
    """One row a picture."""
    joined = join_pictures(pictures)
    offsets = pa.array(np.cumsum([0] + [len(found) for _, found in pictures]), pa.int32())
    values = [
        pa.array(joined.category_ids, pa.int32()),
        pa.FixedSizeListArray.from_arrays(pa.array(joined.boxes_xywh_px.ravel(), pa.float32()), 4),
        pa.array(joined.scores, pa.float32()),
    ]
    image_ids = pa.array([image for image, _ in pictures], pa.int64())
    lists = [pa.ListArray.from_arrays(offsets, each) for each in values]
    return pa.RecordBatch.from_arrays([image_ids, *lists], schema=_SCHEMA)


def _read(path: Path) -> pa.Table:
    try:
        with pa.OSFile(str(path), "rb") as file, pa.ipc.open_stream(file) as stream:
            table = stream.read_all()
    except FileNotFoundError:
        raise RichSemError(
            f"{path}: no such file; its rank didn't finish its part of the evaluation: see its log"
        ) from None
    except (OSError, pa.ArrowInvalid) as error:
        raise RichSemError(f"{path}: can't be read as detections ({error}); evaluate again") from None
    if table.schema != _SCHEMA:
        raise RichSemError(f"{path}: has fields {table.schema.names}, not {_SCHEMA.names}; evaluate again")
    return table


def _check_complete(found: NDArray[np.int64], wanted: NDArray[np.int64]) -> None:
    missing = np.setdiff1d(wanted, found)
    if len(missing):
        raise RichSemError(
            f"{_listed(missing)} of {len(wanted):,} pictures were never evaluated; "
            "the score would be of another set: see the ranks' logs, then evaluate again"
        )
    unknown = np.setdiff1d(found, wanted)
    if len(unknown):
        raise RichSemError(
            f"{_listed(unknown)} evaluated pictures are not in the annotations; "
            "were the files written by an evaluation of another set? Delete them and evaluate again"
        )


def _listed(image_ids: NDArray[np.int64]) -> str:
    names = ", ".join(str(image_id) for image_id in image_ids[:_NAMED])
    return f"{len(image_ids):,} (image ids {names}{', ...' if len(image_ids) > _NAMED else ''})"
