"""One packed record a view: a structured `.npy` array that plain NumPy and plain `webdataset` read.

The record of a view with T tiles and R regions, all fields little-endian, in descending item size, no padding but at
the end of each region, every part a multiple of 8 bytes:

    canvas_hw [2] i4 | tiles [T] of TILE_DTYPE | regions [R] of:
        box_xyxy_px [4] f4 | tile i4 | category_id i4 | annotation i4 | noise_scale f4 | scale f4 (int8 only) |
        log_rest f4 | class_ids [K] i4 | log_probs [K] f2 | embedding [D] f2 or i1 | pad
"""

import functools
import io
import tokenize
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.cache.field_types import Embeddings
from richsem_schemas.cache.soft_labels import TopKSoftLabels
from richsem_schemas.cache.view import REGION_DTYPE, TILE_DTYPE, View, parse_member
from richsem_schemas.errors import CorruptCacheError

MAX_TILES = 64
MAX_HEADER_BYTES = 8192
_ALIGNMENT = 8


@dataclass(frozen=True)
class RecordLayout:
    """The fields of a region's record beside its geometry.

    Attributes:
        embeddings: storage of the unit-norm region embedding; `int8` has a scale of its own a vector.
        dim: width D of the embedding.
        top_k: classes K kept in the soft label.
    """

    embeddings: Embeddings
    dim: int
    top_k: int

    def region_dtype(self) -> np.dtype[np.void]:
        """Fields of one region, a multiple of 8 bytes."""
        fields: list[tuple] = list(REGION_DTYPE.descr)
        if self.embeddings == "int8":
            fields.append(("scale", "<f4"))
        fields += [("log_rest", "<f4"), ("class_ids", "<i4", (self.top_k,)), ("log_probs", "<f2", (self.top_k,))]
        if self.embeddings != "none":
            fields.append(("embedding", "<f2" if self.embeddings == "float16" else "|i1", (self.dim,)))
        if surplus := np.dtype(fields).itemsize % _ALIGNMENT:
            fields.append(("pad", "|u1", (_ALIGNMENT - surplus,)))
        return np.dtype(fields)

    def record_dtype(self, tiles: int, regions: int) -> np.dtype[np.void]:
        """The whole record of a view."""
        return _record_dtype(self, tiles, regions)


@functools.lru_cache(maxsize=4096)
def _record_dtype(layout: RecordLayout, tiles: int, regions: int) -> np.dtype[np.void]:
    return np.dtype(
        [
            ("canvas_hw", "<i4", (2,)),
            ("tiles", TILE_DTYPE, (tiles,)),
            ("regions", layout.region_dtype(), (regions,)),
        ]
    )


def stored_embeddings(features_RD: NDArray[np.floating], embeddings: Embeddings) -> NDArray[np.float32]:
    """The embeddings as a reader of the cache will see them, after rounding.

    Soft labels are computed from these, so that they can be regenerated from the cache exactly. Where no embedding is
    stored, the label is that of the float16 one.
    """
    if embeddings == "int8":
        codes, scale = _quantise(features_RD)
        return codes.astype(np.float32) * scale[:, None]
    return features_RD.astype(np.float16).astype(np.float32)


def _quantise(features_RD: NDArray[np.floating]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    wide = features_RD.astype(np.float64)
    scale = (np.abs(wide).max(axis=1, initial=0.0) / 127).astype(np.float32)
    codes = np.rint(wide / np.maximum(scale, np.finfo(np.float32).tiny)[:, None].astype(np.float64))
    return np.clip(codes, -127, 127).astype(np.int8), scale


def pack_view(view: View, features_RD: NDArray[np.floating], labels: TopKSoftLabels, layout: RecordLayout) -> bytes:
    """Serialise a view with the labels of its regions.

    Args:
        view: T tiles, R regions.
        features_RD: [R, D] unit-norm embeddings; ignored where the layout stores none.
        labels: soft labels of the R regions, K as in the layout.
        layout: what to store.

    Returns:
        A `.npy` file of shape (), one record.
    """
    dtype = layout.record_dtype(len(view.tiles), len(view.regions))
    record = np.zeros((), dtype)
    record["canvas_hw"] = view.canvas_hw
    record["tiles"] = view.tiles
    regions = record["regions"]
    for name in REGION_DTYPE.names or ():
        regions[name] = view.regions[name]
    regions["class_ids"] = labels.class_ids
    regions["log_probs"] = labels.log_probs
    regions["log_rest"] = labels.log_rest
    if layout.embeddings == "int8":
        regions["embedding"], regions["scale"] = _quantise(features_RD)
    elif layout.embeddings == "float16":
        regions["embedding"] = features_RD
    return npy_header(dtype) + record.tobytes()


@functools.lru_cache(maxsize=4096)
def npy_header(dtype: np.dtype[np.void]) -> bytes:
    """The `.npy` header that stands before a record in its member."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": ()}
    )
    return buffer.getvalue()


@dataclass(frozen=True, eq=False)
class LabelledView:
    """A view as it stands in a label shard.

    Attributes:
        view: the recipe; its regions hold the stored geometry only.
        labels: soft labels of the R regions.
        embeddings: [R, D] float32, or None where the cache stores none.
    """

    view: View
    labels: TopKSoftLabels
    embeddings: NDArray[np.float32] | None

    def only(self, kept_R: NDArray[np.bool_]) -> "LabelledView":
        """The view with some of its regions, as a mask says."""
        embeddings = None if self.embeddings is None else self.embeddings[kept_R]
        view = replace(self.view, regions=self.view.regions[kept_R])
        return LabelledView(view, self.labels[kept_R], embeddings)


def unpack_view(data: bytes | memoryview, member: str) -> LabelledView:
    """Read the view of a member such as `mosaic-3.npy`; headers are parsed once each, records never copied twice.

    Raises:
        CorruptCacheError: the bytes are not such a record.
    """
    try:
        kind, pass_index = parse_member(member)
        dtype, start = _parse_header(bytes(data[:MAX_HEADER_BYTES]))
        if len(data) != start + dtype.itemsize:
            raise ValueError(f"it has {len(data)} bytes, its header promises {start + dtype.itemsize}")
        record = np.frombuffer(data, dtype, count=1, offset=start)[0]
        regions = record["regions"]
        geometry = np.empty(len(regions), REGION_DTYPE)
        for name in REGION_DTYPE.names or ():
            geometry[name] = regions[name]
        view = View(
            kind, pass_index, (int(record["canvas_hw"][0]), int(record["canvas_hw"][1])), record["tiles"], geometry
        )
        labels = TopKSoftLabels.of_regions(regions)
        return LabelledView(view, labels, embeddings_of(regions))
    except _UNPACKING_ERRORS as error:
        raise CorruptCacheError(f"{member}: not a packed view ({error})") from None


def unpack_alike(members_VB: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], NDArray[np.void]]:
    """Read many views of one size in bytes at once.

    Args:
        members_VB: [V, B] the bytes of V >= 1 members.

    Returns:
        [V] which members begin with the header of the first, and the records of those, of `RecordLayout.record_dtype`.

    Raises:
        CorruptCacheError: the first one is not such a record.
    """
    try:
        dtype, start = _parse_header(members_VB[0, :MAX_HEADER_BYTES].tobytes())
        if members_VB.shape[1] != start + dtype.itemsize:
            raise ValueError(f"it has {members_VB.shape[1]} bytes, its header promises {start + dtype.itemsize}")
    except _UNPACKING_ERRORS as error:
        raise CorruptCacheError(f"not a packed view ({error})") from None
    is_alike_V = (members_VB[:, :start] == members_VB[0, :start]).all(axis=1)
    alike_VB = members_VB if is_alike_V.all() else members_VB[is_alike_V]
    return is_alike_V, alike_VB[:, start:].view(dtype)[:, 0]


_UNPACKING_ERRORS = (
    ValueError,
    LookupError,
    TypeError,
    SyntaxError,
    RecursionError,
    MemoryError,
    tokenize.TokenError,
)
"""NumPy raises these on a header that is none."""


def embeddings_of(regions: NDArray[np.void]) -> NDArray[np.float32] | None:
    """[..., D] embeddings of unpacked regions, int8 ones scaled; None where none are stored."""
    names = regions.dtype.names or ()
    if "embedding" not in names:
        return None
    wide = regions["embedding"].astype(np.float32)
    return wide * regions["scale"][..., None] if "scale" in names else wide


def _parse_header(head: bytes) -> tuple[np.dtype[np.void], int]:
    if head[:8] != b"\x93NUMPY\x01\x00":
        raise ValueError("it doesn't begin as a version 1.0 .npy file")
    return _parse_header_cached(head[: 10 + int.from_bytes(head[8:10], "little")])


@functools.lru_cache(maxsize=4096)
def _parse_header_cached(header: bytes) -> tuple[np.dtype[np.void], int]:
    buffer = io.BytesIO(header[8:])
    shape, _, dtype = np.lib.format.read_array_header_1_0(buffer, max_header_size=MAX_HEADER_BYTES)
    if dtype.hasobject or shape != () or dtype.names != ("canvas_hw", "tiles", "regions"):
        raise ValueError("its fields are not those of a view")
    if dtype["canvas_hw"] != np.dtype(("<i4", (2,))) or dtype["tiles"].base != TILE_DTYPE:
        raise ValueError("its canvas or tiles are not those of a view")
    if dtype["tiles"].ndim != 1 or dtype["regions"].ndim != 1 or dtype["tiles"].shape[0] > MAX_TILES:
        raise ValueError("its tiles or regions are not lists")
    _check_region_dtype(dtype["regions"].base)
    return dtype, len(header)


def _check_region_dtype(found: np.dtype) -> None:
    names = found.names or ()
    if "embedding" in names:
        kind: Embeddings = "int8" if "scale" in names else "float16"
        dim = int(found["embedding"].shape[0])
    else:
        kind, dim = "none", 0
    expected = RecordLayout(kind, dim, int(found["class_ids"].shape[0])).region_dtype()
    if found != expected:
        raise ValueError("its regions are not those of a view")
