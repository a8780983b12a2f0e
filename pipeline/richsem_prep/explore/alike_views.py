"""A whole shard of labels at once: views of one layout side by side, as arrays of records."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.cache.codec import RecordLayout, embeddings_of, unpack_alike
from richsem_schemas.cache.index import ViewRow
from richsem_schemas.cache.layout import LabelSetLayout
from richsem_schemas.cache.manifest import LabelSpec, LabelsReceipt
from richsem_schemas.cache.reader import view_rows
from richsem_schemas.errors import CorruptCacheError
from richsem_schemas.io.files import FileHash, hash_bytes, read_file


@dataclass(frozen=True, eq=False)
class AlikeViews:
    """Views of one shard that have equally many tiles and regions.

    Attributes:
        numbers: [V] their rows in the shard's index.
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
class ShardOfViews:
    """A shard of labels in memory, its bytes compared with their hashes.

    Attributes:
        spec: of its label set.
        receipt: of the shard.
        rows: its index.
        groups: its views.
    """

    spec: LabelSpec
    receipt: LabelsReceipt
    rows: list[ViewRow]
    groups: list[AlikeViews]

    def regions(self) -> NDArray[np.void]:
        """[R] regions of all views, in the order of the index."""
        counts = np.array([row.regions for row in self.rows], np.int64)
        starts = np.cumsum(counts) - counts
        regions: NDArray[np.void] = np.empty(int(counts.sum()), self.spec.record_layout.region_dtype())
        for group in self.groups:
            regions[starts[group.numbers][:, None] + np.arange(group.regions)] = group.records["regions"]
        return regions


def read_shard_of_views(labels: LabelSetLayout, shard: int, spec: LabelSpec) -> ShardOfViews:
    """Read one shard of labels, whole.

    Args:
        labels: the label set.
        shard: number of the shard.
        spec: of the set.

    Raises:
        CorruptCacheError: a file is missing, changed, or not what the index says.
    """
    tar, index = labels.tar(shard), labels.index(shard)
    try:
        receipt = LabelsReceipt.read(labels.receipt(shard))
        _require_intact(labels, read_file(index), receipt.summary.index, str(index))
        data = read_file(tar)
    except FileNotFoundError as error:
        raise CorruptCacheError(f"{error.filename} is missing; {_remedy(labels)}") from None
    _require_intact(labels, data, receipt.summary.tar, str(tar))
    if receipt.spec_fingerprint != spec.fingerprint:
        raise CorruptCacheError(f"{labels.receipt(shard)} belongs to another spec; {_remedy(labels)}")
    rows = view_rows(labels.cache, labels.name, shard)
    try:
        return ShardOfViews(spec, receipt, rows, list(_groups(data, rows, spec.record_layout)))
    except CorruptCacheError as error:
        raise CorruptCacheError(f"{tar}: {error}; {_remedy(labels)}") from None


def _groups(data: bytes, rows: Sequence[ViewRow], layout: RecordLayout) -> Iterator[AlikeViews]:
    numbers: dict[tuple[int, int, int], list[int]] = {}
    for number, row in enumerate(rows):
        if not 0 <= row.offset <= row.offset + row.size <= len(data):
            raise CorruptCacheError(f"{row.key}.{row.member} lies outside of it")
        numbers.setdefault((row.size, row.tiles, row.regions), []).append(number)
    for (size, tiles, regions), found in numbers.items():
        members = b"".join(data[rows[number].offset : rows[number].offset + size] for number in found)
        is_alike_V, records = unpack_alike(np.frombuffer(members, np.uint8).reshape(len(found), size))
        if not is_alike_V.all() or records.dtype != layout.record_dtype(tiles, regions):
            raise CorruptCacheError(f"{rows[found[0]].key} and others are not the views that index and spec describe")
        yield AlikeViews(np.array(found), records)


def _require_intact(labels: LabelSetLayout, data: bytes, expected: FileHash, path: str) -> None:
    if hash_bytes(data) != expected:
        raise CorruptCacheError(f"{path}: its bytes don't match its receipt; {_remedy(labels)}")


def _remedy(labels: LabelSetLayout) -> str:
    return f"run `richsem-prep verify {labels.cache.out} --label-set {labels.name}`, which says what to do"
