"""All views of a shard as arrays of records, those of one shape side by side: the fast way to work on many."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.cache.codec import RecordLayout, embeddings_of, unpack_alike
from richsem_schemas.cache.index import Rows, view_names
from richsem_schemas.cache.manifest import LabelSpec, LabelsReceipt
from richsem_schemas.errors import CorruptCacheError


@dataclass(frozen=True, eq=False)
class AlikeViews:
    """Views of one shard that have equally many tiles and regions.

    Attributes:
        numbers: int64 [V], their rows in the shard's index.
        records: [V] of `RecordLayout.record_dtype`.
    """

    numbers: NDArray[np.int64]
    records: NDArray[np.void]

    @property
    def tiles(self) -> int:
        """Tiles of each view."""
        return int(self.records["tiles"].shape[1])

    @property
    def regions(self) -> int:
        """Regions of each view."""
        return int(self.records["regions"].shape[1])

    def embeddings(self) -> NDArray[np.float32]:
        """[V x R, D] embeddings of all regions, view by view; there must be some."""
        embeddings_VRD = embeddings_of(self.records["regions"])
        assert embeddings_VRD is not None
        return embeddings_VRD.reshape(-1, embeddings_VRD.shape[-1])

    def parts(self, regions: int) -> Iterator["AlikeViews"]:
        """The same views in pieces of about so many regions."""
        views = max(regions // max(self.regions, 1), 1)
        for start in range(0, len(self.numbers), views):
            part = slice(start, start + views)
            yield AlikeViews(self.numbers[part], self.records[part])


@dataclass(frozen=True, eq=False)
class ShardViews:
    """A shard of labels in memory, its bytes compared with their hashes."""

    spec: LabelSpec
    receipt: LabelsReceipt
    rows: Rows
    groups: list[AlikeViews]

    def regions(self) -> NDArray[np.void]:
        """[R] regions of all views, in the order of the index."""
        counts = self.rows["regions"].astype(np.int64)
        starts = np.cumsum(counts) - counts
        regions: NDArray[np.void] = np.empty(int(counts.sum()), self.spec.record_layout.region_dtype())
        for group in self.groups:
            regions[starts[group.numbers][:, None] + np.arange(group.regions)] = group.records["regions"]
        return regions


def alike_views(tar: bytes, rows: Rows, layout: RecordLayout) -> Iterator[AlikeViews]:
    """The views of a shard by shape.

    Raises:
        CorruptCacheError: they aren't the views that index and layout describe.
    """
    is_outside = rows["offset"] + rows["size"] > len(tar)
    if is_outside.any():
        raise CorruptCacheError(f"{view_names(rows[is_outside][:1])[0]} lies outside of it")
    shapes, group_of = np.unique(np.stack([rows["size"], rows["tiles"], rows["regions"]]), axis=1, return_inverse=True)
    for group, (size, tiles, regions) in enumerate(shapes.T.tolist()):
        numbers_V = np.flatnonzero(group_of.reshape(-1) == group)
        members = b"".join(tar[offset : offset + size] for offset in rows["offset"][numbers_V].tolist())
        is_alike_V, records_V = unpack_alike(np.frombuffer(members, np.uint8).reshape(len(numbers_V), size))
        if not is_alike_V.all() or records_V.dtype != layout.record_dtype(tiles, regions):
            key = rows["key"][numbers_V[0]]
            raise CorruptCacheError(f"{key} and others are not the views that index and spec describe")
        yield AlikeViews(numbers_V, records_V)
